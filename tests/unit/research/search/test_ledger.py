"""The ledger of research: trials of several searches and backtests deflate as those of one."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest

from fks.model.research import Earlier, ResearchRun
from fks.research.backtest.report import document_of
from fks.research.search import Plan, Validation, expected_best_sharpe, period_returns, search
from fks.research.search.ledger import held_back_ns, judged, run_of_backtest, run_of_search, with_ledger
from fks.research.search.objectives import period_of
from fks.research.search.overfitting import sharpe
from tests.support.backtests import run
from tests.support.no_skill import Coin, Tide, free_setup, tidal, walk

BARS = walk(1500, seed=3)


def searched(seeds: str, **options: Any) -> dict[str, Any]:
    return {**search(Coin, {"seed": seeds}, BARS, free_setup(), **options), "exchange": "binance", "inputs_hash": seeds}


def earlier_of(*runs: ResearchRun) -> Earlier:
    return Earlier(
        len(runs),
        sum(run.trials for run in runs),
        sum(run.trials * run.sharpe_mean for run in runs),
        sum(run.sharpe_spread + run.trials * run.sharpe_mean**2 for run in runs),
    )


def test_a_space_searched_in_parts_is_deflated_as_the_whole() -> None:
    whole, first, last = searched("1:60"), searched("1:35"), searched("36:60")
    for part, other in ((first, last), (last, first)):
        found = with_ledger(part, earlier_of(run_of_search(other)))["ledger"]
        assert (found["trials"], found["earlier_runs"]) == (60, 1)
        assert found["sharpe_without_skill"] == pytest.approx(whole["overfitting"]["sharpe_without_skill"], abs=1e-6)
        if part["best"]["params"] == whole["best"]["params"]:
            assert found["deflated_sharpe"] == pytest.approx(whole["overfitting"]["deflated_sharpe"], abs=1e-6)
    assert whole["best"]["params"] in (first["best"]["params"], last["best"]["params"])


def test_backtests_one_by_one_count_as_a_search_of_them() -> None:
    """By hand: 12 coins, each a backtest; the search over the last one alone knows of no other trial."""
    setup = free_setup()
    runs = [run_of_backtest(document_of(run(Coin(seed=seed), BARS, setup))) for seed in range(1, 13)]
    ratios = np.array([one.sharpe_best for one in runs])
    assert ratios.std() > 0
    last = searched("13:13", validation=Validation(kind="none"))
    assert last["overfitting"]["trials"] == 1
    found = with_ledger(last, earlier_of(*runs))["ledger"]
    of_all = [*ratios, run_of_search(last).sharpe_best]
    assert found["trials"] == 13
    assert found["sharpe_without_skill"] == pytest.approx(expected_best_sharpe(13, float(np.var(of_all, ddof=1))))
    assert found["held_back_runs"] is None, "nothing was held back"


def test_a_winner_that_passes_alone_and_not_among_all_has_a_finding() -> None:
    found = search(Tide, {"share": "0.1:0.9:0.2"}, tidal(24 * 120), free_setup(), Plan(), trades_min=5)
    found = {**found, "exchange": "binance", "inputs_hash": "x"}
    assert found["overfitting"]["deflated_sharpe"] > 0.99
    alone = with_ledger(found, Earlier())
    assert alone["ledger"]["deflated_sharpe"] == pytest.approx(found["overfitting"]["deflated_sharpe"], abs=1e-6)
    assert alone["findings"] == found["findings"]
    wide = with_ledger(found, Earlier(40, 100_000, 0.0, 100_000 * found["overfitting"]["sharpe"] ** 2, 7))
    assert wide["ledger"]["deflated_sharpe"] < 0.95
    assert wide["ledger"]["held_back_runs"] == 7
    (finding,) = set(wide["findings"]) - set(found["findings"])
    assert finding.startswith(
        "deflated by all 100005 trials on LUCKUSDT in this time, those of 40 earlier runs included"
    )


def test_a_run_that_passes_alone_and_not_among_all_has_a_finding() -> None:
    bars = tidal(24 * 120)
    document = {**document_of(run(Tide(share=0.5), bars, free_setup())), "findings": ["another one"]}
    assert judged(document, Earlier()) == document, "it is the first trial"
    assert judged(document, Earlier(5, 5, 0.0, 0.1)) == document, "others hardly differ from nothing"
    yearly = document["statistics"]["sharpe"]
    others = Earlier(40, 100_000, 0.0, 100_000 * yearly**2)
    found = judged(document, others)
    assert found == {**document, "findings": found["findings"]}
    assert found["findings"][0] == "another one"
    search_of_one = search(Tide, {"share": "0.5:0.5:0.1"}, bars, free_setup(), validation=Validation(kind="none"))
    same = with_ledger({**search_of_one, "exchange": "binance", "inputs_hash": "x"}, others)["ledger"]
    assert found["findings"][1] == (
        f"A Sharpe ratio of {yearly:.1f} a year may be chance: the best of all 100001 trials on LUCKUSDT in this time, "
        f"those of 40 earlier runs included, is expected to show {same['sharpe_without_skill']:.1f} without skill; "
        f"deflated by them it is {same['deflated_sharpe']:.2f}, below 0.95."
    )


def test_the_part_that_was_held_back_is_that_of_the_tests() -> None:
    assert held_back_ns(searched("1:3", validation=Validation(kind="none"))) is None
    found = searched("1:3", validation=Validation(test_share=0.2))
    assert held_back_ns(found) == (int(BARS.time_ns[1200]), int(BARS.time_ns[-1]))
    run = run_of_search(found)
    assert (run.start_ns, run.end_ns) == (int(BARS.time_ns[0]), int(BARS.time_ns[-1]))


def test_buying_and_holding_is_a_bar_beside_chance() -> None:
    """On a market that rises steadily, a coin's best has a good ratio and does not beat holding."""
    up = walk(24 * 100, seed=3, step=0.002)
    rise = np.exp(np.arange(len(up)) * 0.0004)
    columns = {name: np.round(getattr(up, name) * rise, 2) for name in ("open", "high", "low", "close")}
    bars = replace(up, **columns)
    found = search(Coin, {"seed": "1:20"}, bars, free_setup(), validation=Validation(kind="none"))["overfitting"]
    period = period_of(bars)
    held = sharpe(period_returns(bars.time_ns, bars.close, float(bars.open[0]), period))
    assert held is not None
    assert found["hold_sharpe"] == pytest.approx(held * sqrt(period.per_year), abs=1e-6)
    assert found["hold_sharpe"] > 2
    assert found["deflated_sharpe_above_hold"] < 0.5 < found["deflated_sharpe"]
    falling = replace(bars, **{name: np.round(1e4 / getattr(bars, name), 2) for name in ("open", "close")})
    falling = replace(
        falling, high=np.maximum(falling.open, falling.close), low=np.minimum(falling.open, falling.close)
    )
    lost = search(Coin, {"seed": "1:20"}, falling, free_setup(), validation=Validation(kind="none"))["overfitting"]
    assert lost["hold_sharpe"] < 0
    assert lost["deflated_sharpe_above_hold"] == lost["deflated_sharpe"], "holding a loss is no bar: one may stay out"


def test_deflating_by_more_trials_is_never_kinder() -> None:
    found = searched("1:30")
    own, before = found["overfitting"], found["overfitting"]["deflated_sharpe"]
    mean = own["sharpe_mean"]
    for spread in (0.0, 1.0, own["sharpe_variance"], 4 * own["sharpe_variance"]):
        more = with_ledger(found, Earlier(1, 300, 300 * mean, 300 * (mean**2 + spread)))["ledger"]
        assert more["deflated_sharpe"] <= before + 1e-6, "trials that hardly differ lower the variance, not the bar"
    assert more["deflated_sharpe"] < before / 2
