"""Statistics of overfitting: published examples, simulation, and their values for strategies without skill."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.research.search import (
    backtest_overfitting,
    block_sums,
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
    track_record_needed,
)
from tests.support.no_skill import passes_without_skill


def test_deflated_sharpe_equals_the_published_example() -> None:
    """Bailey & López de Prado (2014): 5 years of days, yearly Sharpe 2.5, skewness -3, kurtosis 10, variance 1/2."""
    variance = 0.5 / 250
    assert expected_best_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    published = {"periods": 1250, "variance": variance, "skew": -3.0, "kurtosis": 10.0}
    assert deflated_sharpe(2.5 / sqrt(250), trials=100, **published) == pytest.approx(0.9004, abs=5e-5)  # type: ignore[arg-type]
    assert deflated_sharpe(2.5 / sqrt(250), trials=46, **published) == pytest.approx(0.9505, abs=5e-5)  # type: ignore[arg-type]
    assert deflated_sharpe(2.5 / sqrt(250), 1250, trials=88, variance=variance) == pytest.approx(0.9505, abs=5e-5)


def test_probabilistic_sharpe_equals_the_published_example() -> None:
    """Bailey & López de Prado (2012): 24 months, monthly Sharpe 0.458, skewness -2.448, kurtosis 10.164."""
    assert probabilistic_sharpe(0.458, 24, skew=-2.448, kurtosis=10.164) == pytest.approx(0.913, abs=5e-4)
    assert probabilistic_sharpe(0.458, 24) == pytest.approx(0.982, abs=5e-4)


def test_expected_best_sharpe_is_the_mean_of_the_largest_of_normals() -> None:
    """Harter (1961), Biometrika 48, table 1; the formula is the limit for many trials and too strict for few."""
    for trials, exact, error in ((10, 1.53875, 0.025), (100, 2.50759, 0.01), (1000, 3.24144, 0.005)):
        found = expected_best_sharpe(trials, 0.04)
        assert 0.2 * exact <= found <= 0.2 * exact * (1 + error)


def test_track_record_is_the_first_length_that_suffices() -> None:
    needed = track_record_needed(0.1, skew=-1.0, kurtosis=6.0)
    assert needed is not None
    assert probabilistic_sharpe(0.1, needed, skew=-1.0, kurtosis=6.0) >= 0.95
    assert probabilistic_sharpe(0.1, needed - 1, skew=-1.0, kurtosis=6.0) < 0.95
    assert track_record_needed(-0.1) is None


@given(st.floats(-0.5, 0.5), st.integers(2, 5000), st.integers(2, 10_000))
def test_more_trials_never_make_a_result_more_likely_to_be_skill(observed: float, periods: int, trials: int) -> None:
    one = deflated_sharpe(observed, periods, trials=trials, variance=0.01)
    more = deflated_sharpe(observed, periods, trials=2 * trials, variance=0.01)
    assert 0.0 <= more <= one <= probabilistic_sharpe(observed, periods) <= 1.0


def test_probability_of_overfitting_is_half_without_skill_and_none_with_it() -> None:
    assert passes_without_skill(30, 20, seed=5, pbo=30).pbo == pytest.approx(0.5, abs=0.08)
    dice = np.random.Generator(np.random.PCG64(7))
    returns = dice.normal(0.0, 0.01, size=(20, 500))
    returns[7] += 0.003
    found = backtest_overfitting(np.stack([block_sums(row, 10) for row in returns]))
    assert found is not None
    assert found.pbo < 0.01
    assert found.loss_share < 0.01
    assert (found.trials, found.blocks, found.choices) == (20, 10, 252)


def test_cross_validation_by_block_sums_equals_the_one_on_whole_returns() -> None:
    """Bailey et al. (2017), section 3, written out on the matrix of returns itself."""
    from itertools import combinations

    dice = np.random.Generator(np.random.PCG64(11))
    returns = dice.normal(0.0, 0.01, size=(7, 120))
    parts = np.split(returns, 6, axis=1)
    logits = []
    for pick in combinations(range(6), 3):
        inside = np.concatenate([parts[k] for k in pick], axis=1)
        outside = np.concatenate([parts[k] for k in range(6) if k not in pick], axis=1)
        trained, tested = (part.mean(axis=1) / part.std(axis=1, ddof=1) for part in (inside, outside))
        rank = int((tested <= tested[trained.argmax()]).sum())
        logits.append(np.log(rank / (8 - rank)))
    found = backtest_overfitting(np.stack([block_sums(row, 6) for row in returns]))
    assert found is not None
    assert found.pbo == pytest.approx(float((np.array(logits) <= 0).mean()))


def test_of_strategies_without_skill_at_most_seven_percent_pass() -> None:
    """The smaller version of benchmarks/overfitting.py: 400 experiments; 7 % of 400 is 2 standard errors over 5 %."""
    single = passes_without_skill(400, 1, seed=2)
    assert single.naive <= 0.07
    best = passes_without_skill(400, 20, periods=250, seed=2)
    assert best.deflated <= 0.07
    assert best.held_out <= 0.07
    assert best.naive > 0.5, "the test would prove nothing where chance does not look like skill"


def test_a_strategy_with_skill_passes_the_deflated_test() -> None:
    dice = np.random.Generator(np.random.PCG64(13))
    passed = 0
    for _ in range(50):
        returns = dice.normal(0.0, 0.01, size=(20, 500))
        returns[3] += 0.0025  # a yearly Sharpe ratio of about 4.8
        ratios = returns.mean(axis=1) / returns.std(axis=1, ddof=1)
        variance = float(np.delete(ratios, 3).var(ddof=1))
        passed += deflated_sharpe(float(ratios.max()), 500, trials=20, variance=variance) >= 0.95
    assert passed >= 45
