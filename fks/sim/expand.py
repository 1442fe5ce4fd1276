"""Expansion of bars to trades: a deterministic walk open → (one extreme → the other) → close whose aggregate is exactly
the bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fks.model.bar import Floats, Ints
from fks.sim.source import Rows

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trades:
    """Columns of trades in order: `time_ms`, `price` in ticks, `lots`, `is_maker` (the buyer was resting).

    `first` is the market's number of the first one; `starts[i]` is where row i of the expanded rows begins.
    """

    time_ms: Ints
    price: Ints
    lots: Ints
    is_maker: Bools
    first: int
    starts: Ints

    def __len__(self) -> int:
        return int(self.time_ms.shape[0])


def expand(rows: Rows, unit_ms: int, rng: np.random.Generator) -> Trades:
    """Return the trades of `rows`. Each row's first trade is at its open time and price, its last at its close.

    An up bar visits its low first, a down bar its high. Rows with `count` 0 have no trades.
    """
    count = rows.count
    total = int(count.sum())
    starts = np.cumsum(count) - count
    row = np.repeat(np.arange(len(rows)), count)
    place = np.arange(total) - starts[row]
    price = _prices(rows, row, place, rng, total)
    time_ms = rows.time_ms[row] + _times(row, place, starts, count, unit_ms, rng, total)
    lots = _lots(rows, row, starts, rng, total)
    moves = np.diff(price, prepend=price[:1] if total else 0)
    is_maker = np.where(moves == 0, rng.random(total) < 0.5, moves < 0)
    return Trades(time_ms, price, lots, is_maker, int(rows.first[0]) if len(rows) else 0, starts)


def _prices(rows: Rows, row: Ints, place: Ints, rng: np.random.Generator, total: int) -> Ints:
    last = rows.count - 1
    spare = np.maximum(rows.count - 3, 0)
    one = 1 + np.floor(rng.random(len(rows)) * spare).astype(np.int64)
    two = one + 1 + np.floor(rng.random(len(rows)) * np.maximum(rows.count - 2 - one, 0)).astype(np.int64)
    up = rows.close >= rows.open
    first_extreme, second_extreme = np.where(up, rows.low, rows.high), np.where(up, rows.high, rows.low)
    stations = np.stack([np.zeros_like(one), one, two, last])
    values = np.stack([rows.open, first_extreme, second_extreme, rows.close]).astype(np.float64)
    leg = (place >= one[row]).astype(np.int64) + (place >= two[row])
    left, right = stations[leg, row], stations[leg + 1, row]
    share = (place - left) / np.maximum(right - left, 1)
    walk = np.cumsum(rng.standard_normal(total))
    base = np.cumsum(rows.count) - rows.count
    at_left, at_right = walk[base[row] + left], walk[np.minimum(base[row] + right, max(total - 1, 0))]
    noise = walk - at_left - (at_right - at_left) * share
    reach = ((rows.high - rows.low) / np.sqrt(np.maximum(rows.count, 1)))[row]
    price = values[leg, row] + (values[leg + 1, row] - values[leg, row]) * share + noise * reach
    bounded = _reflected(np.rint(price), rows.low[row], rows.high[row])
    for station, value in zip(stations, values.astype(np.int64), strict=True):
        bounded = np.where(place == station[row], value[row], bounded)  # after rounding and short rows: exact
    return bounded


def _reflected(price: Floats, low: Ints, high: Ints) -> Ints:
    """Return prices that turn back at the extremes of their bar: cut off there, a market would stand still for long."""
    span = np.maximum(high - low, 1)
    beyond = np.mod(price - low, 2 * span)
    found: Ints = np.minimum(low + span - np.abs(beyond - span), high).astype(np.int64)
    return found


def _times(
    row: Ints, place: Ints, starts: Ints, count: Ints, unit_ms: int, rng: np.random.Generator, total: int
) -> Ints:
    gaps: Floats = rng.exponential(1.0, total)
    gaps[place == 0] = 0.0
    passed = np.cumsum(gaps)
    rest = rng.exponential(1.0, len(count))  # the pause after the last trade
    begin = np.zeros(len(count))
    full = count > 0
    begin[full] = passed[starts[full]]
    whole = np.ones(len(count))
    whole[full] = passed[(starts + count - 1)[full]] - begin[full] + rest[full]
    found: Ints = np.floor((passed - begin[row]) / whole[row] * (unit_ms - 1)).astype(np.int64)
    return found


def _lots(rows: Rows, row: Ints, starts: Ints, rng: np.random.Generator, total: int) -> Ints:
    weight = rng.exponential(1.0, total) ** 1.5
    sums = np.bincount(row, weights=weight, minlength=len(rows))
    spare = np.maximum(rows.volume - rows.count, 0)
    lots: Ints = np.floor(weight / sums[row] * spare[row]).astype(np.int64) + 1
    short = rows.volume < rows.count
    if short.any():  # a tape's bar with fewer lots than points to visit: the last ones trade nothing
        place = np.arange(total) - starts[row]
        lots = np.where(short[row], (place < rows.volume[row]).astype(np.int64), lots)
    left = rows.volume - np.bincount(row, weights=lots, minlength=len(rows)).astype(np.int64)
    full = rows.count > 0
    lots[starts[full]] += left[full]
    return lots
