"""Bars for venues that fill from bars (paper): read sealed from the database, in order, once; the bus only wakes.

While a tape is played by the written rule (G6), a bar is fed only when every decision on earlier bars was made and what
it filled has settled: the venue then sees decisions and bars in the one order that the backtest has them in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Protocol, runtime_checkable

import numpy as np

from fks.clock.waiting import wait_for_event
from fks.market.history.gaps import calendar_for
from fks.model.account import Account
from fks.model.bar import Bar
from fks.model.calendars import ALWAYS, calendar_of, overnight
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.margin import Margin
from fks.model.order import LIVE, ExecutedOrder, Fill, Order, Role, State
from fks.model.ports import Venue
from fks.model.signal import Signal
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from fks.store.bars import BarStore
from fks.store.facts import InstanceFacts
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.tasks import settled
from fks.trading.order_manager.trailing import TrailingStops
from fks.trading.orders.messages import PositionKey

_POLL_S = 1.0
_SETTLE_S = 5.0
_SETTLE_POLL_S = 0.002
_BATCH = 500
_WEEK_NS = 7 * 86_400 * NS
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
        executed: Iterable[ExecutedOrder] = (),
        positions: Mapping[str, Decimal] | None = None,
        moved: Mapping[str, int] | None = None,
    ) -> None: ...
    def margin_of(self, symbol: str) -> Margin | None: ...
    @property
    def overnight_minutes(self) -> int: ...
    def set_overnight(self, symbol: str, is_overnight: bool) -> None: ...
    def position(self, symbol: str) -> Decimal: ...
    def on_bar(self, bar: Bar) -> None: ...
    def split(self, symbol: str, change: Decimal) -> None: ...


class BarFeed:
    """Feeds one venue. Soft state: how far each feed was fed."""

    def __init__(
        self, context: OrderManagerContext, venue: Venue, workers: PositionWorkers, trailing: TrailingStops
    ) -> None:
        assert isinstance(venue, FedVenue)
        self._fed: FedVenue = venue
        self._venue = venue
        self._cache, self._clock, self._log = context.cache, context.clock, context.log
        self._db = context.db
        self._workers, self._facts, self._trailing = workers, context.facts, trailing
        settings = context.settings
        self._is_strict = settings.sim.fills == "tape"
        self._shortest = next((name for name in TIMEFRAMES if name in settings.data.timeframes), "1m")
        self._cursors: dict[Feed, int] = {}
        self._oldest: dict[str, int] = {}
        self._calendars: dict[Feed, str] = {}
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
        executed = await self._facts.executed(self._fed.name) if self._is_strict else ()
        totals, held, moved = await self._totals(account)
        self._fed.restore(live, (), totals, decided, executed, held, moved)
        self._oldest = await self._facts.oldest_decisions(self._fed.name)
        for symbol in held if self._is_strict else ():
            if held[symbol] and self._fed.margin_of(symbol) is not None:  # a bar since then may close it by force
                self._oldest[symbol] = min(moved[symbol], self._oldest.get(symbol, moved[symbol]))
        closed = {(row.symbol, row.instance): row.time_ns for row in executed if row.role is Role.EXIT}
        for row in executed:
            if row.is_unprotected:  # the legs that come for it meet the bars since
                moved_ns = decided.get(row.client_order_id, 0)
                since_ns = max(row.time_ns, closed.get((row.symbol, row.instance), 0), moved_ns)
                self._oldest[row.symbol] = min(since_ns, self._oldest.get(row.symbol, since_ns))

    async def _totals(self, account: Account | None) -> tuple[dict[str, Decimal], dict[str, Decimal], dict[str, int]]:
        """Return the account's amounts by currency, and by symbol its positions with the time of the last execution."""
        held: dict[str, Decimal] = {}
        moved: dict[str, int] = {}
        if account is None:
            return {}, held, moved
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
            if row.fee:
                add(row.fee_currency, -row.fee)
            in_base = row.fee if row.fee_currency == instrument.base else _ZERO
            held[row.symbol] = held.get(row.symbol, _ZERO) + sign * row.quantity - in_base
            moved[row.symbol] = max(row.newest_ns, moved.get(row.symbol, 0))
        return totals, held, moved

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
        """Feed everything up to the bar that `signal` was decided on: its order must come after it. One without bars (a
        person's, a portfolio's) meets the newest price, also as the first order in its symbol."""
        if signal.venue != self._fed.name:
            return
        if signal.timeframe is not None:
            await self._advance((signal.exchange, signal.symbol, signal.timeframe), until_ns=signal.ts_event_ns)
            return
        feeds = [feed for feed in self._feeds() if feed[1] == signal.symbol]
        for feed in feeds or [(signal.exchange, signal.symbol, self._shortest)]:
            await self._advance(feed, until_ns=None)

    def _feeds(self) -> list[Feed]:
        name = self._fed.name
        found = {(i.exchange, i.symbol, i.timeframe) for i in self._cache.instances.values() if i.venue == name}
        known = {symbol for _, symbol, _ in found}
        found |= {
            (o.exchange, o.symbol, self._shortest)
            for o in self._cache.orders.values()
            if o.venue == name and o.symbol not in known
        }
        known = {symbol for _, symbol, _ in found}
        for (_, venue, symbol, _), position in self._cache.positions.items():
            if venue == name and position.quantity and symbol not in known and self._fed.margin_of(symbol) is not None:
                found.add((self._cache.exchange_of(name, symbol), symbol, self._shortest))  # it may be closed by force
        return sorted(found)

    async def _advance(self, feed: Feed, until_ns: int | None) -> None:
        """Feed what is sealed and may be fed, at most up to the bar that opens at `until_ns`."""
        async with self._lock:
            if self._is_strict or self._fed.margin_of(feed[1]) is not None:
                # before that the legs of a position that was closed by force rest, and those of a new one do not: after
                # a restart they would come too late for the bar in which their entry was filled
                status = self._cache.venues[self._fed.name]
                if not await settled(self._clock, lambda: status.has_positions, _SETTLE_S):
                    return  # no bar is lost: the next look begins where this one did
            self._fed.learn(self._cache.instruments.values())  # a fresh system gets its instruments after its start
            if feed not in self._cursors and (first := await self._first(feed)) is not None:
                self._cursors[feed] = first
            while (after := self._cursors.get(feed)) is not None and (until_ns is None or after < until_ns):
                bars = await self._facts.sealed_bars(*feed, after, _BATCH)
                for bar in bars:
                    if until_ns is not None and bar.time_ns > until_ns:
                        return
                    split = self._cache.splits.get(self._key(bar.symbol))
                    if split is not None and bar.time_ns >= split.effective_ns:
                        return  # what rests is in the old shares
                    if self._is_strict and not await self._is_due(feed, bar):
                        return
                    await self._note_night(feed, bar.time_ns, bar_end(bar.time_ns, bar.timeframe))
                    await self._give(bar)
                    await self._note_next(feed, bar)
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

    async def note_nights(self, now_ns: int) -> None:
        """Put the margin in force that counts now, for every feed."""
        for feed in self._feeds() if self._fed.overnight_minutes else ():
            await self._note_night(feed, now_ns, now_ns + 1)

    async def _note_night(self, feed: Feed, start_ns: int, end_ns: int) -> None:
        """Put the margin in force that counts from a time on. Where the calendar does not show it the overnight margin
        always counts."""
        minutes = self._fed.overnight_minutes
        if not minutes:
            return
        if feed not in self._calendars:
            known = await BarStore(self._db).series(feed[1], feed[2], exchange=feed[0])
            self._calendars[feed] = calendar_for(feed[0], None if known is None else known.calendar, feed[1])
            if self._calendars[feed] == ALWAYS:
                self._log.error("paper.always_overnight", symbol=feed[1], timeframe=feed[2])
        # the first look at a calendar makes it, which takes seconds
        times, ends = np.array([start_ns], np.int64), np.array([end_ns], np.int64)
        found = await asyncio.to_thread(overnight, self._calendars[feed], times, ends, minutes)
        self._fed.set_overnight(feed[1], found is None or bool(found[0]))

    async def _note_next(self, feed: Feed, bar: Bar) -> None:
        """Put the margin in force in which the next bar's entries will be held: decisions on `bar` need it."""
        if self._fed.overnight_minutes:
            end_ns = bar_end(bar.time_ns, bar.timeframe)
            calendar = calendar_of(self._calendars[feed])
            following = await asyncio.to_thread(calendar.expected, bar.timeframe, end_ns, end_ns + _WEEK_NS)
            next_ns = int(following[0]) if len(following) else end_ns
            await self._note_night(feed, next_ns, bar_end(next_ns, bar.timeframe))

    async def _is_due(self, feed: Feed, bar: Bar) -> bool:
        """Return whether every decision on bars before this one was made and carried out."""
        before_ns = bar_start(bar.time_ns - 1, bar.timeframe)
        for instance in await self._consumers(feed):
            if instance.cursor_ns is None or instance.cursor_ns < before_ns:
                return False
        return not await self._facts.is_undecided(self._fed.name, bar.symbol, bar.time_ns)

    def _key(self, symbol: str) -> PositionKey:
        return self._cache.venues[self._fed.name].account_id, self._fed.name, symbol

    async def _give(self, bar: Bar) -> None:
        key = self._key(bar.symbol)
        if self._is_strict:
            # stops that were moved on the bar before
            await self._trailing.follow(key, through_ns=bar.time_ns - 1, timeframe=bar.timeframe, is_bar=False)
            # what was decided before this bar reaches the venue before it
            await settled(self._clock, lambda: self._workers.is_idle(key), _SETTLE_S)
            await self._settle(key)
        self._fed.on_bar(bar)
        if self._is_strict:
            await self._settle(key)
        # only now: a stop that this bar moves counts from the next one on
        await self._trailing.follow(key, through_ns=bar.time_ns, timeframe=bar.timeframe)
        if self._is_strict:
            await self._settle(key)

    async def _settle(self, key: PositionKey) -> None:
        """Wait until what the bar filled is booked and protected, at most `_SETTLE_S` seconds."""
        deadline = self._clock.monotonic() + _SETTLE_S
        while self._clock.monotonic() < deadline:
            there = {report.client_order_id for report in await self._venue.open_orders() if report.symbol == key[2]}
            here = self._cache.open_at(key)
            is_same = there == {order.client_order_id for order in here if order.state is not State.INTENDED}
            if self._fed.margin_of(key[2]) is not None:  # a forced close has no order
                is_same &= self._fed.position(key[2]) == sum(self._cache.buckets(key).values(), _ZERO)
            if is_same and self._workers.is_idle(key) and all(order.reported_cum_qty <= order.filled for order in here):
                return
            await self._clock.sleep(_SETTLE_POLL_S)
        self._log.warning("paper.unsettled", symbol=key[2])
