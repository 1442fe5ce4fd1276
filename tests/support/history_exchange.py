"""An exchange with a past of its own making: bars that follow from their time, missing, a page limit, outages on
demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from fks.clock import Clock
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import InputError, OutageError
from fks.model.instrument import Instrument
from fks.model.market import (
    Channel,
    ConnectionCounters,
    ExchangeCapabilities,
    MarketEvent,
    Subscription,
    TradeIds,
    TradesFrom,
)
from fks.model.timeframe import bar_end, bar_start
from tests.support.order_values import an_instrument

CAPABILITIES = ExchangeCapabilities(
    timeframes=frozenset({"1s", "1m", "5m", "1h", "4h", "1d"}),
    channels=frozenset({Channel.TRADES}),
    trade_ids=TradeIds.CONTIGUOUS,
    trades_from=TradesFrom.ID,
    streams_max=100,
    has_empty_bars=True,
)


@dataclass
class HistoryExchange:
    """Answers `fetch_bars` alone. `missing` are half-open ns ranges in which it has nothing; `shift` moves every
    price."""

    clock: Clock
    listed_ns: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
    page: int = 1000
    present_ns: int | None = None
    fails: int = 0
    shift: float = 0.0
    name: str = "binance"
    capabilities: ExchangeCapabilities = CAPABILITIES
    counters: ConnectionCounters = field(default_factory=ConnectionCounters)
    asked: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    before: Callable[[], None] | None = None
    listed: tuple[str, ...] = ()

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def instruments(self) -> list[Instrument]:
        return [
            an_instrument(exchange=self.name, symbol=symbol, base=symbol.removesuffix("USDT")) for symbol in self.listed
        ]

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        if self.before is not None:
            self.before()
        if self.fails:
            self.fails -= 1
            raise OutageError("the exchange does not answer")
        if symbol == "NOSUCHCOIN":
            raise InputError("Invalid symbol", code="SYMBOL_UNKNOWN")
        self.asked.append((timeframe, since_ns, until_ns))
        present_ns = self.clock.now_ns() if self.present_ns is None else self.present_ns
        end_ns = present_ns if until_ns is None else min(until_ns, present_ns)
        limit = min(limit, self.page)
        if since_ns is None:
            since_ns = bar_start(end_ns, timeframe)
            for _ in range(limit):
                since_ns = bar_start(since_ns - 1, timeframe)
        found: list[Bar] = []
        at = max(bar_start(since_ns, timeframe), bar_start(self.listed_ns, timeframe))
        if at < since_ns:
            at = bar_end(at, timeframe)
        while bar_end(at, timeframe) <= end_ns and len(found) < limit:
            if not any(
                start < bar_end(at, timeframe) and at < end and timeframe != "1d" for start, end in self.missing
            ):
                found.append(self.bar(symbol, timeframe, at))
            at = bar_end(at, timeframe)
        return found

    def bar(self, symbol: str, timeframe: str, time_ns: int) -> Bar:
        """Return what the exchange has for one open time."""
        number = time_ns // 1_000_000_000 // 60 % 977
        price = round(100.0 + number / 100 + self.shift, 2)
        return Bar(self.name, symbol, timeframe, time_ns, price, price + 2, price - 2, round(price + 1, 2), 1.5, 7)

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        return []

    async def connect_permit(self) -> None:
        raise NotImplementedError

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        raise NotImplementedError

    def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        raise NotImplementedError

    def watch_trades(
        self, symbols: Sequence[str], *, closes: Sequence[str] = ()
    ) -> AsyncIterator[list[PublicTrade | BarClosed]]:
        raise NotImplementedError
