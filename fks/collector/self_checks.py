"""Self-checks of the collector: the problems and the status of its feeds."""

from __future__ import annotations

from collections.abc import Iterable

from fks.feed.feed import SymbolFeed
from fks.feed.machine import TRUSTED, FeedState
from fks.model.health import FailedCheck

WAITING_MAX = 5_000  # sealed bars of one symbol that wait for the store


def feed_problems(
    feeds: Iterable[SymbolFeed], now_s: float, *, away_max_s: float, is_refused: bool = False, is_open: bool = True
) -> list[FailedCheck]:
    """Return the feeds that are silent beyond their limit, or not live for `away_max_s`, or that wait for the store.

    While the market is closed (`is_open` False) none has to be live: brokers end their price feeds at night.

    The collector reconnects by itself, so a restart helps at most once it has tried for long, and not where the
    exchange refuses the feed, or all of us (`is_refused`).
    """
    found = []
    for feed in feeds:
        away_s = 0.0 if feed.live_until_s is None else now_s - feed.live_until_s
        if is_open and feed.state is not FeedState.LIVE and (feed.stream not in TRUSTED or away_s > away_max_s):
            text = (
                f"{feed.symbol} is {feed.state}, last message {feed.liveness.age_s(now_s):.1f} s "
                f"ago{f': {feed.error}' if feed.error else ''}"
            )
            found.append(
                FailedCheck("feed", text, feed.symbol, is_mended_by_restart=not (is_refused or feed.is_refused))
            )
        if len(feed.unstored.sealed) > WAITING_MAX:
            text = f"{len(feed.unstored.sealed)} sealed bars of {feed.symbol} wait for the store"
            found.append(FailedCheck("queue", text, feed.symbol))
    return found


def feed_rows(feeds: Iterable[SymbolFeed], now_s: float) -> list[dict[str, object]]:
    """Return what status shows of feeds: ages in ms, of the feed and of each channel."""
    return [
        {
            "symbol": feed.symbol,
            "state": str(feed.state),
            "age_ms": round(feed.liveness.age_s(now_s) * 1000),
            "last_trade_id": feed.last_id,
            "late": feed.late,
            "waiting": len(feed.unstored.sealed),
            "dropped": feed.dropped,
            "problem": feed.error,
            "channels": {str(c): round(liveness.age_s(now_s) * 1000) for c, liveness in feed.liveness.items()},
        }
        for feed in feeds
    ]
