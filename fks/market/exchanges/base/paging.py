"""Paging of bars forward on exchanges that return the newest bars of a range: page ends, and the first bar."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start


def page_end(since_ns: int, timeframe: str, bars: int) -> int:
    """Return the first nanosecond after `bars` bars, counted from the first one that opens at or after `since_ns`."""
    end_ns = bar_start(since_ns, timeframe)
    if end_ns < since_ns:
        end_ns = bar_end(end_ns, timeframe)
    if TIMEFRAMES[timeframe]:
        return end_ns + bars * TIMEFRAMES[timeframe] * NS
    for _ in range(bars):
        end_ns = bar_end(end_ns, timeframe)
    return end_ns


async def first_from(
    since_ns: int, until_ns: int, page_ns: int, newest_before: Callable[[int], Awaitable[int | None]]
) -> int | None:
    """Return a moment less than `page_ns` before the first bar in [since, until), or None when there is no bar in it.

    For the time before a listing, or an outage of the exchange: a few requests instead of one for every empty page.
    `newest_before(moment)` returns when the newest bar that begins before a moment begins (ns), or None.
    """

    async def has(moment_ns: int) -> bool:
        found = await newest_before(moment_ns)
        return found is not None and found >= since_ns

    if since_ns >= until_ns or not await has(until_ns):
        return None
    low_ns, high_ns = since_ns, until_ns  # nothing begins before `low_ns`, something before `high_ns`
    while high_ns - low_ns > page_ns:
        middle_ns = (low_ns + high_ns) // 2
        if await has(middle_ns):
            high_ns = middle_ns
        else:
            low_ns = middle_ns
    return low_ns
