"""Ledger of research: all trials that were made on a market, and the ratio that the best of so many has by chance.

Pure.

A search deflates its winner by its own trials. Another search, or backtests by hand until one looks good, are trials as
well: the ledger counts them over all searches and backtests of a symbol whose bars overlap in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import sqrt
from typing import Any

from fks.model.research import Earlier, ResearchRun
from fks.model.timeframe import to_ns
from fks.research.backtest.metrics import probabilistic_sharpe
from fks.research.search.overfitting import PASS, expected_best_sharpe


def run_of_search(document: Mapping[str, Any]) -> ResearchRun:
    """Return the run of a search's document: the trials of its last fold, which chose the parameters."""
    overfitting = document["overfitting"]
    trials = int(overfitting["trials"])
    return _run(
        document,
        "search",
        trials=trials,
        mean=overfitting["sharpe_mean"],
        spread=overfitting["sharpe_variance"] * max(trials - 1, 0),
        best=overfitting["sharpe"],
    )


def run_of_backtest(document: Mapping[str, Any]) -> ResearchRun:
    """Return the run of a backtest's document: one trial."""
    ratio = float(document["statistics"]["sharpe"] or 0.0)
    return _run(document, "backtest", trials=1, mean=ratio, spread=0.0, best=ratio)


def _run(
    document: Mapping[str, Any], kind: str, *, trials: int, mean: float, spread: float, best: float
) -> ResearchRun:
    return ResearchRun(
        document["inputs_hash"],
        kind,
        document["strategy"],
        document["exchange"],
        document["symbol"],
        document["timeframe"],
        _ns(document["from"]),
        _ns(document["to"]),
        trials,
        mean,
        spread,
        best,
    )


def held_back_ns(document: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the first and the last bar that a search held back; None where it held nothing back."""
    spans = [span for fold in document["folds"] for span in fold["test"]]
    if not spans:
        return None
    return min(_ns(span["from"]) for span in spans), max(_ns(span["to"]) for span in spans)


def _ns(text: str) -> int:
    return to_ns(datetime.fromisoformat(text))


def with_ledger(document: Mapping[str, Any], earlier: Earlier) -> dict[str, Any]:
    """Return a search's document with its section `ledger`: the winner deflated by all trials, those of `earlier` runs
    included, and a finding where it passes by its own alone.

    The variance is that of all trials' ratios about their common mean: strategies that differ a lot make it greater,
    and the bar higher. Many trials that hardly differ make it smaller; the bar is never below that of the search alone.
    """
    run, best = run_of_search(document), document["best"]["metrics"]
    trials, bar = _without_skill(run, earlier)
    observed, yearly = best.get("sharpe_period", 0.0), best.get("sharpe", 0.0)
    scale = observed / yearly if yearly else 0.0  # the bar is of yearly ratios
    shape = {"skew": best["skew"], "kurtosis": best["kurtosis"]}
    deflated = probabilistic_sharpe(observed, int(best["periods"]), **shape, benchmark=bar * scale)
    held = held_back_ns(document)
    ledger = {
        "earlier_runs": earlier.runs,
        "trials": trials,
        "sharpe_without_skill": round(bar, 8),
        "deflated_sharpe": round(deflated, 6),
        "held_back_runs": None if held is None else earlier.held_back_runs,
    }
    findings = list(document["findings"])
    if deflated < PASS <= document["overfitting"]["deflated_sharpe"]:
        findings.append(
            f"deflated by all {trials} trials on {run.symbol} in this time, those of {earlier.runs} earlier runs "
            f"included, the Sharpe ratio is {deflated:.2f}, below {PASS}"
        )
    return {**document, "findings": findings, "ledger": ledger}


def judged(document: Mapping[str, Any], earlier: Earlier) -> dict[str, Any]:
    """Return a backtest's document, with a finding where its Sharpe ratio passes alone and not deflated by all trials,
    those of `earlier` runs included: a choice among so many may be their best by chance."""
    run, metrics = run_of_backtest(document), document["metrics"]
    trials, bar = _without_skill(run, earlier)
    scale = sqrt(1.0 / metrics["periods_per_year"])
    shape = {"skew": metrics["skew"] or 0.0, "kurtosis": 3.0 + (metrics["kurtosis"] or 0.0)}
    alone, deflated = (
        probabilistic_sharpe(run.sharpe_best * scale, metrics["periods"], **shape, benchmark=one * scale)
        for one in (0.0, bar)
    )
    if not deflated < PASS <= alone:
        return dict(document)
    finding = (
        f"A Sharpe ratio of {run.sharpe_best:.1f} a year may be chance: the best of all {trials} trials on "
        f"{run.symbol} in this time, those of {earlier.runs} earlier runs included, is expected to show {bar:.1f} "
        f"without skill; deflated by them it is {deflated:.2f}, below {PASS}."
    )
    return {**document, "findings": [*document["findings"], finding]}


def _without_skill(run: ResearchRun, earlier: Earlier) -> tuple[int, float]:
    """Return the number of all trials, and the yearly Sharpe ratio that the best of them is expected to show without
    skill."""
    trials = run.trials + earlier.trials
    total = run.trials * run.sharpe_mean + earlier.sharpe_sum
    squares = run.sharpe_spread + run.trials * run.sharpe_mean**2 + earlier.sharpe_squares
    variance = max(0.0, squares - total**2 / trials) / (trials - 1) if trials > 1 else 0.0
    own = expected_best_sharpe(run.trials, run.sharpe_spread / max(run.trials - 1, 1))
    return trials, max(own, expected_best_sharpe(trials, variance))
