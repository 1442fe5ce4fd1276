"""TA-Lib's functions with names, types and units. TA-Lib is imported when the first one is called.

Periods are in bars and at least 2 (TA-Lib's own limit is 1 for some; a period of 1 is the price itself). Each run of
rows without NaN is computed on its own (`fks.indicators.gaps`): TA-Lib itself returns 0 or NaN for ever after one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np

from fks.indicators.gaps import by_part, missing_rows
from fks.model.bar import Floats
from fks.model.errors import unprocessable

#: functions that return rows, counted from the first one that they are given
_ROWS = frozenset({"MAXINDEX", "MININDEX", "MINMAXINDEX"})


class Macd(NamedTuple):
    """The MACD line, its signal line and their difference."""

    line: Floats
    signal: Floats
    histogram: Floats


class Bands(NamedTuple):
    """Bollinger's bands."""

    upper: Floats
    middle: Floats
    lower: Floats


@cache
def talib() -> Any:
    """Import TA-Lib without what it only imports to wrap other libraries' columns: 45 MB and 0.3 s in every process."""
    hidden = [name for name in ("pandas", "polars") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "there is no such module"
    try:
        import talib
        import talib.abstract
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    return talib


def talib_lookback(function: str, params: Mapping[str, float]) -> int:
    """Return how many first bars have no value, as TA-Lib itself says. Errors: InputError INDICATOR_PARAM."""
    made = talib().abstract.Function(function)
    made.parameters = dict(params)
    return int(made.lookback)


def talib_call(function: str, columns: Sequence[Floats], params: Mapping[str, float], lookback: int) -> Any:
    """Return what a function of TA-Lib returns, as float64 with NaN in the first `lookback` rows.

    TA-Lib gives whole numbers (patterns, positions) with 0 there, which would be a value. Positions are rows of the
    columns given, after a gap too.
    Errors: InputError INDICATOR_PARAM for parameters that do not go together.
    """

    def call(*part: Floats, **params: float) -> Any:
        found = getattr(talib(), function)(*part, **params)
        if isinstance(found, tuple):
            return tuple(_as_floats(column, lookback) for column in found)
        return _as_floats(found, lookback)

    try:
        result = by_part(call, *columns, **params)
    except Exception as error:  # TA-Lib raises plain Exception with its error code in the text
        given = " ".join(f"{key}={value:g}" for key, value in params.items())
        raise unprocessable(
            "INDICATOR_PARAM",
            f"TA-Lib {function} refuses {given or 'its input'}: {error}",
            "see the parameters in docs/indicators.md",
        ) from error
    if function in _ROWS and (missing := missing_rows(*columns)) is not None:
        rows = np.arange(len(missing))
        starts = np.maximum.accumulate(np.where(missing, rows + 1, 0))
        return tuple(column + starts for column in result) if isinstance(result, tuple) else result + starts
    return result


def _as_floats(column: Any, lookback: int) -> Floats:
    if column.dtype == np.float64:
        return cast(Floats, column)
    values: Floats = column.astype(np.float64)
    values[:lookback] = np.nan
    return values


def sma(values: Floats, period: int) -> Floats:
    """Return the simple moving average. It is a running sum: for ties on prices use `cross_side`, which is exact."""
    result: Floats = by_part(talib().SMA, values, timeperiod=period)
    return result


def ema(values: Floats, period: int) -> Floats:
    """Return the exponential moving average, alpha 2/(period+1), started with the SMA of the first `period` values."""
    result: Floats = by_part(talib().EMA, values, timeperiod=period)
    return result


def wma(values: Floats, period: int) -> Floats:
    """Return the linearly weighted moving average."""
    result: Floats = by_part(talib().WMA, values, timeperiod=period)
    return result


def rsi(values: Floats, period: int) -> Floats:
    """Return Wilder's RSI, 0 to 100. While the price has not moved at all since the start it is 50 (TA-Lib says 0)."""
    if missing_rows(values) is not None:
        return cast(Floats, by_part(rsi, values, period=period))
    result: Floats = talib().RSI(values, timeperiod=period)
    if len(values):
        is_flat = np.equal(values, values[0])
        start = len(values) if is_flat.all() else int(np.argmin(is_flat))
        result[period:start] = 50.0
    return result


def macd(values: Floats, fast: int = 12, slow: int = 26, signal: int = 9) -> Macd:
    """Return MACD: EMA(fast) - EMA(slow), its EMA(signal), and the difference of both."""
    return Macd(*by_part(talib().MACD, values, fastperiod=fast, slowperiod=slow, signalperiod=signal))


def bbands(values: Floats, period: int = 20, deviations: float = 2.0) -> Bands:
    """Return the SMA and the bands `deviations` population standard deviations away. For a decision at a band use
    `band_side`, which is exact."""
    return Bands(*by_part(talib().BBANDS, values, timeperiod=period, nbdevup=deviations, nbdevdn=deviations, matype=0))


def stddev(values: Floats, period: int) -> Floats:
    """Return the population standard deviation."""
    result: Floats = by_part(talib().STDDEV, values, timeperiod=period, nbdev=1.0)
    return result


def atr(high: Floats, low: Floats, close: Floats, period: int = 14) -> Floats:
    """Return Wilder's average true range, in price units."""
    result: Floats = by_part(talib().ATR, high, low, close, timeperiod=period)
    return result


def adx(high: Floats, low: Floats, close: Floats, period: int = 14) -> Floats:
    """Return Wilder's average directional index, 0 to 100."""
    result: Floats = by_part(talib().ADX, high, low, close, timeperiod=period)
    return result


def roc(values: Floats, period: int) -> Floats:
    """Return the rate of change over `period` bars, in percent."""
    result: Floats = by_part(talib().ROC, values, timeperiod=period)
    return result


def highest(values: Floats, period: int) -> Floats:
    """Return the highest of the last `period` values, this one included."""
    result: Floats = by_part(talib().MAX, values, timeperiod=period)
    return result


def lowest(values: Floats, period: int) -> Floats:
    """Return the lowest of the last `period` values, this one included."""
    result: Floats = by_part(talib().MIN, values, timeperiod=period)
    return result


def obv(close: Floats, volume: Floats) -> Floats:
    """Return on-balance volume, in base units, from the first bar on."""
    result: Floats = by_part(talib().OBV, close, volume)
    return result
