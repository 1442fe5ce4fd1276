"""An exchange whose history is its trades: bars are made of them, and the newest of each timeframe are served."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random

from fks.market.bars.aggregate import BarBuilder, BarStart
from fks.model.bar import Bar, PublicTrade
from fks.model.market import ExchangeCapabilities, TradeIds, TradesFrom
from fks.model.timeframe import NS, bar_end, bar_start
from tests.support.history_exchange import CAPABILITIES, HistoryExchange

TRADED = replace(
    CAPABILITIES,
    timeframes=frozenset({"1m", "5m", "1h", "1d"}),
    trade_ids=TradeIds.RISING,
    trades_from=TradesFrom.TIME,
    bars_newest_max=720,
)
PAGE = 1000


def trades_between(start_ns: int, end_ns: int, *, seed: int, per_hour: float) -> list[PublicTrade]:
    """Return trades at random times, several of them at one time now and then, oldest first."""
    random = Random(seed)
    found: list[PublicTrade] = []
    at_ns, price = start_ns, 1000
    while True:
        if random.random() > 0.05:
            at_ns += 1000 * round(random.expovariate(per_hour / 3600) * 1e6)
        if at_ns >= end_ns:
            return found
        price += random.randint(-3, 3)
        quantity = Decimal(random.randint(1, 50_000)).scaleb(-4)
        found.append(
            PublicTrade("kraken", "BTC/USD", len(found) + 1, at_ns, Decimal(price).scaleb(-1), quantity, False)
        )


@dataclass
class TradedExchange(HistoryExchange):
    """Serves `trades`, those from `trades_from_ns` on, and of the bars made of them the newest `newest`."""

    trades: Sequence[PublicTrade] = ()
    trades_from_ns: int = 0
    newest: int = 720
    capabilities: ExchangeCapabilities = TRADED
    name: str = "kraken"
    pages: int = 0
    _made: dict[str, list[Bar]] = field(default_factory=dict)

    def made(self, timeframe: str) -> list[Bar]:
        """Return all closed bars, as the exchange itself makes them."""
        if timeframe not in self._made:
            start_ns = bar_start(self.trades[0].time_ns, timeframe)
            builder = BarBuilder(BarStart(self.name, "BTC/USD", [timeframe], start_ns))
            made: list[Bar] = []
            for trade in self.trades:
                made += builder.add(trade) or ()
            self._made[timeframe] = made + builder.seal_through(self.clock.now_ns())
        return self._made[timeframe]

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return bars of the newest ones."""
        self.asked.append((timeframe, since_ns, until_ns))
        served = self.made(timeframe)[-self.newest + 1 :]  # the one that forms counts, too
        bars = [bar for bar in served if until_ns is None or bar_end(bar.time_ns, timeframe) <= until_ns]
        if since_ns is None:
            return bars[-limit:]
        return [bar for bar in bars if bar.time_ns >= since_ns][:limit]

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return a page of trades from a time on."""
        assert from_id is None
        assert since_ns is not None
        self.pages += 1
        begin = bisect_left(self.trades, max(since_ns, self.trades_from_ns), key=lambda trade: trade.time_ns)
        return list(self.trades[begin : begin + min(limit, PAGE)])


def with_silence(trades: Sequence[PublicTrade], start_ns: int, hours: int) -> list[PublicTrade]:
    """Return trades without those of some hours."""
    end_ns = start_ns + hours * 3600 * NS
    return [trade for trade in trades if not start_ns <= trade.time_ns < end_ns]
