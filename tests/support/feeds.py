"""A feed of one symbol and events for it."""

from __future__ import annotations

from decimal import Decimal

from fks.bars.aggregate import BarBuilder
from fks.feed.feed import SymbolFeed
from fks.feed.findings import Doubt, FeedState, Gap
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.market import BarSeen, Channel, TradeIds
from fks.model.timeframe import NS

T0 = 1_767_225_600 * NS


def trade(number: int, second: float, price: str = "10") -> PublicTrade:
    return PublicTrade("binance", "BTCUSDT", number, T0 + round(second * 1e9), Decimal(price), Decimal(1), False)


def live(
    last_id: int | None = 0,
    frames: tuple[str, ...] = ("1s", "5s"),
    ids: TradeIds = TradeIds.CONTIGUOUS,
    channels: tuple[Channel, ...] = (Channel.TRADES, Channel.BARS),
) -> SymbolFeed:
    feed = SymbolFeed("BTCUSDT", 0.0, stale_min_s=10, stale_max_s=120, ids=ids, channels=channels)
    feed.positions = {}
    feed.restart(BarBuilder("binance", "BTCUSDT", frames, T0, previous=Decimal(9)), last_id, [])
    feed.state = FeedState.LIVE
    return feed


def hear(feed: SymbolFeed, second: float, *events: PublicTrade | BarClosed | BarSeen) -> Gap | Doubt | None:
    now_ns = T0 + round(second * 1e9)
    if events:
        feed.receive(list(events), now_ns, second)
    return feed.advance(now_ns, second)


def seen(second: int, trades: int, *, volume: float = 1.0, is_closed: bool = True) -> BarSeen:
    return BarSeen(Bar("binance", "BTCUSDT", "1s", T0 + second * NS, 10, 10, 10, 10, volume, trades), is_closed)
