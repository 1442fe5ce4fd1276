"""Array maths on bars: TA-Lib behind one typed registry, and exact integer helpers where a tie decides a trade.

Columns in, columns out: float64 arrays of the same length, NaN where there is no value yet. Recursive indicators (EMA,
RSI, MACD, ATR, ADX) depend on their first bar; every mode of FKS starts them at the same anchor bar
(docs/write-a-strategy.md).
"""

from fks.indicators.exact import band_side, cross_side, deviation_numerator, keep_last, places_of, rolling_sum, to_ticks
from fks.indicators.functions import (
    Bands,
    Macd,
    adx,
    atr,
    bbands,
    ema,
    highest,
    lowest,
    macd,
    obv,
    roc,
    rsi,
    sma,
    stddev,
    wma,
)
from fks.indicators.registry import INDICATORS, Indicator, Param, compute

__all__ = [
    "INDICATORS",
    "Bands",
    "Indicator",
    "Macd",
    "Param",
    "adx",
    "atr",
    "band_side",
    "bbands",
    "compute",
    "cross_side",
    "deviation_numerator",
    "ema",
    "highest",
    "keep_last",
    "lowest",
    "macd",
    "obv",
    "places_of",
    "roc",
    "rolling_sum",
    "rsi",
    "sma",
    "stddev",
    "to_ticks",
    "wma",
]
