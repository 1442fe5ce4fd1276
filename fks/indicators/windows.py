"""Indicators over a window of bars that TA-Lib does not have: VWAP, z-score, volatility, Hurst, correlation, Ichimoku.

Each value depends on the last `period` bars only (the sums are made again in blocks, so that nothing of the far past
stays in them). float64 columns of one length in and out, oldest first, NaN where there is no value yet. Each run of
rows without NaN is computed on its own (`fks.indicators.gaps`).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from fks.indicators.exact import deviation_numerator
from fks.indicators.functions import highest, lowest
from fks.indicators.gaps import by_part, missing_rows
from fks.model.bar import Floats


class Ichimoku(NamedTuple):
    """The conversion line, the base line and both edges of the cloud as they stand over this bar."""

    conversion: Floats
    base: Floats
    span_a: Floats
    span_b: Floats


def window_sum(values: Floats, period: int) -> Floats:
    """Return the sum of the last `period` values, in O(n) and with an error of that window only.

    Shapes: (n,) → (n,); the first period-1 are NaN, and so is the sum of a window that holds a NaN. A running sum keeps
    the rounding errors of all earlier values; here each window is the end of one block of `period` values and the
    beginning of the next.
    """
    count = len(values)
    result = np.full(count, np.nan)
    if count < period:
        return result
    blocks = np.zeros((-(-count // period), period))
    blocks.reshape(-1)[:count] = values
    begun = np.cumsum(blocks, axis=1).reshape(-1)[:count]
    ended = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    result[period - 1 :] = begun[period - 1 :]
    place = np.arange(period - 1, count)
    is_split = place % period != period - 1
    result[place[is_split]] += ended[place[is_split] - period + 1]
    return result


def vwap_rolling(high: Floats, low: Floats, close: Floats, volume: Floats, period: int = 60) -> Floats:
    """Return the mean of the typical price (high + low + close) / 3 of the last `period` bars, weighted by volume.

    Units: price. A window without any volume gives the plain mean of its typical prices.
    """
    if missing_rows(high, low, close, volume) is not None:
        return cast(Floats, by_part(vwap_rolling, high, low, close, volume, period=period))
    typical = (high + low + close) / 3.0
    weight = window_sum(volume, period)
    traded = window_sum(typical * volume, period)
    plain = window_sum(typical, period) / period
    return np.divide(traded, weight, out=plain, where=weight > 0)


def zscore(values: Floats, period: int = 20) -> Floats:
    """Return how many population standard deviations each value is above the mean of the last `period` (exact sums).

    A window that did not move gives 0.
    """
    away, spread = deviation_numerator(values, period)
    return np.divide(away, np.sqrt(spread), out=np.where(np.isnan(away), np.nan, 0.0), where=spread > 0)


def _returns(values: Floats) -> Floats:
    return np.diff(np.log(values))


def _after_first(values: Floats, count: int) -> Floats:
    """Return a column of returns aligned with its prices: the first price has no return."""
    return np.concatenate([np.full(min(1, count), np.nan), values])[:count]


def realised_volatility(close: Floats, period: int = 30, per_year: float = 1.0) -> Floats:
    """Return the root of the mean squared log return of the last `period` bars, times the root of `per_year`.

    `per_year`: how many such bars a year has (525600 for minutes that never pause); 1: per bar. Returns are not
    centred. Source: Andersen, Bollerslev, Diebold and Labys (2003), "Modeling and Forecasting Realized Volatility".
    """
    if missing_rows(close) is not None:
        return cast(Floats, by_part(realised_volatility, close, period=period, per_year=per_year))
    mean = window_sum(_returns(close) ** 2, period) / period
    return _after_first(np.sqrt(per_year * mean), len(close))


def hurst(close: Floats, period: int = 128) -> Floats:
    """Return the generalised Hurst exponent of order 2 of the last `period` log prices, fitted over lags 1, 2, 4, …

    Half the slope of log E|x(t + lag) - x(t)|² over log lag, for all lags up to a quarter of the period: 0.5 for a
    random walk, above it for trends, below it for a series that turns back. 0.5 where the window did not move.
    Source: Di Matteo (2007), "Multi-scaling in finance", Quantitative Finance 7(1).
    """
    if missing_rows(close) is not None:
        return cast(Floats, by_part(hurst, close, period=period))
    lags = [2**k for k in range(max(2, int(np.log2(period / 4)) + 1))]
    count = len(close)
    level = np.log(close)
    rows = np.full((len(lags), count), np.nan)
    for row, lag in zip(rows, lags, strict=True):
        if count > lag:
            row[lag:] = window_sum((level[lag:] - level[:-lag]) ** 2, period - lag) / (period - lag)
    has_moved = (rows > 0).all(axis=0)
    logs = np.log(np.where(has_moved, rows, 1.0))
    place = np.log(lags) - np.mean(np.log(lags))
    # row by row: a matrix product rounds differently for other numbers of bars
    slope = sum((weight * row for weight, row in zip(place, logs, strict=True)), np.zeros(count)) / (place @ place)
    result = np.where(has_moved, slope / 2.0, 0.5)
    result[: period - 1] = np.nan
    return result


def _moments(left: Floats, right: Floats, period: int) -> tuple[Floats, Floats, Floats]:
    """Return (covariance, variance of left, variance of right) of the log returns of the last `period` bars; a
    variance that is only rounding is 0."""
    x, y = _returns(left), _returns(right)
    mean_x, mean_y = window_sum(x, period) / period, window_sum(y, period) / period
    square_x, square_y = window_sum(x * x, period) / period, window_sum(y * y, period) / period
    shared = window_sum(x * y, period) / period - mean_x * mean_y
    wide_x, wide_y = square_x - mean_x**2, square_y - mean_y**2
    return (
        shared,
        np.where(wide_x > 1e-12 * square_x, wide_x, 0.0),
        np.where(wide_y > 1e-12 * square_y, wide_y, 0.0),
    )


def rolling_correlation(left: Floats, right: Floats, period: int = 60) -> Floats:
    """Return Pearson's correlation of the log returns of two price columns over the last `period` returns, -1 to 1.

    0 where one of them did not move. The columns must be of the same bars.
    """
    if missing_rows(left, right) is not None:
        return cast(Floats, by_part(rolling_correlation, left, right, period=period))
    shared, wide_x, wide_y = _moments(left, right, period)
    scale = np.sqrt(wide_x * wide_y)
    found = np.divide(shared, scale, out=np.where(np.isnan(shared), np.nan, 0.0), where=scale > 0)
    return _after_first(np.clip(found, -1.0, 1.0), len(left))


def rolling_beta(left: Floats, right: Floats, period: int = 60) -> Floats:
    """Return by how much `left` moves per move of `right`: covariance over the variance of `right`, of log returns.

    The slope of the least-squares line over the last `period` returns; 0 where `right` did not move.
    """
    if missing_rows(left, right) is not None:
        return cast(Floats, by_part(rolling_beta, left, right, period=period))
    shared, _, wide = _moments(left, right, period)
    found = np.divide(shared, wide, out=np.where(np.isnan(shared), np.nan, 0.0), where=wide > 0)
    return _after_first(found, len(left))


def ichimoku(
    high: Floats, low: Floats, conversion: int = 9, base: int = 26, span: int = 52, shift: int = 26
) -> Ichimoku:
    """Return the lines of Ichimoku Kinko Hyo; each is the middle of the range of its last `conversion`, `base` and
    `span` bars.

    The edges of the cloud are those drawn over this bar: they were computed `shift` bars ago. The lagging line (the
    close drawn `shift` bars back) is left out: over a bar it would show a later close.
    """
    if missing_rows(high, low) is not None:
        return cast(Ichimoku, by_part(ichimoku, high, low, conversion=conversion, base=base, span=span, shift=shift))
    first = max(conversion, base, span) - 1 + shift
    middle = [(highest(high, period) + lowest(low, period)) / 2.0 for period in (conversion, base, span)]
    late = [_shifted((middle[0] + middle[1]) / 2.0, shift), _shifted(middle[2], shift)]
    lines = [middle[0], middle[1], *late]
    for line in lines:
        line[:first] = np.nan
    return Ichimoku(*lines)


def _shifted(values: Floats, bars: int) -> Floats:
    """Return the column as it was `bars` bars before."""
    return np.concatenate([np.full(min(bars, len(values)), np.nan), values[: max(0, len(values) - bars)]])
