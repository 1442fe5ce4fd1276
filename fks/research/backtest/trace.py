"""Trace of one decision of a strategy: its target, and the values that it computed at one bar.

Run as a program (`python -m fks.research.backtest.trace`) it evaluates users' code in a process of its own: a request
on standard input, an answer on standard output. The caller limits its time.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

import fks.indicators
from fks.model.bar import Bars
from fks.model.errors import FksError
from fks.model.instrument import folded
from fks.strategies.base import Strategy, evaluate
from fks.strategies.registry import load_catalogue

_INDICATORS = str(Path(fks.indicators.__file__).parent)
_PRICES = ("open", "high", "low", "close", "volume")
_VALUES_MAX = 40


@dataclass(frozen=True, slots=True)
class Value:
    """A column that the strategy computed: an indicator (`sma`, with its parameters) or a variable of `decide`."""

    name: str
    params: Mapping[str, float]
    now: float | None  # at the bar; None = not a number yet
    before: float | None  # at the bar before it


@dataclass(frozen=True, slots=True)
class Traced:
    """Targets of the strategy at the last bar and at the one before it, and the values that led to them."""

    warmup: int
    bars: int
    target_before: float
    target: float
    stop_loss: float | None
    take_profit: float | None
    values: tuple[Value, ...]


def trace(strategy: Strategy, bars: Bars) -> Traced:
    """Evaluate the strategy on `bars` and return its decision at the last one, with the columns that led to it.

    Errors: StrategyError, and whatever the strategy raises.
    """
    recorder = _Recorder(strategy, len(bars))
    before = sys.getprofile()
    sys.setprofile(recorder.see)
    try:
        decisions = evaluate(strategy, bars)
    finally:
        sys.setprofile(before)
    count = len(bars)
    return Traced(
        warmup=strategy.warmup(),
        bars=count,
        target_before=float(decisions.target[-2]) if count > 1 else 0.0,
        target=float(decisions.target[-1]) if count else 0.0,
        stop_loss=_at(decisions.stop_loss, -1),
        take_profit=_at(decisions.take_profit, -1),
        values=tuple(recorder.values[:_VALUES_MAX]),
    )


class _Recorder:
    """Notes what indicators return to the strategy, and the variables of `decide` when it returns."""

    def __init__(self, strategy: Strategy, count: int) -> None:
        self.values: list[Value] = []
        self._decide: CodeType | None = getattr(type(strategy).decide, "__code__", None)
        self._count = count

    def see(self, frame: FrameType, event: str, result: Any) -> None:
        """Be the profile function of the evaluating thread."""
        if event != "return":
            return
        if frame.f_code is self._decide:
            for name, value in frame.f_locals.items():
                self._note(name, {}, value)
        elif frame.f_code.co_filename.startswith(_INDICATORS) and frame.f_back is not None:
            if frame.f_back.f_code.co_filename.startswith(_INDICATORS):
                return  # it is part of another indicator
            given = {
                name: float(value)
                for name, value in frame.f_locals.items()
                if name in frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
                and isinstance(value, int | float)
            }
            for name, params, column in _behind(frame):
                self._note(name, params, column)
            if isinstance(result, dict):  # of `compute`: the indicator that it was asked for, with its parameters
                name, given = frame.f_locals.get("name", ""), frame.f_locals.get("values", {})
                parts = {"" if part == name else part: column for part, column in result.items()}
            else:
                name = frame.f_code.co_name
                parts = result._asdict() if hasattr(result, "_asdict") else {"": result}
            for part, column in parts.items():
                self._note(f"{name}{f'.{part}' if part else ''}", given, column)

    def _note(self, name: str, params: Mapping[str, float], column: object) -> None:
        if not isinstance(column, np.ndarray) or column.shape != (self._count,) or column.dtype.kind not in "fiub":
            return
        found = Value(name, dict(params), _at(column, -1), _at(column, -2))
        if found not in self.values:
            self.values.append(found)


def _behind(frame: FrameType) -> list[tuple[str, dict[str, float], object]]:
    """Return the averages behind an exact comparison, which itself works in integers that a person cannot interpret."""
    given = frame.f_locals
    if frame.f_code.co_name == "cross_side":
        names = ("fast", "slow")
        return [("sma", {"period": given[name]}, fks.indicators.sma(given["values"], given[name])) for name in names]
    if frame.f_code.co_name == "band_side":
        period, deviations = given["period"], given["deviations"]
        bands = fks.indicators.bbands(given["values"], period, deviations)._asdict()
        params = {"period": period, "deviations": deviations}
        return [(f"bbands.{part}", params, column) for part, column in bands.items()]
    return []


def _at(column: Any, index: int) -> float | None:
    if column is None or len(column) < -index:
        return None
    value = float(column[index])
    return value if np.isfinite(value) else None


# ── in a process of its own ──────────────────────────────────────────────────────────────────────
def request_of(strategy: str, params: Mapping[str, Any], bars: Bars, folder: Path | None) -> bytes:
    """Return the input of `main`: one line of JSON, then the columns of the bars and of their inputs."""
    head = {
        "strategy": strategy,
        "params": dict(params),
        "symbol": bars.symbol,
        "timeframe": bars.timeframe,
        "folder": None if folder is None else str(folder),
        "inputs": {name: part.symbol for name, part in bars.inputs.items()},
    }
    stream = io.BytesIO()
    stream.write(json.dumps(head).encode() + b"\n")
    np.save(stream, bars.time_ns, allow_pickle=False)
    for part in (bars, *bars.inputs.values()):
        np.save(stream, np.stack([getattr(part, name) for name in _PRICES]), allow_pickle=False)
    return stream.getvalue()


def answer_to(request: bytes) -> dict[str, Any]:
    """Return the traced decision as JSON, {"inputs"} with the symbols whose bars the strategy reads and the request
    lacks, or {"error"} with the strategy's error."""
    stream = io.BytesIO(request)
    head = json.loads(stream.readline())
    time_ns = np.load(stream, allow_pickle=False)
    bars = Bars(head["symbol"], head["timeframe"], time_ns, *np.load(stream, allow_pickle=False))
    others = {
        name: Bars(symbol, bars.timeframe, time_ns, *np.load(stream, allow_pickle=False))
        for name, symbol in head["inputs"].items()
    }
    try:
        folder = None if head["folder"] is None else Path(head["folder"])
        strategy = load_catalogue(folder).make(head["strategy"], head["params"])
        if missing := [symbol for symbol in strategy.inputs() if folded(symbol) not in others]:
            return {"inputs": missing}
        return asdict(trace(strategy, bars.joined(others)))
    except FksError as error:
        return {"error": str(error)}
    except Exception as error:  # code of users may raise anything
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer the one request on standard input."""
    answer, out = answer_to(sys.stdin.buffer.read()), sys.stdout
    out.write("\n" + json.dumps(answer) + "\n")  # on a line of its own: the strategy may print


if __name__ == "__main__":
    main()
