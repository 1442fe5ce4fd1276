"""Correlations of returns for the limit `exposure_max_correlated`, from stored bars. Soft state of the order manager.

The returns of every symbol with a price are read again once an interval of `correlation_timeframe`, from its bars or,
where those are not stored, from minutes. One whose newest bar is not stored yet is read again a few times; after these,
once an interval until it goes on. Without the setting nothing is read. What could not be read is not known, and
the check counts what is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from fks.config.risk import Risk
from fks.model.bar import Floats
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.bars import BarStore
from fks.trading.risk.correlation import correlation_of, returns_before

_RETRY_NS = 10 * NS  # between two reads while the newest bar of an interval is not stored yet
_TRIES = 12  # reads of a series in a row that found no later bar, before it is read once an interval
_MINUTE = "1m"

Key = tuple[str, str]


class Correlations:
    """Returns by (exchange, symbol) on the newest grid that was read. Only `refresh` reads a table."""

    def __init__(self, bars: BarStore | None = None) -> None:
        self._bars = bars
        self._returns: dict[Key, Floats] = {}
        self._grid = (0, "", 0)  # newest time that was read for (ns), timeframe and number of returns
        self._read_ns = 0
        self._newest_ns: dict[Key, int] = {}  # end of the newest return that is there
        self._tries: dict[Key, int] = {}  # reads in a row that found no later one

    async def refresh(self, keys: Collection[Key], limits: Risk, now_ns: int) -> None:
        """Read the returns up to `now_ns` when an interval has ended since the last read, and of those whose newest bar
        was missing then again.

        Errors: OutageError.
        """
        if self._bars is None or limits.exposure_max_correlated is None:
            self._returns = {}
            return
        interval_s, count = TIMEFRAMES[limits.correlation_timeframe], limits.correlation_returns
        grid_ns = now_ns - now_ns % (interval_s * NS)
        grid = (grid_ns, limits.correlation_timeframe, count)
        known = self._returns if grid == self._grid else {}
        due = [key for key in keys if key not in known]
        if now_ns - self._read_ns >= _RETRY_NS:
            late = (key for key in keys if key in known and not _is_current(known[key]))
            due += [key for key in late if self._tries[key] < _TRIES]
        if not due:
            return
        found = {key: await self._read(*key, limits, grid_ns, interval_s, count) for key in due}
        for key, returns in found.items():
            there = np.flatnonzero(np.isfinite(returns))
            newest_ns = grid_ns - (count - 1 - int(there[-1])) * interval_s * NS if len(there) else 0
            is_later = newest_ns > self._newest_ns.get(key, -1)
            self._tries[key] = 1 if is_later else self._tries[key] + 1
            self._newest_ns[key] = newest_ns
        kept = {key: returns for key, returns in known.items() if key in keys}
        self._returns, self._grid, self._read_ns = {**kept, **found}, grid, now_ns

    async def _read(
        self, exchange: str, symbol: str, limits: Risk, grid_ns: int, interval_s: int, count: int
    ) -> Floats:
        assert self._bars is not None
        start_ns, best = grid_ns - (count + 1) * interval_s * NS, np.full(count, np.nan)
        for timeframe in dict.fromkeys((limits.correlation_timeframe, _MINUTE)):
            if TIMEFRAMES[timeframe] > interval_s:
                continue
            bars = await self._bars.read(symbol, timeframe, start_ns, grid_ns, exchange=exchange)
            returns = returns_before(bars.time_ns + TIMEFRAMES[timeframe] * NS, bars.close, grid_ns, interval_s, count)
            if np.isfinite(returns).sum() > np.isfinite(best).sum():
                best = returns
            if np.isfinite(best).all():
                break
        return best

    def of(self, key: Key, others: Iterable[Key], limits: Risk, now_ns: int) -> dict[str, float | None]:
        """Return the correlation of an instrument's returns with those of others, by symbol; None where it is not
        known, also when the last read is two intervals old."""
        if limits.exposure_max_correlated is None:
            return {}
        is_fresh = now_ns - self._grid[0] < 2 * TIMEFRAMES[limits.correlation_timeframe] * NS
        own = self._returns.get(key) if is_fresh else None
        found: dict[str, float | None] = {}
        for other in others:
            returns = self._returns.get(other)
            found[other[1]] = None if own is None or returns is None else correlation_of(own, returns)
        return found


def _is_current(returns: Floats) -> bool:
    """Return whether the newest return is there; true for a symbol that has none at all, which is not waited for."""
    there = np.isfinite(returns)
    return bool(there[-1]) or not there.any()
