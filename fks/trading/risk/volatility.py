"""Volatility of bars for sizing: exact integers, so that a run over all bars and one over the newest give the same."""

from __future__ import annotations

from decimal import Decimal
from math import isqrt

import numpy as np

from fks.model.bar import Bars, Ints
from fks.trading.risk.sizing import Sizing

PLACES = 8  # decimal places of a volatility; it is rounded up in the last of them
_SCALE = 10**PLACES


def volatility_at(sizing: Sizing, bars: Bars, index: int) -> Decimal | None:
    """Return the volatility at the close of a bar, in quote; None without enough bars before it, or without a
    volatility in the sizing. See `volatilities`."""
    start = index - sizing.bars
    if not sizing.bars or start < 0:
        return None
    part = bars[start : index + 1]
    part = part.known(len(part)) if part.rolls else part  # the gap of a roll moved no price
    return Decimal(int(volatilities(sizing, part, np.array([sizing.bars]))[0])).scaleb(-PLACES)


def volatilities(sizing: Sizing, bars: Bars, indexes: Ints) -> Ints:
    """Return the volatility at the close of some bars as integers of 1e-8; -1 where there are too few bars before one.

    ATR: the mean of the last `sizing.bars` true ranges, the greatest of high less low and the distances of both from
    the close before (Wilder, New Concepts in Technical Trading Systems, 1978, without his smoothing, which depends on
    the first bar). Standard deviation: of the last `sizing.bars` changes of the close, sample formula.
    """
    count, ticks = sizing.bars, bars.ticks
    found = np.full(len(indexes), -1, dtype=np.int64)
    places = np.flatnonzero(indexes >= count)
    if not count or not len(places):
        return found
    ends = indexes[places]
    before, close = ticks.close[:-1], ticks.close[1:]
    if sizing.name == "atr_pct":
        per = count * 10**ticks.places
        sums = _sums(np.maximum(ticks.high[1:], before) - np.minimum(ticks.low[1:], before), ends, count)
        found[places] = [-(-total * _SCALE // per) for total in sums]
    else:
        moves = close - before
        is_large = len(moves) and int(np.abs(moves).max()) ** 2 * len(moves) >= 2**62
        squares = moves.astype(object) ** 2 if is_large else moves * moves
        per = count * (count - 1) * 10 ** (2 * ticks.places)
        for place, first, second in zip(
            places.tolist(), _sums(moves, ends, count), _sums(squares, ends, count), strict=True
        ):
            wide = (count * second - first * first) * _SCALE * _SCALE
            root = isqrt(wide // per)
            found[place] = root + (root * root * per < wide)
    return found


def _sums(values: Ints, ends: Ints, count: int) -> list[int]:
    """Return the sum of the `count` values before each of `ends`, as Python's integers."""
    total = np.concatenate([values[:0], [0], np.cumsum(values)])
    sums: list[int] = (total[ends] - total[ends - count]).tolist()
    return sums
