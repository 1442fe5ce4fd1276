"""The table of indicators: what each reads, its parameters, what it returns and how long it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from fks.indicators import functions as f
from fks.model.bar import Bars, Floats
from fks.model.errors import InputError


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: its default, its limits (inclusive) and its type, which is that of the default."""

    default: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Indicator:
    """A row. `columns` are those of Bars it reads, `outputs` name what it returns.

    `lookback(params)` is how many bars have no value yet. `is_recursive`: the value depends on the first bar, less
    and less; it is settled to about 1e-7 after `settled(params)` bars.
    """

    name: str
    summary: str
    columns: tuple[str, ...]
    params: Mapping[str, Param]
    outputs: tuple[str, ...]
    function: Callable[..., Any]
    lookback: Callable[[Mapping[str, Any]], int]
    is_recursive: bool = False
    memory: Callable[[Mapping[str, Any]], float] | None = None

    def settled(self, params: Mapping[str, Any]) -> int:
        """Return the bars after which a later start gives the same value (to about 1e-7 when it is recursive)."""
        return self.lookback(params) + (int(16 * self.memory(params)) if self.memory else 0)


_PERIOD = Param(14, 2, 100_000)


def _row(
    name: str,
    summary: str,
    columns: str,
    function: Callable[..., Any],
    lookback: Callable[[Mapping[str, Any]], int],
    *,
    params: Mapping[str, Param] | None = None,
    outputs: str = "",
    memory: Callable[[Mapping[str, Any]], float] | None = None,
) -> Indicator:
    return Indicator(
        name,
        summary,
        tuple(columns.split()),
        params if params is not None else {"period": _PERIOD},
        tuple((outputs or name).split()),
        function,
        lookback,
        memory is not None,
        memory,
    )


_MACD = {"fast": Param(12, 2, 100_000), "slow": Param(26, 2, 100_000), "signal": Param(9, 2, 100_000)}
_BANDS = {"period": Param(20, 2, 100_000), "deviations": Param(2.0, 0.0, 100.0)}

INDICATORS: dict[str, Indicator] = {
    row.name: row
    for row in (
        _row("sma", "simple moving average", "close", f.sma, lambda p: p["period"] - 1),
        _row(
            "ema",
            "exponential moving average",
            "close",
            f.ema,
            lambda p: p["period"] - 1,
            memory=lambda p: p["period"] / 2,
        ),
        _row("wma", "weighted moving average", "close", f.wma, lambda p: p["period"] - 1),
        _row(
            "rsi",
            "relative strength index, 0..100",
            "close",
            f.rsi,
            lambda p: p["period"],
            memory=lambda p: p["period"],
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
        ),
        _row(
            "bbands",
            "Bollinger bands",
            "close",
            f.bbands,
            lambda p: p["period"] - 1,
            params=_BANDS,
            outputs="upper middle lower",
        ),
        _row("stddev", "population standard deviation", "close", f.stddev, lambda p: p["period"] - 1),
        _row("atr", "average true range", "high low close", f.atr, lambda p: p["period"], memory=lambda p: p["period"]),
        _row(
            "adx",
            "average directional index, 0..100",
            "high low close",
            f.adx,
            lambda p: 2 * p["period"] - 1,
            memory=lambda p: 2 * p["period"],
        ),
        _row("roc", "rate of change, percent", "close", f.roc, lambda p: p["period"]),
        _row("highest", "highest close of a window", "close", f.highest, lambda p: p["period"] - 1),
        _row("lowest", "lowest close of a window", "close", f.lowest, lambda p: p["period"] - 1),
        _row("obv", "on-balance volume (from the first bar)", "close volume", f.obv, lambda p: 0, params={}),
    )
}


def compute(name: str, bars: Bars, **params: float) -> dict[str, Floats]:
    """Return the outputs of indicator `name` over `bars`, one column each, all of the bars' length.

    Errors: InputError INDICATOR_UNKNOWN or INDICATOR_PARAM with what would be right.
    """
    row = INDICATORS.get(name)
    if row is None:
        raise InputError(
            f"unknown indicator {name!r}", code="INDICATOR_UNKNOWN", remedy=f"use one of {' '.join(INDICATORS)}"
        )
    values = {key: _checked(name, key, params.pop(key, param.default), param) for key, param in row.params.items()}
    if params:
        raise InputError(
            f"indicator {name} has no parameter {next(iter(params))!r}",
            code="INDICATOR_PARAM",
            remedy=f"it has: {' '.join(row.params) or 'none'}",
        )
    columns = [np.ascontiguousarray(getattr(bars, column), dtype=np.float64) for column in row.columns]
    result = row.function(*columns, **values)
    return dict(zip(row.outputs, result if isinstance(result, tuple) else (result,), strict=True))


def _checked(name: str, key: str, value: float, param: Param) -> float:
    if (
        not isinstance(value, Real)
        or not param.least <= value <= param.most
        or (isinstance(param.default, int) and value != int(value))
    ):
        raise InputError(
            f"{name}: {key} {value!r} is out of range",
            code="INDICATOR_PARAM",
            remedy=f"use {'a whole number ' if isinstance(param.default, int) else ''}from {param.least:g} to "
            f"{param.most:g}",
        )
    return int(value) if isinstance(param.default, int) else float(value)
