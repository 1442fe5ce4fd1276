"""One feed without a collector: values of a market in seconds from T0, and a feed that is live."""

from __future__ import annotations

from decimal import Decimal

from fks.market.bars.aggregate import BarStart
from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.market.feed.queues import MarketData
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.feed import SealedPosition
from fks.model.market import BarSeen, Channel, TradeIds
from fks.model.timeframe import NS

T0 = 1_767_225_600 * NS
BOTH = (Channel.TRADES, Channel.BARS)


def trade(number: int, second: float, price: str = "10") -> PublicTrade:
    return PublicTrade("binance", "BTCUSDT", number, T0 + round(second * 1e9), Decimal(price), Decimal(1), False)


def over(second: int, trades: int, timeframe: str = "1s") -> BarClosed:
    return BarClosed("binance", "BTCUSDT", timeframe, T0 + second * NS, trades)


def seen(second: int, trades: int, *, volume: float = 1.0, is_closed: bool = True) -> BarSeen:
    return BarSeen(Bar("binance", "BTCUSDT", "1s", T0 + second * NS, 10, 10, 10, 10, volume, trades), is_closed)


def recovery(last_id: int | None = 0, timeframes: tuple[str, ...] = ("1s", "5s")) -> m.Recovery:
    """Return the start of a feed at T0, after a trade with the id `last_id`."""
    return m.Recovery(BarStart("binance", "BTCUSDT", timeframes, T0, previous=Decimal(9)), last_id)


def live(
    last_id: int | None = 0,
    timeframes: tuple[str, ...] = ("1s", "5s"),
    ids: TradeIds = TradeIds.CONTIGUOUS,
    channels: tuple[Channel, ...] = BOTH,
) -> SymbolFeed:
    """Return a feed that is live since T0, after a trade with the id `last_id`."""
    feed = SymbolFeed(FeedSpec("BTCUSDT", 10, 120, channels=channels, ids=ids), 0.0)
    feed.handle(m.Subscribed(T0, 0.0))
    feed.handle(m.Claimed(T0, 0.0, {}, None))
    recovered(feed, recovery(last_id, timeframes), T0, 0.0)
    feed.handle(m.BackfillFinished(T0, 0.0))
    feed.outages.take()
    assert feed.state is m.FeedState.LIVE
    return feed


def receive(feed: SymbolFeed, second: float, *events: MarketData) -> list[m.FeedAction]:
    """Give events to a feed, or let time pass where there are none; return all actions."""
    return receive_at(feed, T0 + round(second * 1e9), second, *events)


def receive_at(feed: SymbolFeed, now_ns: int, second: float, *events: MarketData) -> list[m.FeedAction]:
    """Do the same while our time of day is `now_ns`."""
    if events:
        return feed.handle(m.Received(now_ns, second, list(events)))
    return feed.handle(m.Ticked(now_ns, second, is_measured=False))


def query_of(actions: list[m.FeedAction]) -> m.Gap | m.SilenceCheck | None:
    """Return the gap or the check that a feed asks REST for."""
    for action in actions:
        if isinstance(action, m.StartBackfill):
            return action.gap
        if isinstance(action, m.CheckSilence):
            return action.check
    return None


def query(feed: SymbolFeed, second: float, *events: MarketData) -> m.Gap | m.SilenceCheck | None:
    """Give events to a feed and return its query."""
    return query_of(receive(feed, second, *events))


def fetched(feed: SymbolFeed, trades: list[PublicTrade], now_ns: int, second: float) -> m.Gap | None:
    """Give trades of REST to a feed; return the gap in them."""
    feed.handle(m.TradesFetched(now_ns, second, trades))
    return feed.fetched_gap


def recovered(feed: SymbolFeed, made: m.Recovery, now_ns: int, second: float) -> m.Gap | None:
    """Let a feed begin from a recovery; return the gap in its trades."""
    feed.handle(m.Recovered(now_ns, second, made))
    assert feed.builder is not None
    assert feed.builder.start is made.start
    return feed.fetched_gap


def outdated(feed: SymbolFeed, *timeframes: str) -> list[tuple[list[int], bool]]:
    """Start a correction of a feed; return the bars of each timeframe that it corrects, and whether open ones are."""
    feed.handle(m.CorrectionStarted(T0, 0.0))
    return [feed.outdated(timeframe) for timeframe in timeframes]


def backfilled(feed: SymbolFeed, second: float, trades: list[PublicTrade]) -> list[m.FeedAction]:
    """Finish the backfill of a feed with these trades, which join; return the actions that follow."""
    now_ns = T0 + round(second * 1e9)
    assert fetched(feed, trades, now_ns, second) is None
    return feed.handle(m.BackfillFinished(now_ns, second))


def checked(feed: SymbolFeed, second: float, check: m.SilenceCheck, trades: list[PublicTrade]) -> list[m.FeedAction]:
    """Answer a check of a feed with these trades."""
    return feed.handle(m.SilenceChecked(T0 + round(second * 1e9), second, check, trades))


def times(feed: SymbolFeed, timeframe: str = "1s") -> list[int]:
    """Return the open times of the sealed bars of a timeframe, in seconds."""
    return [(item.bar.time_ns - T0) // NS for item in feed.unstored.sealed if item.bar.timeframe == timeframe]


def claimed(
    symbol: str, positions: dict[str, SealedPosition], *, ids: TradeIds = TradeIds.CONTIGUOUS, now_ns: int = T0
) -> SymbolFeed:
    """Return a feed in BACKFILL that knows its positions and has no builder yet."""
    feed = SymbolFeed(FeedSpec(symbol, 10, 120, ids=ids), 0.0)
    feed.handle(m.Subscribed(now_ns, 0.0))
    feed.handle(m.Claimed(now_ns, 0.0, positions, None))
    return feed


def made_live(feed: SymbolFeed, now_ns: int, second: float) -> list[m.FeedAction]:
    """Finish the backfill of a feed; return the actions that follow."""
    actions = feed.handle(m.BackfillFinished(now_ns, second))
    assert feed.state is m.FeedState.LIVE
    return actions


def sealed_through(feed: SymbolFeed, until_ns: int, trades: list[PublicTrade]) -> None:
    """Give a live feed the remaining trades as the answer of REST, which proves its bars until a time."""
    now_ns = max([until_ns, *(trade.time_ns for trade in trades)])
    feed.handle(m.SilenceChecked(now_ns, 1.0, m.SilenceCheck(0, until_ns, 1), trades))
