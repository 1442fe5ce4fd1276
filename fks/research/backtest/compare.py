"""Comparison of runs, each given as a document `fks.backtest/1`: metrics side by side, and the inputs that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fks.model.errors import InputError, invalid

RUNS_MAX = 50
_INPUTS = (
    "strategy",
    "exchange",
    "symbol",
    "timeframe",
    "from",
    "to",
    "sizing",
    "size",
    "cash",
    "fee_rate",
    "fee_rate_maker",
    "fee_in",
    "slippage",
    "commission",
    "collar_pct",
    "margin",
    "borrow",
    "funding_left_out",
    "can_short",
    "allow_gaps",
    "limits",
    "source",
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the comparison: where the value is, how it is shown, and whether more (1) or less (-1) is better."""

    name: str
    label: str
    unit: str  # pct | money | ratio | count | time
    better: int = 0
    part: str = "metrics"  # of the document


MEASURES = (
    Measure("return_pct", "return", "pct", 1, "statistics"),
    Measure("buy_and_hold_pct", "buy and hold", "pct", 0, "statistics"),
    Measure("cagr_pct", "a year (CAGR)", "pct", 1),
    Measure("net_profit", "net profit", "money", 1, "statistics"),
    Measure("max_drawdown_pct", "max drawdown", "pct", -1, "statistics"),
    Measure("max_drawdown_s", "longest drawdown", "time", -1),
    Measure("volatility_pct", "volatility a year", "pct", -1),
    Measure("sharpe", "sharpe", "ratio", 1),
    Measure("sortino", "sortino", "ratio", 1),
    Measure("calmar", "calmar", "ratio", 1),
    Measure("cvar_95_pct", "CVaR 95 %", "pct", 1),
    Measure("trades", "trades", "count", 0, "statistics"),
    Measure("win_rate_pct", "won", "pct", 1, "statistics"),
    Measure("profit_factor", "profit factor", "ratio", 1, "statistics"),
    Measure("expectancy", "expectancy", "money", 1),
    Measure("sqn", "SQN", "ratio", 1),
    Measure("average_holding_s", "average holding", "time"),
    Measure("exposure_pct", "time in market", "pct", 0, "statistics"),
    Measure("turnover", "turnover", "ratio"),
    Measure("fees", "fees", "money", 0, "statistics"),
)


def run_of(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a comparison needs of a document. Errors: InputError naming what is missing."""
    missing = [key for key in ("strategy", "params", "statistics", "equity", "inputs_hash") if key not in document]
    if missing:
        raise invalid(
            "RESULT_WRONG",
            f"{name} is no result of a backtest: it has no {', '.join(missing)}",
            "give a file of 'fks backtest run --json', or the id of a finished backtest",
        )
    kept = ("params", "cash", "inputs_hash", "fills_hash", "equity", "statistics", "from", "to", "months", "denied")
    return {
        "name": name,
        "inputs": {key: document[key] for key in _INPUTS if key in document},
        **{key: document[key] for key in kept if key in document},
        "metrics": document.get("metrics", {}),
    }


def compare(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the comparison of runs made by `run_of`: a row of values for each measure with the places of the best,
    the inputs that differ, and groups of runs with the same fills.

    Errors: InputError unless there are 2 to 50 runs.
    """
    if not 2 <= len(runs) <= RUNS_MAX:
        raise InputError(f"{len(runs)} runs cannot be compared", remedy=f"give 2 to {RUNS_MAX}")
    inputs = [_inputs(run) for run in runs]
    names = list(dict.fromkeys(name for row in inputs for name in row))
    return {
        "runs": [run["name"] for run in runs],
        "rows": [_row(measure, runs) for measure in MEASURES],
        "differences": [
            {"input": name, "values": [row.get(name) for row in inputs]}
            for name in names
            if len({str(row.get(name)) for row in inputs}) > 1
        ],
        "same_fills": _same_fills(runs),
    }


def _inputs(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**run["inputs"], **{f"params.{name}": value for name, value in run["params"].items()}}


def _row(measure: Measure, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [run[measure.part].get(measure.name) for run in runs]
    known = [value for value in values if value is not None]
    best = (max if measure.better > 0 else min)(known) if measure.better and known else None
    return {
        "name": measure.name,
        "label": measure.label,
        "unit": measure.unit,
        "values": values,
        "best": [] if best is None or len(set(known)) < 2 else [at for at, v in enumerate(values) if v == best],
    }


def _same_fills(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(str(run.get("fills_hash")), []).append(str(run["name"]))
    return [names for names in groups.values() if len(names) > 1]
