"""Bars with a known law, for forecasts: an autoregression whose attainable skill is its coefficient squared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fks.ai.forecast import LEVELS, Fold, ForecastModel, ForecastSpec, panel_of, train
from fks.ai.forecast_evaluation import TestedRows, drift, evaluation, tested
from fks.model.bar import Bars, Floats
from fks.model.timeframe import NS
from fks.research.jobs.forecast import folds_of

START_NS = 1_735_689_600 * NS
HOUR_NS = 3600 * NS


def autoregression(rows: int, phi: float, seed: int, symbol: str = "BTCUSDT", timeframe_s: int = 3600) -> Bars:
    """Return bars whose return is `phi` times the one before plus noise of 1 %; phi 0 is a random walk."""
    random = np.random.default_rng(seed)
    noise, steps = 0.01 * random.standard_normal(rows), np.zeros(rows)
    for row in range(1, rows):
        steps[row] = phi * steps[row - 1] + noise[row]
    close = np.round(100 * np.cumprod(1 + steps), 4)
    opens = np.concatenate([[100.0], close[:-1]])
    reach = 1 + np.abs(0.001 * random.standard_normal((2, rows)))
    high, low = np.round(np.maximum(opens, close) * reach[0], 4), np.round(np.minimum(opens, close) / reach[1], 4)
    time_ns = START_NS + np.arange(rows) * timeframe_s * NS
    name = {60: "1m", 3600: "1h"}[timeframe_s]
    return Bars(symbol, name, time_ns, opens, high, low, close, np.round(random.uniform(1, 2, rows), 2))


def evaluated(bars: Bars, spec: ForecastSpec) -> dict[str, object]:
    """Return the evaluation of a walk-forward."""
    panel = panel_of({spec.symbols[0]: bars}, spec)
    parts, before, rows = list[TestedRows](), None, None
    for fold in folds_of(panel.end_ns, spec)[:-1]:
        before = train(panel, spec, fold, before, rows)
        rows = fold.test(panel)
        parts.append(tested(panel, spec, fold, before))
    return evaluation(parts, spec)


def first_folds(bars: Bars, spec: ForecastSpec) -> list[Fold]:
    """Return the folds with a test window."""
    return folds_of(bars.time_ns + spec.bar_ns, spec)[:-1]


def drift_on(
    model: ForecastModel, known: list[dict[str, Any]], metrics: Mapping[str, Any], bars: Bars
) -> dict[str, Any]:
    """Return the drift of a model that predicted the bars."""
    rows = panel_of({model.spec.symbols[0]: bars}, model.spec)
    rows = rows.where(rows.is_complete)
    made = model.predict(rows.x)
    return drift(rows, made.value, made.intervals[LEVELS[0]], model.spec, known, metrics)


def linear_graph(weights: Floats, bias: Floats, *, file: str = "") -> bytes:
    """Return an ONNX graph of x @ weights + bias. `file`: where the weights lie instead of in the graph.

    Source: onnx.proto3 of ONNX 1.16; its package is not needed to write so little of it.
    """

    def part(number: int, content: bytes | str | int) -> bytes:
        if isinstance(content, int):
            return _varint(number << 3) + _varint(content)
        data = content.encode() if isinstance(content, str) else content
        return _varint(number << 3 | 2) + _varint(len(data)) + data

    def tensor(name: str, values: Floats) -> bytes:
        dims = b"".join(part(1, size) for size in values.shape)
        where = part(9, values.astype("<f4").tobytes())
        if file and name == "weights":
            where = part(13, part(1, "location") + part(2, file)) + part(14, 1)
        return dims + part(2, 1) + part(8, name) + where

    def value(name: str, columns: int) -> bytes:
        shape = part(1, part(2, "rows")) + part(1, part(1, columns))
        return part(1, name) + part(2, part(1, part(1, 1) + part(2, shape)))

    node = b"".join(part(1, name) for name in ("x", "weights", "bias")) + part(2, "y") + part(4, "Gemm")
    graph = part(1, node) + part(2, "linear")
    graph += part(5, tensor("weights", weights)) + part(5, tensor("bias", bias))
    graph += part(11, value("x", weights.shape[0])) + part(12, value("y", weights.shape[1]))
    return part(1, 8) + part(7, graph) + part(8, part(1, "") + part(2, 13))


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


#: a trainer of another package: least squares as an ONNX graph, and by its parameter what it may not return
TRAINER_MODULE = """
import io
import numpy as np
from tests.support.forecasts import linear_graph

def train(x, y, spec):
    fitted = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)[0]
    errors = y - fitted[0] - x @ fitted[1:]
    offsets = np.array([0.0, *np.quantile(errors, spec.quantiles)])
    weights = np.repeat(fitted[1:, None], len(offsets), axis=1)
    arrays = {"weights": weights, "bias": fitted[0] + offsets}

    def saved(**changed):
        found = io.BytesIO()
        np.savez(found, **(arrays | changed))
        return found.getvalue()

    match spec.trainer_params.get("mode"):
        case "npz":
            return saved()
        case "objects":
            return saved(weights=weights.astype(object))
        case "turned":
            return saved(weights=weights.T)
        case "more":
            return saved(more=weights)
        case "infinite":
            return saved(bias=arrays["bias"] + np.array([np.inf, 0, 0, 0]))
        case "raises":
            raise OSError("no such\\nGPU")
        case "pickle":
            return b"\\x80\\x04}."
        case "outside":
            return linear_graph(weights, fitted[0] + offsets, file="/etc/passwd")
        case "narrow":
            return linear_graph(weights[:, :2], fitted[0] + offsets[:2])
        case "text":
            return {"mean": "tree"}
        case "mean":
            return linear_graph(weights, fitted[0] + offsets + np.array([np.nan, 0, 0, 0]))
        case "prints":
            print("noise")
    return linear_graph(weights, fitted[0] + offsets)
"""


def install_trainer(place: Path, name: str = "linear", module: str = TRAINER_MODULE, extra: str = "") -> None:
    """Make an installed distribution, `trainers-of-mine` 1.2, with a trainer of a name; `extra`: of its entry point."""
    info = place / "trainers_of_mine-1.2.dist-info"
    info.mkdir(parents=True)
    metadata = "Metadata-Version: 2.4\nName: trainers-of-mine\nVersion: 1.2\nLicense-Expression: Apache-2.0\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[fks.trainers]\n{name} = trainers_of_mine:train{extra}\n")
    (place / "trainers_of_mine.py").write_text(module)
