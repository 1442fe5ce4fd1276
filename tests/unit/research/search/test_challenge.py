"""The test of a challenger: recorded decisions are valued as in a backtest, and a chance result is not proposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fks.research.backtest import Setup, setup_for
from fks.research.search.challenge import (
    ChallengeRules,
    Excess,
    RecordedChange,
    RecordedDecisions,
    evaluate_excess,
    excess_of,
)
from fks.research.search.objectives import Period
from fks.strategies.base import evaluate
from fks.strategies.check import synthetic
from fks.strategies.sma_cross import SmaCross
from tests.support.backtests import run

RULES = ChallengeRules(bars_min=200, trades_min=5, confidence=0.95)
BARS = synthetic(2000)


def setup() -> Setup:
    return replace(setup_for(BARS, cash=1_000_000, fee_rate=0.0005), allow_gaps=True)


def recorded(strategy: SmaCross) -> RecordedDecisions:
    """Return what a worker records of a strategy from its warm-up on."""
    decisions = evaluate(strategy, BARS)
    warm = strategy.warmup()
    target = decisions.target[warm:]
    found = []
    for place in np.flatnonzero(target != np.concatenate([[0.0], target[:-1]])):
        index = warm + int(place)
        stop = decisions.stop_loss
        price = None if stop is None or not target[place] or np.isnan(stop[index]) else float(stop[index])
        found.append(RecordedChange(int(BARS.time_ns[index]), float(target[place]), price))
    return RecordedDecisions(changes=tuple(found))


@pytest.mark.parametrize("strategy", [SmaCross(fast=3, slow=9), SmaCross(fast=4, slow=15, sl_pct=0.1)])
def test_recorded_decisions_are_valued_as_their_backtest(strategy: SmaCross) -> None:
    wanted = run(strategy, BARS, setup())
    found = run(recorded(strategy), BARS[strategy.warmup() - 1 :], setup())
    assert found.fills == wanted.fills
    assert len(found.fills) > 20
    assert found.equity.tolist() == wanted.equity.tolist()


def test_both_are_compared_from_the_first_common_bar_on() -> None:
    champion, challenger = run(SmaCross(fast=3, slow=9), BARS, setup()), run(SmaCross(fast=4, slow=60), BARS, setup())
    found = excess_of(challenger, champion)
    assert found.from_ns == int(BARS.time_ns[60])
    assert found.to_ns == int(BARS.time_ns[-1])
    assert found.bars == 1940
    assert len(found.values) == len(found.champion)
    assert found.champion_profit == pytest.approx(champion.equity[-1] - champion.equity[60 - 9 - 1])
    assert found.profit == pytest.approx(challenger.equity[-1] - 1_000_000)


def excess(mean: float, count: int = 400, seed: int = 1, *, bars: int = 10_000, trades: int = 100) -> Excess:
    dice = np.random.default_rng(seed)
    return Excess(
        dice.normal(mean, 1.0, count) / 100,
        np.zeros(count),
        Period(3_600, 8760.0),
        0,
        1,
        bars,
        trades,
        profit=1.0,
        champion_profit=0.0,
    )


def test_a_better_challenger_passes_and_more_trials_ask_for_more() -> None:
    one = evaluate_excess(excess(0.25), RULES, trials=1, others=())
    assert one["findings"] == []
    many = evaluate_excess(excess(0.25), RULES, trials=100, others=[-0.2, 0.3, 0.1, -0.1])
    assert many["deflated_sharpe"] < one["deflated_sharpe"]
    assert "the best of 100 without skill may look as good" in many["findings"][0]


@pytest.mark.parametrize(
    ("made", "finding"),
    [
        (excess(1.0, bars=199), "199 bars were decided on, and 200 are needed"),
        (excess(1.0, trades=4), "it made 4 trades, and 5 are needed"),
        (excess(1.0, count=29), "29 returns are too few"),
        (replace(excess(0.0), values=np.zeros(400)), "it did what its champion did"),
        (excess(-0.2), "the deflated Sharpe ratio of its excess returns is 0.00"),
    ],
)
def test_what_speaks_against_a_challenger_is_named(made: Excess, finding: str) -> None:
    found = evaluate_excess(made, RULES, trials=1, others=())
    assert [text for text in found["findings"] if text.startswith(finding)], found["findings"]


def test_challengers_without_skill_are_rarely_proposed() -> None:
    """The best of ten without skill, in 300 repetitions: at a nominal 5 %, at most 7 % may pass."""
    passed = 0
    for repetition in range(300):
        made = [excess(0.0, 200, seed=1000 * repetition + number) for number in range(10)]
        ratios = [one.sharpe_period for one in made]
        best = int(np.argmax(ratios))
        others = ratios[:best] + ratios[best + 1 :]
        passed += not evaluate_excess(made[best], RULES, trials=10, others=others)["findings"]
    assert passed <= 21
