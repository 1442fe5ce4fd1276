"""TA-Lib's functions with names, types and units. TA-Lib is imported when the first one is called.

Periods are in bars and at least 2 (TA-Lib's own limit is 1 for some; a period of 1 is the price itself).
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fks.model.bar import Floats


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
def _talib() -> Any:
    """Import TA-Lib without what it only imports to wrap other libraries' columns: 45 MB and 0.3 s in every process."""
    hidden = [name for name in ("pandas", "polars") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "there is no such module"
    try:
        import talib
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    return talib


def sma(values: Floats, period: int) -> Floats:
    """Return the simple moving average. It is a running sum: for ties on prices use `cross_side`, which is exact."""
    result: Floats = _talib().SMA(values, timeperiod=period)
    return result


def ema(values: Floats, period: int) -> Floats:
    """Return the exponential moving average, alpha 2/(period+1), started with the SMA of the first `period` values."""
    result: Floats = _talib().EMA(values, timeperiod=period)
    return result


def wma(values: Floats, period: int) -> Floats:
    """Return the linearly weighted moving average."""
    result: Floats = _talib().WMA(values, timeperiod=period)
    return result


def rsi(values: Floats, period: int) -> Floats:
    """Return Wilder's RSI, 0 to 100. While the price has not moved at all since the start it is 50 (TA-Lib says 0)."""
    result: Floats = _talib().RSI(values, timeperiod=period)
    if len(values):
        is_flat = np.equal(values, values[0])
        start = len(values) if is_flat.all() else int(np.argmin(is_flat))
        result[period:start] = 50.0
    return result


def macd(values: Floats, fast: int = 12, slow: int = 26, signal: int = 9) -> Macd:
    """Return MACD: EMA(fast) - EMA(slow), its EMA(signal), and the difference of both."""
    return Macd(*_talib().MACD(values, fastperiod=fast, slowperiod=slow, signalperiod=signal))


def bbands(values: Floats, period: int = 20, deviations: float = 2.0) -> Bands:
    """Return the SMA and the bands `deviations` population standard deviations away. For a decision at a band use
    `band_side`, which is exact."""
    return Bands(*_talib().BBANDS(values, timeperiod=period, nbdevup=deviations, nbdevdn=deviations, matype=0))


def stddev(values: Floats, period: int) -> Floats:
    """Return the population standard deviation."""
    result: Floats = _talib().STDDEV(values, timeperiod=period, nbdev=1.0)
    return result


def atr(high: Floats, low: Floats, close: Floats, period: int = 14) -> Floats:
    """Return Wilder's average true range, in price units."""
    result: Floats = _talib().ATR(high, low, close, timeperiod=period)
    return result


def adx(high: Floats, low: Floats, close: Floats, period: int = 14) -> Floats:
    """Return Wilder's average directional index, 0 to 100."""
    result: Floats = _talib().ADX(high, low, close, timeperiod=period)
    return result


def roc(values: Floats, period: int) -> Floats:
    """Return the rate of change over `period` bars, in percent."""
    result: Floats = _talib().ROC(values, timeperiod=period)
    return result


def highest(values: Floats, period: int) -> Floats:
    """Return the highest of the last `period` values, this one included."""
    result: Floats = _talib().MAX(values, timeperiod=period)
    return result


def lowest(values: Floats, period: int) -> Floats:
    """Return the lowest of the last `period` values, this one included."""
    result: Floats = _talib().MIN(values, timeperiod=period)
    return result


def obv(close: Floats, volume: Floats) -> Floats:
    """Return on-balance volume, in base units, from the first bar on."""
    result: Floats = _talib().OBV(close, volume)
    return result
