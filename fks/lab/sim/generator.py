"""A market generated from a seed: every minute of every day is a function of (seed, symbol, day), so nothing is stored.

Each day runs between two anchors of a slow path. Within it: hourly regimes (calm, normal, wild, with a drift),
clustered volatility, fat-tailed returns and jumps. Trades per day are fixed, so trade numbers are known for any time,
past or to come.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from fks.lab.sim.source import Rows, dice, join_rows
from fks.lab.sim.symbols import Listing
from fks.model.bar import Floats, Ints

DAY_MINUTES = 1440
EPOCH_MS = 1_577_836_800_000  # 2020-01-01: trade number 0, so that ids look like a market that is years old
_UNIT_MS = 60_000
_DAYS_KEPT = 6
_CLUSTER = 0.94 ** np.arange(120)


class Generated:
    """The minutes of one generated market. Row number: minutes since 2020. Thread-safe to read from one loop only."""

    unit_ms = _UNIT_MS
    row_end = None

    def __init__(self, listing: Listing, seed: int, listed_ms: int) -> None:
        """`listed_ms` is where history begins; earlier rows exist but are not shown."""
        self.listing = listing
        self._seed = seed
        self.row_first = (listed_ms - EPOCH_MS) // _UNIT_MS
        self._days: OrderedDict[int, Rows] = OrderedDict()
        start = dice(seed, listing.symbol, "anchor", 0)
        self._phases = start.uniform(0.0, 2.0 * math.pi, 4)

    def rows(self, start: int, stop: int) -> Rows:
        """Return rows start..stop-1."""
        days = range(start // DAY_MINUTES, (stop - 1) // DAY_MINUTES + 1)
        joined = join_rows([self._day(day) for day in days])
        offset = days[0] * DAY_MINUTES
        return joined.part(start - offset, stop - offset)

    def row_at(self, time_ms: int) -> int:
        """Return the minute that holds `time_ms`."""
        return (time_ms - EPOCH_MS) // _UNIT_MS

    def row_of(self, trade: int) -> int:
        """Return the minute that holds trade number `trade`."""
        day = trade // (self.listing.minute_trades * DAY_MINUTES)
        return day * DAY_MINUTES + int(np.searchsorted(self._day(day).first, trade, side="right")) - 1

    def _anchor(self, day: int) -> float:
        """Return the log of the price at the start of `day`: slow waves around the start price, and some dice."""
        waves = ((0.12, 71.0), (0.06, 19.0), (0.03, 6.3), (0.02, 2.6))
        slow = sum(
            size * math.sin(2 * math.pi * day / days + phase)
            for (size, days), phase in zip(waves, self._phases, strict=True)
        )
        return (
            math.log(self.listing.start_price)
            + slow
            + 0.015 * dice(self._seed, self.listing.symbol, "anchor", day).standard_normal()
        )

    def _day(self, day: int) -> Rows:
        rows = self._days.get(day)
        if rows is None:
            rows = self._days[day] = self._make(day)
            if len(self._days) > _DAYS_KEPT:
                self._days.popitem(last=False)
        else:
            self._days.move_to_end(day)
        return rows

    def _make(self, day: int) -> Rows:
        spec = self.listing
        rng = dice(self._seed, spec.symbol, "day", day)
        sigma, path = _path(rng, spec.minute_sigma, self._anchor(day), self._anchor(day + 1))
        level = np.exp(path) * 1e8 / spec.tick
        open_ = np.maximum(1, np.rint(level[:-1] * (1 + 0.05 * sigma * rng.standard_normal(DAY_MINUTES))))
        close = np.maximum(1, np.rint(level[1:] * (1 + 0.05 * sigma * rng.standard_normal(DAY_MINUTES))))
        reach = level[:-1] * sigma
        high = np.maximum(open_, close) + np.floor(reach * rng.exponential(0.45, DAY_MINUTES))
        low = np.maximum(1, np.minimum(open_, close) - np.floor(reach * rng.exponential(0.45, DAY_MINUTES)))
        busy = sigma / spec.minute_sigma
        volume = spec.minute_volume * busy * np.exp(0.5 * rng.standard_normal(DAY_MINUTES)) + 4 * spec.minute_trades
        count = _counts(spec.minute_trades, busy)
        before = np.cumsum(count) - count + day * DAY_MINUTES * spec.minute_trades
        time_ms = EPOCH_MS + (day * DAY_MINUTES + np.arange(DAY_MINUTES, dtype=np.int64)) * _UNIT_MS
        return Rows(
            time_ms, _whole(open_), _whole(high), _whole(low), _whole(close), _whole(volume + 4 * count), count, before
        )


def _path(rng: np.random.Generator, sigma_mean: float, start: float, end: float) -> tuple[Floats, Floats]:
    """Return a day's volatility per minute and its log path (one longer), from `start` to `end` exactly."""
    hours = DAY_MINUTES // 60
    regime = np.repeat(rng.choice([0.6, 1.0, 1.0, 1.6, 2.6], hours), 60)
    drift = np.repeat(rng.normal(0.0, 0.12 * sigma_mean, hours), 60)
    news = rng.standard_normal(DAY_MINUTES + len(_CLUSTER) - 1)
    cluster = np.convolve(news, _CLUSTER, mode="valid") * 0.13
    sigma = sigma_mean * regime * np.exp(cluster - 0.07)
    returns = sigma * rng.standard_t(4, DAY_MINUTES) / math.sqrt(2.0) + drift
    jumps = rng.random(DAY_MINUTES) < 1 / 400
    returns += jumps * rng.choice([-1.0, 1.0], DAY_MINUTES) * sigma_mean * rng.uniform(4.0, 10.0, DAY_MINUTES)
    path = np.concatenate([np.zeros(1), np.cumsum(returns)])
    path += start + np.linspace(0.0, 1.0, DAY_MINUTES + 1) * (end - start - path[-1])
    return sigma, path


def _counts(per_minute: int, busy: Floats) -> Ints:
    """Return trades per minute: more when busy, at least a third of the mean, exactly 1440 times the mean a day."""
    least = per_minute // 3
    spare = (per_minute - least) * DAY_MINUTES
    weight = np.minimum(busy, 4.0)
    count: Ints = np.floor(weight / weight.sum() * spare).astype(np.int64)
    count[: spare - int(count.sum())] += 1
    count += least
    return count


def _whole(column: Floats) -> Ints:
    found: Ints = column.astype(np.int64)
    return found
