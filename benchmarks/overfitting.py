"""Shares of strategies without skill that pass tests at a nominal 5 %: the rule is at most 7 %.

    python benchmarks/overfitting.py [--experiments 1000] [--coins 1000] [--json]

Nothing here can be predicted, so each that passes is a false alarm. All draws are seeded: the same numbers each time.
The returns of some coins are compared with the reference engine's, and the deflated ratio of one trial with the plain
one. Exits 1 when they differ, or a share is over the limit.

1. Of returns: `experiments` markets, in each the best of N strategies (independent, fat tails) by its Sharpe ratio. Naive
   is its probabilistic Sharpe ratio, deflated is corrected for the N trials, held out is the naive test on days that did
   not choose it.
2. Through the engine: `coins` strategies that buy and sell by a seeded coin on one random walk, searched as a grid with a
   hold-out by `fks.research.search`. Counted are those that pass alone, and those that pass deflated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks._results import near, run, same
from fks.research.backtest import run as backtest
from fks.research.search import (
    Plan,
    Search,
    SearchTask,
    Trial,
    Validation,
    deflated_sharpe,
    evaluate,
    probabilistic_sharpe,
    task_of,
)
from tests.support.no_skill import PASS, Coin, free_setup, passes_without_skill, walk

LIMIT = 0.07


def compare(task: SearchTask, trials: list[Trial]) -> None:
    """Compare the first coins with runs of the reference engine, and the two ratios where they must agree."""
    ((low, high),) = task.splits[0].train
    bars, setup = task.bars[max(0, low - 1) : high], replace(task.setup, start_ns=int(task.bars.time_ns[low]))
    for trial in trials[:3]:
        result = backtest(Coin(**trial.params), bars, setup, engine="reference", check=False)
        gain = 100.0 * (float(result.equity[-1]) / float(setup.cash) - 1.0)
        near(f"the return of {trial.params}", trial.metrics["return_pct"], gain, atol=1e-6)
        same(f"the trades of {trial.params}", trial.metrics["trades"], len(result.pnl))
    found = [trial.metrics for trial in trials]
    periods, shape = int(found[0]["periods"]), {"skew": found[0]["skew"], "kurtosis": found[0]["kurtosis"]}
    ratio = found[0].get("sharpe_period", 0.0)
    alone = probabilistic_sharpe(ratio, periods, **shape)
    near(
        "the deflated ratio of one trial",
        deflated_sharpe(ratio, periods, trials=1, variance=0.0, **shape),
        alone,
        atol=1e-12,
    )


def coins(count: int, seed: int) -> dict[str, float]:
    """Return how many of `count` coins pass on a random walk."""
    task = task_of(
        Coin, {"seed": f"1:{count}"}, walk(1500, seed), free_setup(), Plan(), validation=Validation(kind="holdout")
    )
    driver, found = Search(task), []
    while asked := driver.ask():
        for fold, proposal in asked:
            trial = evaluate(task, fold, proposal)
            driver.record(trial)
            found.append(trial)
    compare(task, found)
    ratios = [trial.metrics.get("sharpe_period", 0.0) for trial in found]
    mean = sum(ratios) / count
    variance = sum((ratio - mean) ** 2 for ratio in ratios) / (count - 1)
    alone = deflated = 0
    for ratio, metrics in zip(ratios, (trial.metrics for trial in found), strict=True):
        periods, shape = int(metrics["periods"]), {"skew": metrics["skew"], "kurtosis": metrics["kurtosis"]}
        alone += probabilistic_sharpe(ratio, periods, **shape) >= PASS
        deflated += deflated_sharpe(ratio, periods, trials=count, variance=variance, **shape) >= PASS
    outcome = driver.outcome()
    return {
        "coins": count,
        "alone": alone / count,
        "deflated": deflated / count,
        "best_sharpe": outcome["overfitting"]["sharpe"],
        "sharpe_without_skill": outcome["overfitting"]["sharpe_without_skill"],
        "best_deflated": outcome["overfitting"]["deflated_sharpe"],
        "best_held_out": outcome["out_of_sample"]["value_test_mean"],
        "pbo": outcome["overfitting"]["cross_validation"]["pbo"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--coins", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    began = time.perf_counter()
    rows = [
        passes_without_skill(chosen.experiments, trials, seed=17, pbo=min(50, chosen.experiments))
        for trials in (1, 10, 50, 200)
    ]
    engine = coins(chosen.coins, 17)
    document = {
        "returns": [
            {"trials": r.trials, "naive": r.naive, "deflated": r.deflated, "held_out": r.held_out, "pbo": r.pbo}
            for r in rows
        ],
        "engine": engine,
        "limit": LIMIT,
        "seconds": round(time.perf_counter() - began, 1),
    }
    if chosen.json:
        print(json.dumps(document, indent=2))
    else:
        print(f"{chosen.experiments} searches without anything to find, nominal 5 %, limit {100 * LIMIT:.0f} %\n")
        print("best of N   naive   deflated   held out   probability of overfitting (mean)")
        for row in rows:
            pbo = "" if row.pbo != row.pbo else f"{row.pbo:.2f}"
            print(
                f"{row.trials:>9}  {100 * row.naive:5.1f} %  {100 * row.deflated:7.1f} %  {100 * row.held_out:7.1f} %"
                f"   {pbo}"
            )
        print(
            f"\n{chosen.coins} coins on one random walk, through the engine: {100 * engine['alone']:.1f} % pass alone, "
            f"{100 * engine['deflated']:.1f} % deflated;\nthe best has a yearly Sharpe ratio of {engine['best_sharpe']:.2f} "
            f"(chance: {engine['sharpe_without_skill']:.2f}), deflated {engine['best_deflated']:.2f}, "
            f"{engine['best_held_out']:.2f} on held-back bars, probability of overfitting {engine['pbo']:.2f}"
        )
        print(f"{document['seconds']} s")
    passing = [rows[0].naive, *(row.deflated for row in rows), *(row.held_out for row in rows)]
    return int(max(*passing, engine["deflated"]) > LIMIT)


if __name__ == "__main__":
    run(main)
