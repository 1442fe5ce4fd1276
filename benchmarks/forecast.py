"""Forecasts of the shipped sample against naive ones, on bars that trained nothing, and their result after fees.

    python benchmarks/forecast.py [--fee 0.001] [--trees 100] [--folds 5]
    python benchmarks/forecast.py --series 100

Rolling origin on three real months of BTCUSDT: the walk-forward of `fks forecast train` with its default features. Each
row is a timeframe and a horizon, with 95 % intervals by a moving-block bootstrap. "After fees": the sum of the returns
of a position of one unit that is long while the forecast is above the costs of a round trip, short while it is below
minus that, and else flat; decided every `horizon` bars, with `--fee` of each unit that is traded. The deflated Sharpe
ratio counts each row of the table as a trial. Nothing is chosen by these figures. Each model is trained twice: exits 1
when the artifacts differ.

`--series`: instead of the sample, so many series of 2,000 bars of two known laws: random walks, which nothing predicts,
and autoregressions with coefficient 0.5. Counted: those that look predictable, those whose bars in random order do (the
check `shuffled`), and those whose 95 % interval of a figure holds the true value. Exits 1 when more than a tenth of the
random walks, or of the series in random order, looks predictable.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the helpers, however this is started

import numpy as np

from benchmarks._results import run, same
from fks.ai.forecast import ForecastModel, ForecastSpec, panel_of, train
from fks.ai.forecast_evaluation import BASELINES, evaluation, leakage, tested
from fks.market.bars.aggregate import aggregate_bars
from fks.market.files.sample import sample_tape
from fks.research.jobs.forecast import folds_of
from fks.research.search.overfitting import deflated_sharpe, sharpe
from tests.support.forecasts import autoregression, evaluated, first_folds

CASES = (("15m", 1), ("15m", 4), ("1h", 1), ("1h", 4), ("1h", 24))


def shown(one: dict[str, float], form: str) -> str:
    return f"{one['value']:{form}} ({one['low']:{form}} to {one['high']:{form}})"


def main(fee: float, trees: int, folds: int) -> None:
    tape = sample_tape()
    base = tape.bars()
    print(f"{tape.symbol}, {len(base):,} minutes, {folds} folds, fee {fee:.2%} of each unit traded\n")
    heads = ["skill to " + name for name in BASELINES]
    print(
        "| bars | rows | MASE | naive's | pinball / naive's |",
        " | ".join(heads),
        "| hit rate | 80 % | 95 % | beats naive |",
    )
    print("|" + "---|" * (9 + len(heads)))
    results = []
    for timeframe, horizon in CASES:
        bars = aggregate_bars(base, timeframe)
        spec = ForecastSpec(
            name="sample", symbols=(tape.symbol,), timeframe=timeframe, horizon=horizon, trees=trees, folds=folds
        )
        series = {tape.symbol: bars}
        panel = panel_of(series, spec)
        windows = folds_of(panel.end_ns, spec)[:-1]
        parts, before, rows = [], None, None
        for window in windows:
            model: ForecastModel = train(panel, spec, window, before, rows)
            same("artifact, trained again", model.hash, train(panel, spec, window, before, rows).hash)
            before, rows = model, window.test(panel)
            parts.append(tested(panel, spec, window, model))
        found, checks = evaluation(parts, spec), leakage(series, spec, windows)
        same("checks for leakage", [name for name, why in checks.items() if why], [])
        cells = [
            f"{timeframe}, {horizon} ahead",
            f"{found['rows']:,}",
            shown(found["mase"]["model"], ".3f"),
            shown(found["mase"]["naive"], ".3f"),
            f"{found['pinball']['model']['value'] / found['pinball']['naive']['value']:.3f}",
            *(shown(found["skill"][name], "+.3f") for name in BASELINES),
            shown(found["hit_rate"], ".3f"),
            *(shown(found["coverage"][level], ".3f") for level in ("0.8", "0.95")),
            "yes" if found["beats_naive"] else "no",
        ]
        print("|", " | ".join(cells), "|", flush=True)
        value = np.concatenate([one.value for one in parts])[::horizon]
        made = np.concatenate([one.rows.y for one in parts])[::horizon]
        target = np.where(value > 2 * fee, 1.0, np.where(value < -2 * fee, -1.0, 0.0))
        traded = np.abs(np.diff(target, prepend=0.0))
        results.append((f"{timeframe}, {horizon} ahead", target * made - fee * traded, np.sign(value) * made, traded))
    ratios = [sharpe(net) or 0.0 for _, net, _, _ in results]
    print(
        "\n| bars | decisions | units traded | after fees | 95 % interval | without fees, always in | deflated Sharpe |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, net, gross, traded in results:
        random = np.random.default_rng(1)
        sums = [net[random.integers(0, len(net), len(net))].sum() for _ in range(1000)]
        low, high = np.percentile(sums, (2.5, 97.5))
        # without a trade there is nothing to deflate
        variance = float(np.var(ratios, ddof=1))
        ratio = deflated_sharpe(sharpe(net) or 0.0, len(net), trials=len(CASES), variance=variance)
        skill = f"{ratio:.2f}" if traded.any() else "no trade"
        print(
            f"| {name} | {len(net):,} | {traded.sum():.0f} | {net.sum():+.2%} | {low:+.2%} to {high:+.2%} "
            f"| {gross.sum():+.2%} | {skill} |"
        )


def laws(count: int, trees: int, folds: int) -> bool:
    spec = ForecastSpec(name="law", symbols=("BTCUSDT",), trees=trees, folds=folds)
    heads = ["series", "look predictable", "in random order", "80 %", "holds 0.8", "95 %", "holds 0.95"]
    heads += ["pinball / naive's", "below naive's", "skill"]
    print("|", " | ".join(heads), "|")
    print("|" + "---|" * len(heads))
    is_wrong = False
    for name, phi in (("random walks", 0.0), ("autoregressions", 0.5)):
        found, shuffled = list[dict[str, Any]](), 0
        for seed in range(1000, 1000 + count):
            bars = autoregression(2000, phi, seed)
            found.append(evaluated(bars, spec))
            shuffled += leakage({"BTCUSDT": bars}, spec, first_folds(bars, spec))["shuffled"] is not None
        same("an evaluation, made again", evaluated(autoregression(2000, phi, 1000), spec), found[0])
        looks = sum(one["beats_naive"] for one in found)
        cells = [f"{count} {name}", str(looks), str(shuffled)]
        for level in (0.8, 0.95):
            covers = [one["coverage"][f"{level:g}"] for one in found]
            cells.append(f"{np.mean([one['value'] for one in covers]):.3f}")
            cells.append(str(sum(one["low"] <= level <= one["high"] for one in covers)))
        pinball = [one["pinball"] for one in found]
        cells.append(f"{np.mean([one['model']['value'] / one['naive']['value'] for one in pinball]):.3f}")
        cells.append(str(sum(one["model"]["high"] < one["naive"]["low"] for one in pinball)))
        cells.append(f"{np.mean([one['skill']['naive']['value'] for one in found]):+.3f}")
        print("|", " | ".join(cells), "|", flush=True)
        is_wrong |= shuffled > count / 10 or (phi == 0 and looks > count / 10)
    return is_wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fee", type=float, default=0.001)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--series", type=int)
    options = parser.parse_args()
    if options.series:
        run(lambda: laws(options.series, options.trees, options.folds))
    run(lambda: main(options.fee, options.trees, options.folds))
