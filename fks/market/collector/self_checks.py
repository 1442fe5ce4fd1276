"""Self-checks of the collector: feeds that are silent or not live, and bars that wait for the store."""

from __future__ import annotations

from collections.abc import Iterable

from fks.market.feed.feed import SymbolFeed
from fks.market.feed.machine import TRUSTED, FeedState
from fks.model.health import Check, failed

WAITING_MAX = 5_000  # sealed bars of one symbol that wait for the store


def feed_problems(
    feeds: Iterable[SymbolFeed], now_s: float, *, away_max_s: float, is_refused: bool = False, is_open: bool = True
) -> list[Check]:
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
            found.append(failed("feed", text, feed.symbol, is_mended_by_restart=not (is_refused or feed.is_refused)))
        if len(feed.unstored.sealed) > WAITING_MAX:
            text = f"{len(feed.unstored.sealed)} sealed bars of {feed.symbol} wait for the store"
            found.append(failed("queue", text, feed.symbol))
    return found
