"""An Exchange made of a list of trades and a moment: it answers as a venue would then. No sockets, no own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import msgspec

from fks.market.bars.aggregate import BarBuilder, BarStart, OpenBar
from fks.model.bar import Bar, PublicTrade
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
from fks.model.timeframe import TIMEFRAMES, bar_end, bar_start


class PaperMarket:
    """Knows `trades`; shows those up to `now_ns`. It is listed with its first trade."""

    name = "binance"
    capabilities = ExchangeCapabilities(
        timeframes=frozenset({"1s", "1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"}),
        channels=frozenset(Channel),
        trade_ids=TradeIds.CONTIGUOUS,
        trades_from=TradesFrom.ID,
        streams_max=1024,
        has_empty_bars=True,
    )

    def __init__(self, trades: list[PublicTrade]) -> None:
        self.trades = trades
        self.now_ns = trades[0].time_ns
        self.calls = 0
        self.counters = ConnectionCounters()
        begin = bar_start(trades[0].time_ns, "1s")
        seeds = {frame: OpenBar.at(begin, frame) for frame in TIMEFRAMES if frame != "1s"}
        builder = BarBuilder(BarStart("binance", trades[0].symbol, tuple(TIMEFRAMES), begin, seeds=seeds))
        self._bars: dict[str, list[Bar]] = {frame: [] for frame in TIMEFRAMES}
        for trade in trades:
            self._keep(builder.add(trade) or [])
        self._keep(builder.seal_through(bar_end(bar_start(trades[-1].time_ns, "5m"), "5m")))

    def bars(self, timeframe: str) -> list[Bar]:
        """Return every bar that is ever closed, silent ones before the first trade left out."""
        return self._bars[timeframe]

    def _keep(self, bars: list[Bar]) -> None:
        for bar in bars:
            self._bars[bar.timeframe].append(bar)

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def instruments(self) -> list[Instrument]:
        return []

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        await self._answer()
        end_ns = min(self.now_ns, until_ns or self.now_ns)
        shown = [bar for bar in self._bars[timeframe] if bar_end(bar.time_ns, timeframe) <= end_ns]
        return [bar for bar in shown if bar.time_ns >= since_ns][:limit] if since_ns is not None else shown[-limit:]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        await self._answer()
        shown = [trade for trade in self.trades if trade.time_ns <= self.now_ns]
        if from_id is not None:
            return [trade for trade in shown if trade.trade_id >= from_id][:limit]
        if since_ns is not None:
            return [trade for trade in shown if trade.time_ns >= since_ns][:limit]
        return shown[-limit:]

    async def _answer(self) -> None:
        """A request and its answer take their time: others go on meanwhile."""
        self.calls += 1
        await asyncio.sleep(0)

    async def connect_permit(self) -> None:
        raise NotImplementedError

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        raise NotImplementedError

    def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        raise NotImplementedError


class ForgetfulMarket(PaperMarket):
    """The same market at an exchange that is less helpful: opaque ids, trades by time or only the newest, no
    seconds."""

    def __init__(self, trades: list[PublicTrade], ids: TradeIds, trades_from: TradesFrom, newest_max: int = 0) -> None:
        if ids is TradeIds.OPAQUE:
            trades = [
                msgspec.structs.replace(trade, trade_id=trade.trade_id * 2_654_435_761 % 2**40) for trade in trades
            ]
        elif ids is TradeIds.RISING:
            trades = [msgspec.structs.replace(trade, trade_id=trade.trade_id * 7) for trade in trades]
        super().__init__(trades)
        self.capabilities = replace(
            self.capabilities,
            timeframes=self.capabilities.timeframes - {"1s"},
            trade_ids=ids,
            trades_from=trades_from,
            newest_max=newest_max,
        )

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        assert from_id is None, "this exchange cannot begin at an id"
        assert since_ns is None or self.capabilities.trades_from is TradesFrom.TIME, "nor at a time"
        limit = min(limit, self.capabilities.newest_max or limit)
        return await super().fetch_trades(symbol, from_id=None, since_ns=since_ns, limit=limit)
