"""Bybit's REST shows the newest sixty trades and no others: a busy symbol's bars are whole all the same.

The server is ours, written after Bybit's documentation (*documented*); the collected bars are held against all of its
trades.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.market.bars.aggregate import BarBuilder, BarStart
from fks.market.collector.gap_filler import Backfill
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.bybit.exchange import BybitExchange
from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import OutageError
from fks.model.feed import SealedPosition
from fks.model.market import TradeIds
from fks.model.timeframe import NS
from tests.support.exchange_cases import CASES, MS, NEW_YEAR
from tests.support.exchange_peer import CountingBudget, TapeClock, playing
from tests.support.feeds import claimed, fetched, made_live, query_of, recovered
from tests.support.ports import CollectingLog

MINUTE = 60 * NS
SYMBOL = "BTCUSDT"
STEP = 250 * MS  # 240 trades a minute


def traded(number: int) -> PublicTrade:
    price, size = Decimal(10_000 + number * 7 % 90) / 10, Decimal(1 + number % 5) / 1000
    trade_id = 2290000000900000000 + number * 7_919 % 1_000_003  # execution ids are opaque
    return PublicTrade("bybit", SYMBOL, trade_id, NEW_YEAR + number * STEP, price, size, number % 2 == 0)


TRADES = [traded(number) for number in range(6 * 240)]


def truth() -> list[Bar]:
    builder = BarBuilder(BarStart("bybit", SYMBOL, ("1m",), NEW_YEAR, ids=TradeIds.OPAQUE))
    return [bar for trade in TRADES for bar in builder.add(trade) or []]


@dataclass
class Market:
    """Bybit as it is at `now_ns`."""

    now_ns: int = 0

    def __call__(self, request: web.Request) -> web.Response:
        q, rows = request.query, []
        if request.path.endswith("recent-trade"):
            shown = [trade for trade in TRADES if trade.time_ns <= self.now_ns][-min(int(q["limit"]), 60) :]
            rows = [
                {
                    "execId": str(trade.trade_id),
                    "symbol": SYMBOL,
                    "price": str(trade.price),
                    "size": str(trade.quantity),
                    "side": "Sell" if trade.is_buyer_maker else "Buy",
                    "time": str(trade.time_ns // MS),
                    "isBlockTrade": False,
                }
                for trade in reversed(shown)
            ]
        else:
            first, last = float(q.get("start", 0)), float(q.get("end", "inf"))
            begun = [bar for bar in truth() if bar.time_ns <= self.now_ns and first <= bar.time_ns // MS <= last]
            rows = [
                [str(bar.time_ns // MS), *(repr(n) for n in (bar.open, bar.high, bar.low, bar.close, bar.volume)), "0"]
                for bar in reversed(begun[-int(q["limit"]) :])
            ]
        found: dict[str, Any] = {"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": self.now_ns // MS}
        return web.json_response(found)


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
async def bybit(market: Market, log: CollectingLog) -> AsyncIterator[BybitExchange]:
    async with playing(CASES["bybit"]) as peer:
        peer.rest = market
        clock = TapeClock(NEW_YEAR - RealClock().now_ns())
        made = BybitExchange(ExchangeAddresses(f"http://{peer.url}", f"ws://{peer.url}"), clock, log, CountingBudget())
        await made.open()
        yield made
        await made.close()


@pytest.mark.parametrize("how", ["subscribed again", "discontinued"])
async def test_waiting_trades_count_where_sixty_of_rest_do_not_reach_back(
    bybit: BybitExchange, market: Market, how: str
) -> None:
    back = Backfill(bybit, ("1m",), 1)
    positions: dict[str, SealedPosition] = {}
    feed = claimed(SYMBOL, positions, ids=bybit.capabilities.trade_ids, now_ns=NEW_YEAR)
    if how == "subscribed again":
        receive(feed, (2, 70))
        feed.handle(m.Subscribed(NEW_YEAR + 70 * NS, 70.0))
        receive(feed, (80, 95))
    else:
        receive(feed, (2, 50))
        feed.handle(m.Discontinued(NEW_YEAR + 50 * NS, 50.0))
        receive(feed, (50, 70), (80, 95))
    receive(feed, (95, 110))
    market.now_ns = NEW_YEAR + 110 * NS  # 200 trades in this minute, of which REST shows sixty
    with pytest.raises(OutageError, match="present bar"):
        await back.recover(SYMBOL, positions, waiting=feed.backlog.run)
    receive(feed, (110, 150))
    market.now_ns = NEW_YEAR + 150 * NS
    with pytest.raises(OutageError, match="present bar"):
        await back.recover(SYMBOL, positions)
    made = await back.recover(SYMBOL, positions, waiting=feed.backlog.run)
    assert recovered(feed, made, market.now_ns, 150.0) is None
    made_live(feed, market.now_ns, 150.0)
    assert query_of(receive(feed, (150, 190))) is None
    assert [(item.source, item.bar.volume, item.bar.open, item.bar.close) for item in feed.unstored.sealed] == [
        (source, bar.volume, bar.open, bar.close) for source, bar in zip(("klines", "live"), truth()[1:3], strict=True)
    ]


def receive(feed: SymbolFeed, *spans: tuple[int, int]) -> list[m.FeedAction]:
    """Have the trades of spans, in seconds after the new year, arrive at once."""
    trades = [t for since_s, until_s in spans for t in TRADES if since_s * NS <= t.time_ns - NEW_YEAR < until_s * NS]
    return feed.handle(m.Received(NEW_YEAR + spans[-1][1] * NS, float(spans[-1][1]), [*trades]))


async def test_a_busy_symbol_is_whole_from_its_first_minute_on_and_over_a_hole(
    bybit: BybitExchange, market: Market
) -> None:
    back = Backfill(bybit, ("1m",), 1)
    positions: dict[str, SealedPosition] = {}
    feed = claimed(SYMBOL, positions, ids=bybit.capabilities.trade_ids, now_ns=NEW_YEAR)
    market.now_ns = NEW_YEAR + 30 * NS  # 120 trades in this minute
    with pytest.raises(OutageError, match="present bar"):
        await back.recover(SYMBOL, positions)
    market.now_ns = NEW_YEAR + MINUTE + 10 * NS  # 40 trades in this one
    made = await back.recover(SYMBOL, positions)
    assert recovered(feed, made, market.now_ns, 1.0) is None
    live = [trade for trade in TRADES if market.now_ns < trade.time_ns <= market.now_ns + 20 * NS]
    assert fetched(feed, live, market.now_ns + 20 * NS, 1.0) is None
    assert feed.last_id is not None
    market.now_ns = NEW_YEAR + 3 * MINUTE + 12 * NS  # not listened: 400 trades since
    made = await back.recover(SYMBOL, {"1m": positions["1m"]})
    assert recovered(feed, made, market.now_ns, 1.0) is None
    made_live(feed, market.now_ns, 2.0)
    rest = [trade for trade in TRADES if trade.time_ns > market.now_ns]
    feed.handle(m.SilenceChecked(rest[-1].time_ns, 3.0, m.SilenceCheck(0, NEW_YEAR + 5 * MINUTE, 2), rest))
    sealed = [item.bar for item in feed.unstored.sealed]
    assert [bar.time_ns for bar in sealed] == [NEW_YEAR + minute * MINUTE for minute in range(5)]
    for bar, true in zip(sealed, truth(), strict=True):
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (
            true.open,
            true.high,
            true.low,
            true.close,
            true.volume,
        )
    assert [item.source for item in feed.unstored.sealed] == ["klines", "klines", "klines", "live", "live"]
