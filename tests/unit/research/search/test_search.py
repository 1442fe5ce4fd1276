"""A whole search in this process: the same result in any order, bounded memory, honest about chance."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.calendars import calendar_of
from fks.model.errors import InputError
from fks.model.order import Role
from fks.research.backtest import TapeRefused, setup_for
from fks.research.backtest.run import EngineName
from fks.research.search import (
    Plan,
    Search,
    Surface,
    Validation,
    evaluate,
    metrics_of,
    period_returns,
    resample_trades,
    run_range,
    search,
    task_of,
)
from fks.research.search.objectives import Period, Returns, period_of
from fks.strategies.base import Decisions, Strategy
from tests.support.backtests import run
from tests.support.no_skill import Coin, Tide, free_setup, tidal, walk

BARS = walk(1500, seed=3)
DAYS_NS = np.arange(3, dtype=np.int64) * 86_400_000_000_000


def shuffled(seed: int) -> Any:
    def evaluate_all(task: Any, asked: Any) -> Any:
        trials = [evaluate(task, fold, proposal) for fold, proposal in asked]
        random.Random(seed).shuffle(trials)
        return iter(trials)

    return evaluate_all


@pytest.mark.parametrize(
    ("plan", "validation"),
    [
        (Plan(), Validation()),
        (Plan(method="tpe", trials=16, batch=4, prune=True), Validation(kind="walk_forward", folds=2)),
        (Plan(method="random", trials=12), Validation(kind="k_fold", folds=3)),
    ],
)
def test_the_result_does_not_depend_on_the_order_of_completion(plan: Plan, validation: Validation) -> None:
    space = {"seed": "1:20", "hold": "5,20"}
    wanted = search(Coin, space, BARS, free_setup(), plan, validation=validation)
    assert search(Coin, space, BARS, free_setup(), plan, validation=validation, evaluate_all=shuffled(1)) == wanted


def test_a_search_continued_by_another_driver_ends_the_same() -> None:
    task = task_of(Coin, {"seed": "1:60"}, BARS, free_setup(), Plan(method="tpe", trials=24, batch=4))
    first = Search(task)
    known = {}
    while asked := first.ask():
        for fold, proposal in asked:
            known[fold, proposal.number] = trial = evaluate(task, fold, proposal)
            first.record(trial)
    again = Search(task)
    ran = 0
    while asked := again.ask():
        for fold, proposal in asked:
            if proposal.number < 10:  # the rows that a crash left
                assert known[fold, proposal.number].params == proposal.params
                again.record(known[fold, proposal.number])
            else:
                ran += 1
                again.record(evaluate(task, fold, proposal))
    assert ran == 14
    assert again.outcome() == first.outcome()


def test_combinatorial_tests_are_judged_as_paths_that_take_each_bar_once() -> None:
    def searched(kind: Literal["k_fold", "combinatorial"]) -> dict[str, Any]:
        validation = Validation(kind=kind, folds=5, tests=2)
        return search(
            Tide, {"share": "0.3:0.7:0.2"}, tidal(24 * 120), free_setup(), validation=validation, trades_min=5
        )

    once, found = searched("k_fold")["out_of_sample"], searched("combinatorial")["out_of_sample"]
    assert len(once["paths"]) == 1
    assert len(found["paths"]) == 4
    assert found["metrics"]["periods"] == once["metrics"]["periods"]
    values = [path["value"] for path in found["paths"]]
    assert values == sorted(values)
    assert found["paths"][1]["return_pct"] == found["metrics"]["return_pct"], "the lower of the two in the middle"
    # the parameters are the same in each split here, so that all paths are that of the folds
    assert {path["return_pct"] for path in found["paths"]} == {once["metrics"]["return_pct"]}


def test_of_paths_that_differ_the_median_one_is_shown() -> None:
    found = search(
        Coin, {"seed": "1:12"}, BARS, free_setup(), validation=Validation(kind="combinatorial", folds=5, tests=2)
    )
    returns = [path["return_pct"] for path in found["out_of_sample"]["paths"]]
    assert len(set(returns)) == len(returns) == 4
    assert found["out_of_sample"]["metrics"]["return_pct"] == returns[1], "the lower of the two in the middle"
    curves = found["out_of_sample"]["curves"]
    assert [curves["return_pct"][-1], *(path[-1] for path in curves["others"])] == [
        pytest.approx(returns[place], abs=1e-4) for place in (1, 0, 2, 3)
    ]
    assert curves["hold_pct"][-1] == pytest.approx(100 * (BARS.close[-1] / BARS.open[0] - 1), abs=1e-3), (
        "each part opens where the one before closed"
    )


def test_what_is_there_is_found_and_holds_on_bars_that_did_not_choose_it() -> None:
    found = search(
        Tide,
        {"share": "0.1:0.9:0.2"},
        tidal(24 * 120),
        free_setup(),
        validation=Validation(kind="walk_forward", folds=3),
        trades_min=5,
    )
    assert found["best"]["params"]["share"] == 0.5
    assert found["out_of_sample"]["tests_above_zero"] == 3
    assert found["out_of_sample"]["kept"] > 0.7
    assert found["overfitting"]["deflated_sharpe"] > 0.99
    assert found["overfitting"]["cross_validation"]["pbo"] < 0.1
    assert found["stability"]["ratio"] > 0.5
    assert found["findings"] == []
    assert found["trials"] == {
        "total": 20,
        "done": 20,
        "pruned": 0,
        "failed": 0,
        "without_value": 0,
        "invalid": 0,
        "repeated": 0,
        "first_error": None,
    }


def test_chance_on_a_random_walk_is_called_overfitting() -> None:
    found = search(Coin, {"seed": "1:60"}, BARS, free_setup())
    assert found["best"]["metrics"]["sharpe"] > 2.0, "the best of 60 coins looks good"
    assert found["overfitting"]["deflated_sharpe"] < 0.95
    assert any("deflated" in text for text in found["findings"])


def test_a_trial_is_the_backtest_of_its_range() -> None:
    task = task_of(Coin, {"seed": "1:3"}, BARS, free_setup(), validation=Validation(test_share=0.2))
    ((fold, proposal), *_) = Search(task).ask()
    trial = evaluate(task, fold, proposal)
    whole = run(Coin(seed=1), BARS[:1200], replace(free_setup(), is_closed_at_end=True))
    assert trial.metrics["trades"] == len(whole.trades)
    assert trial.metrics["net_profit"] == pytest.approx(float(sum(trade.pnl for trade in whole.trades)))
    test = run_range(task, proposal.params, (1200, 1500))
    assert test.bars.time_ns[test.first] == BARS.time_ns[1200], "the first decision is on the first bar of the range"
    assert all(fill.time_ns > BARS.time_ns[1200] for fill in test.fills)


class Always(Strategy):
    """Always long, or always short."""

    name: ClassVar[str] = "always"
    side: int = 1

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.full(len(bars), float(self.side)))


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize("side", [1, -1])
def test_a_position_at_the_end_is_closed_at_the_last_close_with_its_costs(engine: EngineName, side: int) -> None:
    bars = replace(BARS[:50], calendar="24/7")
    setup = setup_for(bars, can_short=True, fee_rate="0.01", slippage="2 ticks", size=5000)
    found = run(Always(side=side), bars, replace(setup, is_closed_at_end=True), engine=engine)
    opened, closed = found.fills
    assert (closed.time_ns, closed.role, closed.quantity) == (int(bars.time_ns[-1]), Role.EXIT, opened.quantity)
    tick = setup.instrument.tick
    assert closed.price == Decimal(repr(float(bars.close[-1]))) - side * 2 * tick
    assert closed.fee == (closed.quantity * closed.price * Decimal("0.01")).quantize(Decimal("1E-8"))
    assert found.position == 0
    assert found.equity[-1] == pytest.approx(10_000 + float(sum(trade.pnl for trade in found.trades)))
    alone = run(Always(side=side), bars, setup, engine=engine)
    assert len(alone.fills) == 1
    assert alone.inputs_hash != found.inputs_hash


def test_each_window_of_a_walk_forward_pays_for_its_exit() -> None:
    """The price stays at 100 and the fee is 1 %: each of ten tests buys for 9,000, and loses 180 of 10,000."""
    ones, time_ns = np.full(4800, 100.0), np.arange(4800, dtype=np.int64) * 3_600_000_000_000
    bars = Bars("BTCUSDT", "1h", time_ns, ones, ones + 0.01, ones, ones, np.ones(4800))
    found = search(
        Always,
        {"side": "1"},
        bars,
        setup_for(bars, fee_rate="0.01", size=9000, can_short=True),
        objective="return",
        validation=Validation(kind="walk_forward", folds=10, train_windows=2),
    )
    outside = found["out_of_sample"]
    assert outside["metrics"]["return_pct"] == pytest.approx(100 * (0.982**10 - 1), abs=1e-3)
    assert (outside["metrics"]["trades"], outside["metrics"]["net_profit"]) == (10, pytest.approx(-1800))


class Broken(Coin):
    """Raises for some parameters."""

    name: ClassVar[str] = "broken"

    def decide(self, bars: Bars) -> Decisions:
        if self.seed % 2:
            raise RuntimeError("odd seed")
        return super().decide(bars)


def test_a_strategy_that_raises_fails_its_own_trials_only() -> None:
    found = search(Broken, {"seed": "1:10"}, BARS, free_setup())
    assert (found["trials"]["done"], found["trials"]["failed"]) == (5, 5)
    first = found["trials"]["first_error"]
    assert (
        "strategy broken: decide() with 1125 bars raised RuntimeError: odd seed; correct test_search.py line" in first
    )
    with pytest.raises(InputError, match=r"none of 1 trials has a value: 1 failed.*odd seed"):
        search(Broken, {"seed": "1"}, BARS, free_setup())


def test_several_objectives_give_a_front_that_nothing_beats() -> None:
    found = search(
        Coin,
        {"seed": "1:200", "hold": "2:60"},
        BARS,
        free_setup(),
        Plan(method="nsga2", trials=40),
        objective=("return", "few_trades"),
        validation=Validation(kind="none"),
    )
    points = [tuple(item["values"]) for item in found["front"]]
    assert len(points) >= 2
    for one in points:
        assert not any(a[0] >= one[0] and a[1] >= one[1] and a != one for a in points)
    assert "nothing was held back: no bars have judged these parameters" in found["findings"]


def test_a_pruned_trial_ran_only_a_part() -> None:
    plan = Plan(method="tpe", trials=40, batch=8, prune=True)
    found = search(Coin, {"seed": "1:400"}, BARS, free_setup(), plan, validation=Validation(kind="none"))
    assert found["trials"]["pruned"] > 5
    assert found["trials"]["pruned"] + found["trials"]["done"] == 40
    assert found["overfitting"]["trials"] == 40, "a pruned trial was a trial"


def test_a_tape_with_gaps_is_refused_before_any_trial() -> None:
    times = BARS.time_ns + np.where(np.arange(1500) >= 700, 30 * 3_600_000_000_000, 0)
    with pytest.raises(TapeRefused, match="misses"):
        task_of(Coin, {"seed": "1:3"}, replace(BARS, time_ns=times), free_setup())
    task_of(Coin, {"seed": "1:3"}, replace(BARS, time_ns=times), free_setup(allow_gaps=True))


def test_unknown_objectives_are_refused() -> None:
    with pytest.raises(InputError, match="unknown objective luck"):
        search(Coin, {"seed": "1:3"}, BARS, free_setup(), objective="luck")


# ── measures ─────────────────────────────────────────────────────────────────────────────────────
def test_period_returns_compound_to_the_equity() -> None:
    dice = np.random.Generator(np.random.PCG64(2))
    equity = 10_000.0 + np.cumsum(dice.normal(0, 10, 1500))
    values = period_returns(BARS.time_ns, equity, 10_000.0, Period(86_400, 365.0))
    assert len(values) == 63
    assert np.prod(1 + values) == pytest.approx(equity[-1] / 10_000.0)
    broke = period_returns(BARS.time_ns, np.where(np.arange(1500) > 700, -5.0, 100.0), 100.0, Period(86_400, 365.0))
    assert broke.min() == -1.0
    assert np.isfinite(broke).all()


def test_periods_are_those_of_the_market() -> None:
    assert period_of(BARS) == Period(86_400, 365.0)
    assert period_of(BARS[:100]) == Period(3_600, 8760.0)
    times = calendar_of("XNYS").expected("1h", 1_735_776_000_000_000_000, 1_738_368_000_000_000_000)
    shares = Bars("SPY", "1h", times, *[np.ones(len(times))] * 5, calendar="XNYS")
    assert period_of(shares) == Period(3_600, 252.0 * 7, "XNYS"), "a month: hours, seven a day"
    assert len(period_returns(times, np.ones(len(times)), 1.0, Period(86_400, 252.0, "XNYS"))) == 20


def test_measures_are_those_written_out_by_hand() -> None:
    found = metrics_of(
        Returns.of(
            DAYS_NS, 100.0 * np.cumprod([1.01, 0.98, 1.03]), Period(86_400, 365.0), np.array([3.0, -1.0, 2.0]), 100.0
        )
    )
    assert found["return_pct"] == pytest.approx(100 * (1.01 * 0.98 * 1.03 - 1))
    assert found["max_drawdown_pct"] == pytest.approx(2.0)
    assert found["sharpe"] == pytest.approx(np.mean([1, -2, 3]) / np.std([1, -2, 3], ddof=1) * np.sqrt(365))
    assert found["sortino"] == pytest.approx((0.02 / 3) / (0.02 / np.sqrt(3)) * np.sqrt(365))
    assert (found["profit_factor"], found["average_trade"]) == (5.0, pytest.approx(4 / 3))


# ── Monte Carlo, stability ───────────────────────────────────────────────────────────────────────
def test_other_histories_of_the_same_trades_are_the_same_for_a_seed() -> None:
    pnl = [5.0, -3.0, 8.0, -2.0, 1.0, -6.0, 4.0] * 10
    one = resample_trades(pnl, 1000.0, seed=4)
    assert one == resample_trades(pnl, 1000.0, seed=4)
    assert one != resample_trades(pnl, 1000.0, seed=5)
    order = resample_trades(pnl, 1000.0, method="shuffle", runs=500)
    assert order is not None
    assert set(order.profit) == {70.0}, "another order makes the same profit"
    assert order.drawdown_pct[0] < order.drawdown_pct[-1]
    assert resample_trades([], 1000.0) is None
    with pytest.raises(ValueError, match="unknown method"):
        resample_trades(pnl, 1000.0, method="guess")


def test_a_bootstrap_has_the_mean_and_spread_of_its_trades() -> None:
    pnl = np.random.Generator(np.random.PCG64(1)).normal(2.0, 10.0, 400)
    found = resample_trades(pnl.tolist(), 10_000.0, runs=4000)
    assert found is not None
    spread = pnl.std() * np.sqrt(400)
    assert found.profit[2] == pytest.approx(pnl.sum(), abs=0.1 * spread)
    assert found.profit[4] - found.profit[0] == pytest.approx(2 * 1.645 * spread, rel=0.05)


def test_shares_of_the_equity_compound_and_no_history_loses_more_than_all() -> None:
    halves = resample_trades([1.0, -0.5] * 20, 1000.0, method="shuffle", compounds=True)
    assert halves is not None
    assert set(halves.profit) == {0.0}, "doubling and halving end where they began"
    added = resample_trades([-400.0] * 10, 1000.0)
    assert added is not None
    assert (set(added.drawdown_pct), set(added.profit), added.ruin_share) == ({100.0}, {-1000.0}, 1.0)


def test_losses_that_cluster_fall_deeper_in_blocks() -> None:
    pnl = ([5.0] * 25 + [-20.0] * 5) * 20
    one, blocks = (resample_trades(pnl, 10_000.0, method=method) for method in ("bootstrap", "blocks"))
    assert one is not None
    assert blocks is not None
    assert (one.block, blocks.block) == (1, 8)
    assert blocks.drawdown_pct[4] > 1.3 * one.drawdown_pct[4]


@given(st.lists(st.floats(-900.0, 900.0), min_size=1, max_size=30))
def test_trades_as_fractions_lead_to_the_same_equity(pnl: list[float]) -> None:
    found = Returns.of(DAYS_NS[:0], np.zeros(0), Period(60, 1.0), np.array(pnl), 1000.0)
    equity = 1000.0 + np.cumsum(pnl)
    alive = int(np.argmax(equity <= 0)) if (equity <= 0).any() else len(pnl)
    assert np.allclose(1000.0 * np.cumprod(1.0 + found.trades[:alive]), equity[:alive])
    spent = found.trades[alive + 1 :][equity[alive:-1] <= 0]
    assert (spent == -1.0).all()


def test_a_plateau_and_a_peak_are_distinguished() -> None:
    flat = [({"a": a, "b": b}, 10.0 - abs(a - 3) - abs(b - 3)) for a in range(7) for b in range(7)]
    near = Surface(["a", "b"], flat).around({"a": 3, "b": 3})
    assert (near.peak, near.neighbours, near.worst) == (10.0, 8, 8.0)
    assert near.mean == pytest.approx((4 * 9 + 4 * 8) / 8)
    spike = [({"a": a}, 9.0 if a == 3 else 0.5) for a in range(7)]
    assert Surface(["a"], spike).around({"a": 3}).ratio == pytest.approx(0.5 / 9)
    cells = Surface(["a", "b"], flat).columns("a")
    assert cells["a"] == list(range(7))
    assert cells["best"][3] == 10.0
    assert set(cells["count"]) == {7}
