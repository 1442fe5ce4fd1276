"""Array maths on bars: TA-Lib behind one typed registry, and exact integer helpers where a tie decides a trade.

Columns in, columns out: float64 arrays of the same length, NaN where there is no value yet. `compute` has the
indicators by name (docs/indicators.md). Recursive indicators (EMA, RSI, MACD, ATR, ADX) depend on their first bar;
every mode of FKS starts them at the same anchor bar (docs/write-a-strategy.md).

Imported by: strategies, ai, store, research, interfaces
Begin with: `registry.py`
Most important: `registry.py`, `functions.py`, `exact.py`
"""

from fks.indicators.exact import band_side, cross_side, deviation_numerator, keep_last, rolling_sum, to_ticks
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
from fks.indicators.sessions import Pivots, local_seconds, pivot_points, session_starts, vwap_session
from fks.indicators.timeframes import Higher, higher
from fks.indicators.windows import (
    Ichimoku,
    hurst,
    ichimoku,
    realised_volatility,
    rolling_beta,
    rolling_correlation,
    vwap_rolling,
    window_sum,
    zscore,
)
from fks.model.ticks import places_of

__all__ = [
    "INDICATORS",
    "Bands",
    "Higher",
    "Ichimoku",
    "Indicator",
    "Macd",
    "Param",
    "Pivots",
    "adx",
    "atr",
    "band_side",
    "bbands",
    "compute",
    "cross_side",
    "deviation_numerator",
    "ema",
    "higher",
    "highest",
    "hurst",
    "ichimoku",
    "keep_last",
    "local_seconds",
    "lowest",
    "macd",
    "obv",
    "pivot_points",
    "places_of",
    "realised_volatility",
    "roc",
    "rolling_beta",
    "rolling_correlation",
    "rolling_sum",
    "rsi",
    "session_starts",
    "sma",
    "stddev",
    "to_ticks",
    "vwap_rolling",
    "vwap_session",
    "window_sum",
    "wma",
    "zscore",
]
