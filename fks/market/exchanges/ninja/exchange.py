"""Futures prices of NinjaTrader behind the port `fks.model.ports.Exchange`.

All watches of an object share one session with the bridge. The listing is the contracts of `fks.model.futures`; the
bridge refuses those that its platform does not have. Bars are the platform's minutes, history at most 31 days a
request.

Source: nt8/AddOns/FKSMarket.cs; conversations C21 to C24.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.offset import SKEW_MS
from fks.bridge.ninja_link.secret_file import load_secret
from fks.clock import Clock
from fks.config.settings import Settings
from fks.market.exchanges.base import MS, ArrivedEvents
from fks.market.exchanges.base.rows import closed
from fks.market.exchanges.base.values import offered
from fks.market.exchanges.ninja.capabilities import CAPABILITIES, HISTORY_DAYS, TIMEFRAMES
from fks.market.exchanges.ninja.session import BridgeAddress, DataSession, Published
from fks.market.exchanges.ninja.stream import InstrumentStream, Sent, history_bar, quote_of
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import InputError, OutageError, invalid
from fks.model.futures import SPECS, Contract, ContractState, futures_instrument, trade_date
from fks.model.futures.specs import MONTH_CODES
from fks.model.instrument import Instrument
from fks.model.market import Channel, ConnectionCounters, MarketEvent, Quote, Subscription, Suspect
from fks.model.ninja import MT5, NINJA, BridgePlatform
from fks.model.ports import Budget, Log
from fks.model.timeframe import NS
from fks.model.timeframe import TIMEFRAMES as LENGTHS

DAY_NS = 86_400 * NS
CLOSED_NS = 5 * DAY_NS  # a market is closed so long at most: further back lie bars
WINDOWS_MAX = 60  # history requests of one call, when the contract was not traded for so long: five years
MONTHS_AHEAD, MONTHS_BEFORE = 15, 24  # of the listing: expired contracts have a history that can be fetched


@dataclass(eq=False, slots=True)
class _Watch:
    """One open `watch`. `end`: why its subscriptions ended."""

    wanted: set[Subscription]
    queue: ArrivedEvents
    end: OutageError | None = None


class NinjaExchange:
    """Prices of a platform with a bridge; see `fks.model.ports.Exchange`. The secret is read when a connection is made.

    A class for another platform has its own `platform`, `name`, `capabilities` and `instruments`.
    """

    platform = NINJA
    name = NINJA.name
    capabilities = CAPABILITIES

    def __init__(self, address: BridgeAddress, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        self._clock, self._log, self._budget = clock, log, budget
        self._session = DataSession(address, clock, self._on_published)
        self._counters = ConnectionCounters()
        self._watches: set[_Watch] = set()
        self._streams: dict[str, InstrumentStream] = {}
        self._quoted: set[str] = set()  # subscribed with quotes
        self._subscribing = asyncio.Lock()

    @classmethod
    def of_settings(cls, settings: Settings, clock: Clock, log: Log, budget: Budget | None = None) -> NinjaExchange:
        """Return the exchange at the bridge that gives prices, not yet opened. Errors: as `address_of`."""
        return cls(address_of(settings, cls.platform), clock, log, budget)

    @property
    def counters(self) -> ConnectionCounters:
        """Return the counters of its connection."""
        self._counters.connects = self._session.connects
        return self._counters

    async def open(self) -> None:
        """Allow requests; the first one connects."""
        self._session.open()

    async def close(self) -> None:
        """End the session with the bridge."""
        await self._session.close()

    async def connect_permit(self) -> None:
        """Return when `watch` may be called; see the port."""
        if self._budget is not None:
            await self._budget.take_connect()

    # ── listing and history ──────────────────────────────────────────────────────────────────────
    async def instruments(self) -> list[Instrument]:
        """Return the contracts of the known roots: those of the next months, and the expired ones of two years."""
        now_ns = self._clock.now_ns()
        # the first time it makes the calendars of some years, which takes seconds
        contracts = await asyncio.to_thread(contracts_at, now_ns)
        return [
            replace(futures_instrument(contract, self.name, updated_ns=now_ns), is_trading=is_trading)
            for contract, is_trading in contracts
        ]

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed minutes; see the port. Errors: OutageError, PeerError, ConfigError of the secret, InputError
        TIMEFRAME_UNKNOWN and SYMBOL_UNKNOWN."""
        offered(self.name, TIMEFRAMES, timeframe)
        await self._session.ready()
        present_ns = self._session.present_ns()
        end_ns = present_ns if until_ns is None else min(until_ns, present_ns)
        step_ns = limit * LENGTHS[timeframe] * NS + CLOSED_NS
        found: list[Bar] = []
        if since_ns is not None:
            for from_ns, to_ns in windows(since_ns, end_ns, step_ns):
                found = await self._bars(symbol, timeframe, from_ns, to_ns, end_ns)
                if found:
                    break
            return found[:limit]
        to_ns = end_ns
        for _ in range(WINDOWS_MAX):
            before = await self._bars(symbol, timeframe, to_ns - min(step_ns, HISTORY_DAYS * DAY_NS), to_ns, end_ns)
            found = before + found
            if len(found) >= limit or (found and not before):
                break
            to_ns -= min(step_ns, HISTORY_DAYS * DAY_NS)
        return found[-limit:]

    async def _bars(self, symbol: str, timeframe: str, from_ns: int, to_ns: int, end_ns: int) -> list[Bar]:
        from_ms, to_ms = -(-from_ns // MS), -(-to_ns // MS)
        if from_ms >= to_ms:
            return []
        if self._budget is not None:
            await self._budget.take()
        rows = await self._session.history(symbol, from_ms, to_ms)
        return closed((history_bar(row, timeframe, self.name) for row in rows), end_ns)

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades that arrived on the present subscription; see `TradesFrom.STREAM`.

        Errors: OutageError while no trades would arrive, or the bridge's clock, which dates them, is far off; PeerError
        for trades before the subscription.
        """
        offset_ms = self._session.offset_ms
        if abs(offset_ms) > SKEW_MS:
            raise OutageError(
                f"the clock of the {self.platform.title} machine differs by {offset_ms / 1000:.1f} s",
                remedy="synchronise it: w32tm /resync",
            )
        stream = self._streams.get(symbol)
        if stream is None:
            raise OutageError(f"{symbol} is not subscribed at {self.platform.title}")
        stream.check(self._clock.monotonic())
        present_ns = self._session.present_ns()
        if from_id is not None:
            return stream.after(from_id, limit)
        if since_ns is not None:
            return stream.since(since_ns, present_ns, limit)
        return [stream.mark(present_ns)]

    # ── live ─────────────────────────────────────────────────────────────────────────────────────
    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches of new subscriptions; see the port. An instrument that the platform does not have is a Suspect;
        when it has none of them: InputError SYMBOL_UNKNOWN."""
        for item in wanted:
            if item.channel not in self.capabilities.channels:
                raise invalid("CHANNEL_UNKNOWN", f"{self.name} has no live {item.channel}")
        watch = _Watch(set(wanted), ArrivedEvents(self._counters, is_subscribed=True))
        self._watches.add(watch)
        try:
            await self._session.ready()
            refused = await self._subscribe()
            mine = {item.symbol for item in wanted}
            if mine and mine <= refused.keys():
                raise refused[min(mine)]
            watch.queue.put(
                [_refused(symbol, refused[symbol], self._clock.now_ns()) for symbol in mine & refused.keys()]
            )
            yield watch.queue.take()
            while True:
                if watch.end is None:
                    await watch.queue.arrived.wait()
                if batch := watch.queue.take():
                    yield batch
                if watch.end is not None:
                    raise watch.end
        finally:
            self._watches.discard(watch)
            self._leave()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these on every watch that carries them; see the port."""
        for watch in self._watches:
            watch.wanted.difference_update(gone)
        self._leave()

    def _wanted(self) -> dict[str, bool]:
        """Return the instruments that the watches want, and whether with quotes."""
        found: dict[str, bool] = {}
        for watch in self._watches:
            for item in watch.wanted:
                found[item.symbol] = found.get(item.symbol, False) or item.channel is Channel.QUOTES
        return found

    async def _subscribe(self) -> dict[str, InputError]:
        """Subscribe what the watches want and is not subscribed; return the instruments that the bridge refused."""
        refused: dict[str, InputError] = {}
        async with self._subscribing:
            for symbol, quotes in sorted(self._wanted().items()):
                if symbol in self._streams and (symbol in self._quoted or not quotes):
                    continue
                # before the answer: the state of the price feed follows it at once
                stream = self._streams.setdefault(
                    symbol, InstrumentStream(symbol, self._session.present_ns(), self._clock.monotonic(), self.platform)
                )
                try:
                    await self._session.subscribe(symbol, quotes=quotes)
                except InputError as error:
                    refused[symbol] = error
                    del self._streams[symbol]
                    continue
                except BaseException:
                    if self._streams.get(symbol) is stream and not stream.status:
                        del self._streams[symbol]
                    raise
                if quotes:
                    self._quoted.add(symbol)
        self._leave()
        return refused

    def _leave(self) -> None:
        """Unsubscribe the instruments that no watch wants."""
        for symbol in self._streams.keys() - self._wanted().keys():
            del self._streams[symbol]
            self._quoted.discard(symbol)
            self._session.unsubscribe(symbol)

    def _on_published(self, event: Published) -> None:
        now_ns, now_s = self._clock.now_ns(), self._clock.monotonic()
        match event:
            case o.Ready():
                return
            case o.LinkLost(reason=reason):
                self._streams.clear()
                self._quoted.clear()
                for watch in self._watches:
                    watch.end = OutageError(f"the session with {self.platform.title} ended: {reason}")
                    watch.queue.arrived.set()
                return
        self._counters.frames += 1
        stream = self._streams.get(event.instrument)
        if stream is None:
            return  # on its way when the instrument was unsubscribed
        match event:
            case m.TradeMessage():
                self._hand_on(stream.trade(event, now_ns, self._session.present_ns(), now_s))
            case m.QuoteMessage():
                self._hand_on(quote_of(event, now_ns, self._counters, self.name))
            case m.MarketStatus():
                self._hand_on(stream.set_status(event.price_status, self._session.present_ns(), now_s))

    def _hand_on(self, events: Sequence[Sent]) -> None:
        for watch in self._watches:
            if watch.end is None:
                watch.queue.put([event for event in events if _subscription_of(event) in watch.wanted])


def _subscription_of(event: Sent) -> Subscription:
    if isinstance(event, PublicTrade):
        return Subscription(Channel.TRADES, event.symbol)
    if isinstance(event, Quote):
        return Subscription(Channel.QUOTES, event.symbol)
    return Subscription(Channel(event.channel), event.symbol)


def address_of(settings: Settings, platform: BridgePlatform = NINJA) -> BridgeAddress:
    """Return where the bridge is that gives prices. Errors: ConfigError, as `Ninja.prices_group`."""
    mt5 = settings.mt5
    name, group = (mt5.group, mt5.single()) if platform is MT5 else settings.ninja.prices_group()
    return BridgeAddress(
        group.host,
        group.port,
        group.timeout_s,
        name,
        lambda: load_secret(group.secret_file, settings.home, group.host, platform),
        platform,
        group.line_mac,
    )


def contracts_at(now_ns: int) -> list[tuple[Contract, bool]]:
    """Return the contracts of all known roots around a moment, and of each whether it trades still."""
    today = trade_date(now_ns)
    found = []
    for spec in SPECS.values():
        for number in range(-MONTHS_BEFORE, MONTHS_AHEAD + 1):
            year, index = divmod(today.year * 12 + today.month - 1 + number, 12)
            if MONTH_CODES[index] in spec.months:
                contract = Contract(spec.root, year, index + 1)
                found.append((contract, contract.listing_at(now_ns) is not ContractState.EXPIRED))
    return found


def windows(since_ns: int, end_ns: int, step_ns: int) -> list[tuple[int, int]]:
    """Return history requests that cover [since, end), each of `step_ns` and 31 days at most: the first WINDOWS_MAX."""
    step_ns = min(step_ns, HISTORY_DAYS * DAY_NS)
    starts = range(since_ns, max(since_ns, end_ns), step_ns)
    return [(from_ns, min(from_ns + step_ns, end_ns)) for from_ns in starts[:WINDOWS_MAX]]


def _refused(symbol: str, error: InputError, now_ns: int) -> Suspect:
    return Suspect(Channel.TRADES, symbol, str(error), "", now_ns)
