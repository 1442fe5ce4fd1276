"""Bars for venues that fill from bars (paper): read sealed from the database, in order, once; the bus only wakes.

While a tape is played by the written rule (G6), a bar is fed only when every decision on earlier bars was made and what
it filled has settled: the venue then sees decisions and bars in the one order that the backtest has them in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Protocol, runtime_checkable

from fks.clock.waiting import wait_for_event
from fks.model.account import Account
from fks.model.bar import Bar
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.order import LIVE, Fill, Order, State
from fks.model.ports import Venue
from fks.model.signal import Signal
from fks.model.timeframe import TIMEFRAMES, bar_start
from fks.order_manager.context import OrderManagerContext
from fks.order_manager.position_workers import PositionWorkers
from fks.order_manager.trailing import TrailingStops
from fks.orders.messages import PositionKey
from fks.store.facts import FactStore, InstanceFacts

_POLL_S = 1.0
_SETTLE_S = 5.0
_SETTLE_POLL_S = 0.002
_BATCH = 500
_ZERO = Decimal(0)
Feed = tuple[str, str, str]  # exchange, symbol, timeframe


@runtime_checkable
class FedVenue(Protocol):
    """A venue without a market and a memory of its own: it is fed bars and rebuilt from the journal."""

    name: str

    def learn(self, instruments: Iterable[Instrument]) -> None: ...
    def restore(
        self,
        orders: Iterable[Order],
        fills: Iterable[Fill],
        balances: Mapping[str, Decimal],
        decided: Mapping[str, int] | None = None,
    ) -> None: ...
    def on_bar(self, bar: Bar) -> None: ...


class BarFeed:
    """Feeds one venue. Soft state: how far each feed was fed."""

    def __init__(
        self,
        context: OrderManagerContext,
        venue: Venue,
        workers: PositionWorkers,
        facts: FactStore,
        trailing: TrailingStops,
    ) -> None:
        assert isinstance(venue, FedVenue)
        self._fed: FedVenue = venue
        self._venue = venue
        self._cache, self._clock, self._log = context.cache, context.clock, context.log
        self._workers, self._facts, self._trailing = workers, facts, trailing
        settings = context.settings
        self._is_strict = settings.sim.fills == "tape"
        self._timeframes = [name for name in TIMEFRAMES if name in settings.data.timeframes]
        self._cursors: dict[Feed, int] = {}
        self._oldest: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()

    def learn(self) -> None:
        """Give the venue the instruments known now: a fresh system learns of its own after its start."""
        self._fed.learn(self._cache.instruments.values())

    # ── start ────────────────────────────────────────────────────────────────────────────────────
    async def restore(self, account: Account | None) -> None:
        """Give the venue back what the journal says it holds and what rests there."""
        self._fed.learn(self._cache.instruments.values())
        live = [o for o in self._cache.orders.values() if o.venue == self._fed.name and o.state in LIVE]
        decided = await self._facts.decisions(self._fed.name)
        self._fed.restore(live, (), await self._totals(account), decided)
        self._oldest = await self._facts.oldest_decisions(self._fed.name)

    async def _totals(self, account: Account | None) -> dict[str, Decimal]:
        if account is None:
            return {}
        totals = {account.currency: account.initial_balance}

        def add(currency: str, amount: Decimal) -> None:
            totals[currency] = totals.get(currency, _ZERO) + amount

        by_symbol = {instrument.symbol: instrument for instrument in self._cache.instruments.values()}
        for row in await self._facts.turnover(account.id, self._fed.name):
            instrument = by_symbol.get(row.symbol)
            if instrument is None:
                self._log.warning("paper.no_instrument", symbol=row.symbol)
                continue
            sign = 1 if row.is_buy else -1
            add(instrument.base, sign * row.quantity)
            add(instrument.quote, -sign * row.value * instrument.multiplier)
            add(row.fee_currency, -row.fee)
        return totals

    # ── feeding ──────────────────────────────────────────────────────────────────────────────────
    def wake(self) -> None:
        """Look for bars now instead of at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Feed for ever; an outage pauses it."""
        while True:
            self._wake.clear()
            try:
                for feed in self._feeds():
                    await self._advance(feed, until_ns=None)
            except OutageError as error:
                self._log.warning("paper.feed_paused", error=str(error))
            await wait_for_event(self._wake, _POLL_S, self._clock)

    async def catch_up(self, signal: Signal) -> None:
        """Feed everything up to the bar that `signal` was decided on: its order must come after it."""
        if signal.timeframe is None or signal.venue != self._fed.name:
            return
        await self._advance((signal.exchange, signal.symbol, signal.timeframe), until_ns=signal.ts_event_ns)

    def _feeds(self) -> list[Feed]:
        name = self._fed.name
        found = {(i.exchange, i.symbol, i.timeframe) for i in self._cache.instances.values() if i.venue == name}
        known = {symbol for _, symbol, _ in found}
        shortest = self._timeframes[0] if self._timeframes else "1m"
        found |= {
            (o.exchange, o.symbol, shortest)
            for o in self._cache.orders.values()
            if o.venue == name and o.symbol not in known
        }
        return sorted(found)

    async def _advance(self, feed: Feed, until_ns: int | None) -> None:
        """Feed what is sealed and may be fed, at most up to the bar that opens at `until_ns`."""
        async with self._lock:
            self._fed.learn(self._cache.instruments.values())  # a fresh system gets its instruments after its start
            if feed not in self._cursors and (first := await self._first(feed)) is not None:
                self._cursors[feed] = first
            while (after := self._cursors.get(feed)) is not None and (until_ns is None or after < until_ns):
                bars = await self._facts.sealed_bars(*feed, after, _BATCH)
                for bar in bars:
                    if until_ns is not None and bar.time_ns > until_ns:
                        return
                    if self._is_strict and not await self._is_due(feed, bar):
                        return
                    await self._give(bar)
                    self._cursors[feed] = bar.time_ns
                    await asyncio.sleep(0)  # a thousand orders against an hour of bars: the loop's beat must go on
                if len(bars) < _BATCH:
                    return

    async def _first(self, feed: Feed) -> int | None:
        """Return the time after which bars count, None while that cannot be said yet.

        It lies before the decision of everything that still rests here; else the last sealed bar is fed, for its price.
        """
        symbol = feed[1]
        sealed_ns = await self._facts.sealed_through(*feed)
        if sealed_ns is None:
            return None
        starts = [sealed_ns]
        if symbol in self._oldest:
            starts.append(self._oldest[symbol])
        if self._is_strict:
            cursors = [instance.cursor_ns for instance in await self._consumers(feed)]
            if not all(cursors):
                return None
            starts.extend(cursor for cursor in cursors if cursor is not None)
            ready_ns = await self._facts.oldest_ready(self._fed.name, symbol)
            starts.extend([ready_ns] if ready_ns is not None else [])
        return min(starts) - 1

    async def _consumers(self, feed: Feed) -> list[InstanceFacts]:
        return [
            instance
            for instance in await self._facts.instances()
            if (instance.exchange, instance.symbol, instance.timeframe) == feed
            and instance.venue == self._fed.name
            and instance.is_enabled
            and instance.state != "CRASHED"
        ]

    async def _is_due(self, feed: Feed, bar: Bar) -> bool:
        """Return whether every decision on bars before this one was made and carried out."""
        before_ns = bar_start(bar.time_ns - 1, bar.timeframe)
        for instance in await self._consumers(feed):
            if instance.cursor_ns is None or instance.cursor_ns < before_ns:
                return False
        return not await self._facts.is_undecided(self._fed.name, bar.symbol, bar.time_ns)

    async def _give(self, bar: Bar) -> None:
        key = (self._cache.venues[self._fed.name].account_id, self._fed.name, bar.symbol)
        if self._is_strict:
            # stops that were moved on the bar before
            await self._trailing.follow(key, through_ns=bar.time_ns - 1, timeframe=bar.timeframe, is_bar=False)
            await self._await_idle(key)  # what was decided before this bar reaches the venue before it
            await self._settle(key)
        self._fed.on_bar(bar)
        if self._is_strict:
            await self._settle(key)
        # only now: a stop that this bar moves counts from the next one on
        await self._trailing.follow(key, through_ns=bar.time_ns, timeframe=bar.timeframe)
        if self._is_strict:
            await self._settle(key)

    async def _await_idle(self, key: PositionKey) -> None:
        deadline = self._clock.monotonic() + _SETTLE_S
        while not self._workers.is_idle(key) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_SETTLE_POLL_S)

    async def _settle(self, key: PositionKey) -> None:
        """Wait until what the bar filled is booked and protected, at most `_SETTLE_S` seconds."""
        deadline = self._clock.monotonic() + _SETTLE_S
        while self._clock.monotonic() < deadline:
            there = {report.client_order_id for report in await self._venue.open_orders() if report.symbol == key[2]}
            here = self._cache.open_at(key)
            is_same = there == {order.client_order_id for order in here if order.state is not State.INTENDED}
            if is_same and self._workers.is_idle(key) and all(order.reported_cum_qty <= order.filled for order in here):
                return
            await self._clock.sleep(_SETTLE_POLL_S)
        self._log.warning("paper.unsettled", symbol=key[2])
