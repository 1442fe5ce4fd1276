"""The table of indicators: each one's inputs, parameters, outputs and warm-up length.

Rows with functions of their own come first; the rest of TA-Lib is in `talib_table`, which is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fks.indicators import functions as f
from fks.indicators import sessions as s
from fks.indicators import windows as w
from fks.indicators.talib_table import TALIB, Params
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError, invalid, unprocessable

Values = Mapping[str, Any]
Warmup = Literal["window", "recursive", "path", "session"]
Column = npt.NDArray[Any]

#: order of the groups in the documentation; TA-Lib's names, and one of ours
GROUPS = (
    "Overlap Studies",
    "Momentum Indicators",
    "Volatility Indicators",
    "Volume Indicators",
    "Sessions",
    "Price Transform",
    "Statistic Functions",
    "Cycle Indicators",
    "Pattern Recognition",
    "Math Operators",
    "Math Transform",
)
_COLUMNS = frozenset({"time_ns", "open", "high", "low", "close", "volume"})
_OTHER = "other."
#: averages of TA-Lib's MA_Type that depend on a window only; 6 and 7 adapt, and take up to 4,000 bars and for ever
_WINDOW_TYPES = frozenset({0, 2, 5, 9, 10})
_ADAPTIVE_TYPES = frozenset({6, 7})
_ADAPTIVE_MEMORY = 250.0


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its default, its limits (inclusive) and its type, which is that of the default."""

    default: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Indicator:
    """A row. `columns` are those of Bars it reads ("other.close": of a second series), `outputs` name what it returns.

    `lookback(params)` is how many bars have no value yet. `warmup` is how the first bar counts after that: "window" not
    at all; "recursive" less and less, to about 1e-7 after `settled(params)` bars; "path" for ever, or until something
    that no number of bars bounds; "session": no value until a session of the bars has begun or ended. `talib` is the
    TA-Lib function that computes it.
    """

    name: str
    summary: str
    columns: tuple[str, ...]
    params: Mapping[str, Param]
    outputs: tuple[str, ...]
    function: Callable[..., Any]
    lookback: Callable[[Values], int]
    warmup: Warmup = "window"
    memory: Callable[[Values], float] | None = None
    group: str = ""
    talib: str = ""

    def settled(self, params: Values) -> int:
        """Return the bars after which a later start gives the same value (to about 1e-7 when it is recursive).

        For the warm-ups "path" and "session" no number of bars is enough for certain: it is the lookback.
        """
        return self.lookback(params) + (int(16 * self.memory(params)) if self.memory else 0)


_PERIOD = Param(14, 2, 100_000)
_AVERAGES, _MOMENTUM, _STATISTICS = "Overlap Studies", "Momentum Indicators", "Statistic Functions"


def _row(
    name: str,
    summary: str,
    columns: str,
    function: Callable[..., Any],
    lookback: Callable[[Values], int],
    *,
    params: Mapping[str, Param] | None = None,
    outputs: str = "",
    memory: Callable[[Values], float] | None = None,
    warmup: Warmup | None = None,
    group: str = _AVERAGES,
    talib: str = "",
) -> Indicator:
    return Indicator(
        name,
        summary,
        tuple(columns.split()),
        params if params is not None else {"period": _PERIOD},
        tuple((outputs or name).split()),
        function,
        lookback,
        warmup or ("recursive" if memory else "window"),
        memory,
        group,
        talib,
    )


_MACD = {"fast": Param(12, 2, 100_000), "slow": Param(26, 2, 100_000), "signal": Param(9, 2, 100_000)}
_BANDS = {"period": Param(20, 2, 100_000), "deviations": Param(2.0, 0.0, 100.0)}
_ICHIMOKU = {
    "conversion": Param(9, 2, 100_000),
    "base": Param(26, 2, 100_000),
    "span": Param(52, 2, 100_000),
    "shift": Param(26, 0, 100_000),
}
_VOLATILITY = {"period": Param(30, 2, 100_000), "per_year": Param(1.0, 0.0, 1e9)}
_START = {"start_hour": Param(0.0, 0.0, 23.99)}
_HLC = "high low close"

_OURS = (
    _row("sma", "simple moving average", "close", f.sma, lambda p: p["period"] - 1, talib="SMA"),
    _row(
        "ema",
        "exponential moving average",
        "close",
        f.ema,
        lambda p: p["period"] - 1,
        memory=lambda p: p["period"] / 2,
        talib="EMA",
    ),
    _row("wma", "weighted moving average", "close", f.wma, lambda p: p["period"] - 1, talib="WMA"),
    _row(
        "rsi",
        "relative strength index, 0..100",
        "close",
        f.rsi,
        lambda p: p["period"],
        memory=lambda p: p["period"],
        group=_MOMENTUM,
        talib="RSI",
    ),
    _row(
        "macd",
        "moving average convergence divergence",
        "close",
        f.macd,
        lambda p: p["slow"] + p["signal"] - 2,
        params=_MACD,
        outputs="line signal histogram",
        memory=lambda p: (p["slow"] + p["signal"]) / 2,
        group=_MOMENTUM,
        talib="MACD",
    ),
    _row(
        "bbands",
        "Bollinger bands",
        "close",
        f.bbands,
        lambda p: p["period"] - 1,
        params=_BANDS,
        outputs="upper middle lower",
        talib="BBANDS",
    ),
    _row(
        "stddev",
        "population standard deviation",
        "close",
        f.stddev,
        lambda p: p["period"] - 1,
        group=_STATISTICS,
        talib="STDDEV",
    ),
    _row(
        "atr",
        "average true range",
        _HLC,
        f.atr,
        lambda p: p["period"],
        memory=lambda p: p["period"],
        group="Volatility Indicators",
        talib="ATR",
    ),
    _row(
        "adx",
        "average directional index, 0..100",
        _HLC,
        f.adx,
        lambda p: 2 * p["period"] - 1,
        memory=lambda p: 2 * p["period"],
        group=_MOMENTUM,
        talib="ADX",
    ),
    _row("roc", "rate of change, percent", "close", f.roc, lambda p: p["period"], group=_MOMENTUM, talib="ROC"),
    _row(
        "highest",
        "highest close of a window",
        "close",
        f.highest,
        lambda p: p["period"] - 1,
        group="Math Operators",
        talib="MAX",
    ),
    _row(
        "lowest",
        "lowest close of a window",
        "close",
        f.lowest,
        lambda p: p["period"] - 1,
        group="Math Operators",
        talib="MIN",
    ),
    _row(
        "obv",
        "on-balance volume (from the first bar)",
        "close volume",
        f.obv,
        lambda p: 0,
        params={},
        warmup="path",
        group="Volume Indicators",
        talib="OBV",
    ),
    _row(
        "ichimoku",
        "Ichimoku Kinko Hyo, the cloud as drawn over the bar",
        "high low",
        w.ichimoku,
        lambda p: max(p["conversion"], p["base"], p["span"]) - 1 + p["shift"],
        params=_ICHIMOKU,
        outputs="conversion base span_a span_b",
    ),
    _row(
        "vwap_rolling",
        "volume-weighted average price of a window",
        "high low close volume",
        w.vwap_rolling,
        lambda p: p["period"] - 1,
        params={"period": Param(60, 2, 100_000)},
        group="Volume Indicators",
    ),
    _row(
        "zscore",
        "standard deviations from the mean of a window (exact sums)",
        "close",
        w.zscore,
        lambda p: p["period"] - 1,
        params={"period": Param(20, 2, 100_000)},
        group=_STATISTICS,
    ),
    _row(
        "realised_volatility",
        "root mean square of log returns, times the root of per_year",
        "close",
        w.realised_volatility,
        lambda p: p["period"],
        params=_VOLATILITY,
        group="Volatility Indicators",
    ),
    _row(
        "hurst",
        "generalised Hurst exponent: above 0.5 trending, below mean-reverting",
        "close",
        w.hurst,
        lambda p: p["period"] - 1,
        params={"period": Param(128, 16, 100_000)},
        group=_STATISTICS,
    ),
    _row(
        "rolling_correlation",
        "correlation of the log returns of two series, -1..1",
        "close other.close",
        w.rolling_correlation,
        lambda p: p["period"],
        params={"period": Param(60, 2, 100_000)},
        group=_STATISTICS,
    ),
    _row(
        "rolling_beta",
        "beta of the log returns to those of another series",
        "close other.close",
        w.rolling_beta,
        lambda p: p["period"],
        params={"period": Param(60, 2, 100_000)},
        group=_STATISTICS,
    ),
    _row(
        "vwap_session",
        "volume-weighted average price since the session began (UTC)",
        "time_ns high low close volume",
        s.vwap_session,
        lambda p: 0,
        params=_START,
        warmup="session",
        group="Sessions",
    ),
    _row(
        "pivot_points",
        "classic pivot points of the session before (UTC)",
        "time_ns high low close",
        s.pivot_points,
        lambda p: 0,
        params=_START,
        outputs="pivot r1 r2 r3 s1 s2 s3",
        warmup="session",
        group="Sessions",
    ),
)


def _of_talib(
    name: str,
    function: str,
    group: str,
    title: str,
    columns: str,
    outputs: str,
    params: Params,
    kind: str,
    memory: float,
) -> Indicator:
    """Return the row of a function of TA-Lib, which is imported when the row computes or gives a lookback."""
    known = {ours: Param(default, least, most) for ours, _, default, least, most in params}
    names = {ours: theirs for ours, theirs, *_ in params}
    types = [ours for ours in names if ours.endswith(("ma_type", "matype"))]

    def typed(values: Values) -> dict[str, float]:
        """Return all parameters by TA-Lib's names, each of its own type."""
        given = {ours: values.get(ours, param.default) for ours, param in known.items()}
        return {
            names[ours]: int(value) if isinstance(known[ours].default, int) else float(value)
            for ours, value in given.items()
        }

    def lookback(values: Values) -> int:
        return f.talib_lookback(function, typed(values))

    def settles(values: Values) -> float:
        chosen = {int(values.get(key, known[key].default)) for key in types} - _WINDOW_TYPES
        if chosen & _ADAPTIVE_TYPES:
            return _ADAPTIVE_MEMORY
        factor = max(memory, 1.0) if chosen else memory
        return memory / 16 if kind == "fixed" else factor * (lookback(values) + 3)

    def call(*columns: Floats, **values: float) -> Any:
        return f.talib_call(function, columns, typed(values), lookback(values))

    is_recursive = kind in ("wilder", "exponential", "fixed")
    return Indicator(
        name,
        title,
        tuple(columns.split()),
        known,
        tuple(outputs.split()),
        call,
        lookback,
        "path" if kind == "path" else "recursive" if is_recursive else "window",
        settles if is_recursive or types else None,
        group,
        function,
    )


INDICATORS: dict[str, Indicator] = {row.name: row for row in (*_OURS, *(_of_talib(*row) for row in TALIB))}


def warmup_text(row: Indicator) -> str:
    """Return how the first bar counts, in words: with the bars to settle for the defaults where there is a number."""
    if row.warmup != "recursive":
        return row.warmup  # nothing to count, or no number of bars to give
    return f"recursive, {row.settled({name: param.default for name, param in row.params.items()})} bars"


def compute(
    name: str,
    bars: Bars,
    *,
    other: Bars | None = None,
    columns: Sequence[str | Column] | None = None,
    **params: float,
) -> dict[str, Floats]:
    """Return the outputs of indicator `name` over `bars`, one column each, all of the bars' length.

    `other`: the second series of an indicator of two ("other.close"), with the same times. `columns`: inputs instead of
    the usual ones, by name ("volume", "other.high") or as arrays of the bars' length.
    Errors: InputError INDICATOR_UNKNOWN, INDICATOR_PARAM or INDICATOR_INPUT with what would be right.
    """
    row = indicator(name)
    values = {key: _checked(name, key, params.pop(key, param.default), param) for key, param in row.params.items()}
    if params:
        raise invalid(
            "INDICATOR_PARAM",
            f"indicator {name} has no parameter {next(iter(params))!r}",
            f"it has: {' '.join(row.params) or 'none'}",
        )
    wanted = row.columns if columns is None else columns
    if len(wanted) != len(row.columns):
        raise _input_error(name, f"reads {len(row.columns)} columns, not {len(wanted)}", row)
    if other is not None and not np.array_equal(other.time_ns, bars.time_ns):
        raise _input_error(name, f"got bars of {other.symbol} with other times than those of {bars.symbol}", row)
    inputs = [_input(row, bars, other, column) for column in wanted]
    if not len(bars):
        return {output: np.zeros(0) for output in row.outputs}
    result = row.function(*inputs, **values)
    return dict(zip(row.outputs, result if isinstance(result, tuple) else (result,), strict=True))


def indicator(name: str) -> Indicator:
    """Return the row called `name`. Errors: InputError INDICATOR_UNKNOWN naming similar ones."""
    from difflib import get_close_matches

    row = INDICATORS.get(name)
    if row is None:
        near = dict.fromkeys([*get_close_matches(name.lower(), INDICATORS, 4, 0.6), "sma", "ema", "rsi", "macd", "atr"])
        raise invalid(
            "INDICATOR_UNKNOWN",
            f"unknown indicator {name!r}",
            f"use one of {' '.join(near)} … (all: fks indicators list)",
        )
    return row


def _input(row: Indicator, bars: Bars, other: Bars | None, column: str | Column) -> Column:
    """Return a column to compute on. Errors: InputError INDICATOR_INPUT."""
    if isinstance(column, str):
        source, field = (other, column.removeprefix(_OTHER)) if column.startswith(_OTHER) else (bars, column)
        if source is None:
            raise _input_error(row.name, "needs a second series", row)
        if field not in _COLUMNS:
            raise _input_error(row.name, f"needs a column {column!r}, which bars do not have", row)
        if field == "time_ns":
            return source.time_ns
        column = getattr(source, field)
    values = np.ascontiguousarray(column, dtype=np.float64)
    if values.shape != (len(bars),):
        raise _input_error(row.name, f"got a column of shape {values.shape} for {len(bars)} bars", row)
    return values


def _input_error(name: str, what: str, row: Indicator) -> InputError:
    return unprocessable(
        "INDICATOR_INPUT",
        f"indicator {name} {what}",
        f"it reads {' '.join(row.columns)}; give other=bars for a second series and columns=(…) for others",
    )


def _checked(name: str, key: str, value: float, param: Param) -> float:
    if (
        not isinstance(value, Real)
        or not param.least <= value <= param.most
        or (isinstance(param.default, int) and value != int(value))
    ):
        raise invalid(
            "INDICATOR_PARAM",
            f"{name}: {key} {value!r} is out of range",
            f"use {'a whole number ' if isinstance(param.default, int) else ''}from {param.least:g} to {param.most:g}",
        )
    return int(value) if isinstance(param.default, int) else float(value)
