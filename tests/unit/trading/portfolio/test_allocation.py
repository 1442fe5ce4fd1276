"""Weights of each method: their constraints, their known solutions, and conflicts that are named."""

from __future__ import annotations

import builtins
from decimal import Decimal as D
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.accounting.attribution import InstanceFill
from fks.model.bar import ShareSplit
from fks.model.errors import InputError
from fks.trading.portfolio.allocation import (
    PENALIZED,
    AllocatedWeights,
    AllocationConstraints,
    AllocationGroup,
    AllocationMethod,
    AllocationOptions,
    AllocationWindow,
    allocate,
    check_feasible,
    in_new_shares,
)

M = AllocationMethod
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
ANY = AllocationConstraints()


def some_returns(seed: int = 1, periods: int = 250) -> Any:
    """Return correlated returns of five instruments of different volatility."""
    rng = np.random.default_rng(seed)
    market = rng.normal(0.0004, 0.01, (periods, 1))
    return market + rng.normal(0.0002, 0.01, (periods, 5)) * np.array([1, 1.5, 0.7, 2, 0.4])


def allocated(
    method: M, constraints: AllocationConstraints = ANY, returns: Any = None, **options: Any
) -> AllocatedWeights:
    found = some_returns() if returns is None else returns
    return allocate(method, SYMBOLS, found, constraints, AllocationOptions(**options), periods_per_year=365.0)


def weights_of(method: M, constraints: AllocationConstraints = ANY, **options: Any) -> Any:
    return np.array([*allocated(method, constraints, **options).weights.values()])


def code_of(method: M, constraints: AllocationConstraints = ANY, **options: Any) -> tuple[str, str]:
    with pytest.raises(InputError) as error:
        allocated(method, constraints, **options)
    assert error.value.remedy
    return error.value.code, str(error.value)


def test_equal_and_inverse_volatility_are_their_formulas() -> None:
    assert weights_of(M.EQUAL) == pytest.approx([0.2] * 5)
    inverse = 1 / some_returns().std(axis=0, ddof=1)
    assert weights_of(M.INVERSE_VOLATILITY) == pytest.approx(inverse / inverse.sum(), rel=1e-9)
    fixed = dict(zip(SYMBOLS, (0.5, 0.2, 0.1, 0.1, 0.05), strict=True))
    assert allocated(M.FIXED, fixed=fixed).weights == fixed


def test_a_volatility_target_keeps_the_rest_in_cash() -> None:
    calm = allocated(M.VOLATILITY_TARGET, volatility=0.05)
    assert calm.diagnostics["volatility"] == pytest.approx(0.05, rel=1e-9)
    assert calm.diagnostics["invested"] < 0.5
    assert weights_of(M.VOLATILITY_TARGET, volatility=9.0) == pytest.approx(weights_of(M.INVERSE_VOLATILITY))


def test_minimum_variance_is_the_solution_in_closed_form() -> None:
    returns = some_returns() + np.random.default_rng(5).normal(0, 0.03, (250, 5))  # all weights are above 0
    inverse = np.linalg.solve(np.cov(returns, rowvar=False, ddof=1), np.ones(5))
    expected = inverse / inverse.sum()
    assert (expected > 0.01).all()
    assert weights_of(M.MINIMUM_VARIANCE, returns=returns) == pytest.approx(expected, abs=1e-6)


def test_risk_parity_contributes_the_same_from_each() -> None:
    shares = allocated(M.RISK_PARITY).diagnostics["risk_shares"]
    assert [*shares.values()] == pytest.approx([0.2] * 5, abs=1e-4)


BOUNDED = AllocationConstraints(least=dict.fromkeys(SYMBOLS, 0.05), most=dict.fromkeys(SYMBOLS, 0.4))


# Weights that PyPortfolioOpt 1.6.0 (Clarabel, gaps of 1e-13) gives for `some_returns()` as simple returns, frequency 1:
# EfficientFrontier(None, sample_cov).min_volatility(), and EfficientFrontier(mean, CovarianceShrinkage.ledoit_wolf())
# .max_quadratic_utility(2 * aversion): its utility has half the variance, ours the whole one.
@pytest.mark.parametrize(
    ("method", "constraints", "options", "weights"),
    [
        (M.MINIMUM_VARIANCE, ANY, {}, [0.0609682343779408, 0.0, 0.289578493455604, 0.0, 0.6494532719045903]),
        (M.MINIMUM_VARIANCE, BOUNDED, {}, [0.1117585941725493, 0.05, 0.3882414055915042, 0.05, 0.4]),
        (M.MEAN_VARIANCE, ANY, {"risk_aversion": 1.0}, [0.0, 1.0, 0.0, 0.0, 0.0]),
        (M.MEAN_VARIANCE, ANY, {"risk_aversion": 10.0}, [0.0, 0.197371395357855, 0.0043928272997884, 0.0, 0.798235777339391]),
        (M.MEAN_VARIANCE, ANY, {"risk_aversion": 1e6}, [0.0904222432126081, 0.0127156254390416, 0.313822372916094, 0.0010391691902998, 0.5820005892419562]),
    ],
)  # fmt: skip
def test_weights_equal_those_of_pyportfolioopt(
    method: M, constraints: AllocationConstraints, options: dict[str, float], weights: list[float]
) -> None:
    assert weights_of(method, constraints, **options) == pytest.approx(weights, abs=1e-6)


def test_shrunk_covariances_equal_those_of_pyportfolioopt() -> None:
    """The first row of CovarianceShrinkage(returns, returns_data=True, frequency=1).ledoit_wolf() of 1.6.0."""
    from skfolio.moments import LedoitWolf

    row = [
        0.0002089496737401476,
        9.32109682446334e-05,
        8.788224321252855e-05,
        9.327667226016009e-05,
        8.558535373272307e-05,
    ]
    assert LedoitWolf().fit(some_returns()).covariance_[0] == pytest.approx(row, rel=1e-9)


def test_hierarchical_risk_parity_is_that_of_pyportfolioopt_in_the_order_of_skfolio() -> None:
    """HRPOpt._raw_hrp_allocation of 1.6.0 in scipy's optimal order of leaves, DDD BBB CCC EEE AAA; its own order of the
    same tree, DDD BBB AAA CCC EEE, gives other weights."""
    expected = [0.132037725376188, 0.169294076548434, 0.331604648786430, 0.103275819823264, 0.263787729465684]
    assert weights_of(M.HIERARCHICAL_RISK_PARITY) == pytest.approx(expected, abs=1e-6)


def test_hierarchical_risk_parity_of_two_is_inverse_variance() -> None:
    returns = some_returns()[:, :2]
    found = allocate(M.HIERARCHICAL_RISK_PARITY, SYMBOLS[:2], returns, ANY, AllocationOptions(), periods_per_year=365.0)
    inverse = 1 / returns.var(axis=0, ddof=1)
    assert [*found.weights.values()] == pytest.approx(inverse / inverse.sum(), abs=1e-9)


def test_minimum_cvar_loses_less_in_the_worst_periods() -> None:
    def cvar(weights: Any) -> float:
        losses = np.sort(-(some_returns() @ weights))[::-1]
        return float(losses[: len(losses) // 20].mean())

    best = cvar(weights_of(M.MINIMUM_CVAR))
    others = [weights_of(method) for method in (M.EQUAL, M.MINIMUM_VARIANCE, M.RISK_PARITY)]
    assert best <= min(map(cvar, others)) + 2e-4


def test_risk_aversion_leads_from_the_mean_to_the_variance() -> None:
    bold, careful = (allocated(M.MEAN_VARIANCE, risk_aversion=a).diagnostics for a in (0.1, 1000.0))
    assert bold["mean"] > careful["mean"]
    assert bold["volatility"] > careful["volatility"]
    from sklearn.covariance import ledoit_wolf

    shrunk = ledoit_wolf(some_returns())[0]
    careful = weights_of(M.MEAN_VARIANCE, risk_aversion=1e6)
    gradient = (shrunk @ careful)[careful > 1e-6]
    assert gradient == pytest.approx(gradient.mean(), rel=1e-3), "of the least shrunk variance, where it is held"


def test_a_turnover_penalty_keeps_the_weights_before() -> None:
    before = dict.fromkeys(SYMBOLS, 0.2)
    for method in PENALIZED:
        free, dear, kept = (
            allocated(method, previous=before, turnover_penalty=penalty).diagnostics["turnover"]
            for penalty in (0.0, 1e-5, 1.0)
        )
        assert kept < 1e-5 < dear <= free + 1e-6
    for method in (M.EQUAL, M.RISK_PARITY):
        assert code_of(method, turnover_penalty=0.1)[0] == "ALLOCATION_WRONG"


CONSTRAINED = AllocationConstraints(
    least={"DDD": 0.1},
    most={"EEE": 0.3},
    groups=(AllocationGroup("x <= y", frozenset({"AAA", "CCC"}), 0.25),),
    invested=0.95,
)


@pytest.mark.parametrize("method", [method for method in M if method is not M.FIXED])
def test_every_method_keeps_to_bounds_and_caps(method: M) -> None:
    found = allocated(method, CONSTRAINED, volatility=9.0).weights
    assert sum(found.values()) == pytest.approx(0.95, abs=1e-6)
    assert found["DDD"] >= 0.1
    assert found["EEE"] <= 0.3
    assert found["AAA"] + found["CCC"] <= 0.25 + 1e-6
    assert min(found.values()) >= 0
    assert found == allocated(method, CONSTRAINED, volatility=9.0).weights, "the same arguments, the same weights"


@given(
    st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
    st.lists(st.floats(0, 0.2), min_size=5, max_size=5),
    st.lists(st.floats(0.2, 1), min_size=5, max_size=5),
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.floats(0.2, 1),
)
def test_weights_keep_to_any_constraints_that_can_be_met(
    scale: list[float], least: list[float], most: list[float], cap: float, other: float, invested: float
) -> None:
    constraints = AllocationConstraints(
        dict(zip(SYMBOLS, least, strict=True)),
        dict(zip(SYMBOLS, most, strict=True)),
        (AllocationGroup("a", frozenset(SYMBOLS[:2]), cap), AllocationGroup("b", frozenset(SYMBOLS[2:4]), other)),
        invested,
    )
    needs = sum(least), least[0] + least[1] - cap, least[2] + least[3] - other
    room = min(cap, sum(most[:2])) + min(other, sum(most[2:4])) + most[4]
    if needs[0] > invested + 1e-9 or max(needs[1:]) > 1e-9 or room < invested - 1e-9:
        with pytest.raises(InputError, match="no weights meet"):
            check_feasible(SYMBOLS, constraints)
        return
    returns = some_returns(periods=50) * np.array(scale)
    found = allocate(M.INVERSE_VOLATILITY, SYMBOLS, returns, constraints, AllocationOptions(), periods_per_year=1.0)
    weights = np.array([*found.weights.values()])
    assert weights.sum() == pytest.approx(invested, abs=1e-6)
    assert (weights >= np.array(least) - 1e-9).all()
    assert (weights <= np.array(most) + 1e-9).all()
    assert weights[:2].sum() <= cap + 1e-6
    assert weights[2:4].sum() <= other + 1e-6


@pytest.mark.parametrize(
    ("constraints", "named"),
    [
        (AllocationConstraints(least=dict.fromkeys(SYMBOLS, 0.3)), ["min of AAA BBB CCC DDD EEE", "1.5"]),
        (AllocationConstraints(most=dict.fromkeys(SYMBOLS, 0.1)), ["max of AAA 0.1", "0.5 in all"]),
        (AllocationConstraints(least={"AAA": 0.6}, most={"AAA": 0.5}), ["AAA: min 0.6 is above max 0.5"]),
        (
            AllocationConstraints(
                least={"AAA": 0.3, "BBB": 0.2}, groups=(AllocationGroup("layer1", frozenset({"AAA", "BBB"}), 0.4),)
            ),
            ["group layer1", "AAA BBB", "0.5", "0.4"],
        ),
        (AllocationConstraints(groups=(AllocationGroup("all", frozenset(SYMBOLS), 0.7),)), ["group all 0.7"]),
    ],
)
@pytest.mark.parametrize("method", [M.EQUAL, M.MINIMUM_VARIANCE])
def test_constraints_in_conflict_are_named(method: M, constraints: AllocationConstraints, named: list[str]) -> None:
    code, text = code_of(method, constraints)
    assert code == "ALLOCATION_INFEASIBLE"
    assert [part for part in named if part not in text] == [], text


def test_wrong_inputs_are_coded() -> None:
    flat = some_returns()
    flat[:, 2] = 0.0
    code, text = code_of(M.RISK_PARITY, returns=flat)
    assert (code, "all returns of CCC in the window are the same" in text) == ("ALLOCATION_INPUTS", True)
    broken = some_returns()
    broken[3, 1] = np.nan
    assert "returns of BBB are not numbers" in code_of(M.EQUAL, returns=broken)[1]
    assert code_of(M.EQUAL, returns=some_returns()[:1])[0] == "ALLOCATION_INPUTS"
    assert code_of(M.FIXED, fixed={"AAA": 1.0})[0] == "ALLOCATION_WRONG"
    assert code_of(M.FIXED, fixed=dict.fromkeys(SYMBOLS, 0.3))[0] == "ALLOCATION_INFEASIBLE"
    assert code_of(M.EQUAL, AllocationConstraints(most={"XXX": 0.1}))[0] == "ALLOCATION_WRONG"
    twice = tuple(AllocationGroup(name, frozenset({"AAA"}), 0.5) for name in "ab")
    assert code_of(M.EQUAL, AllocationConstraints(groups=twice))[0] == "ALLOCATION_WRONG"


# ── strategy instances ───────────────────────────────────────────────────────────────────────────
DAY = 86_400 * 10**9


def fill(day: float, quantity: str, price: str, fee: str | None = "0", size: str = "1000") -> InstanceFill:
    return InstanceFill(round(day * DAY), D(quantity), D(price), None if fee is None else D(fee), D(size))


def instance_returns(closes: list[float], *fills: InstanceFill, days: list[int] | None = None) -> list[float]:
    times = np.array(range(len(closes)) if days is None else days, dtype=np.int64) * DAY
    window = AllocationWindow("1d", times, np.array(closes).reshape(-1, 1), {})
    found: list[float] = window.instance_returns(0, fills).tolist()
    return found


def test_returns_of_an_instance_are_profits_over_its_size() -> None:
    """By hand: 10 at 100 with fee 1 within day 1, closes 101, 99, 104; sold at 103 with fee 2 in day 4, then flat."""
    found = instance_returns([100, 101, 99, 104, 90, 50], fill(1.5, "10", "100", "1"), fill(4.5, "-10", "103", "2"))
    assert found == pytest.approx([0.009, -0.020, 0.050, -0.012, 0.0])
    assert sum(found) * 1000 == pytest.approx(10 * (103 - 100) - 3), "all of it is the profit"


def test_a_position_from_before_the_window_earns_from_its_first_close() -> None:
    assert instance_returns([100, 90], fill(-9.5, "-10", "500")) == pytest.approx([0.1]), "short, size 1000"


def test_a_new_size_counts_from_the_next_entry_on() -> None:
    fills = [fill(0.5, "10", "100"), fill(3.5, "-10", "100", size="4000"), fill(4.5, "40", "100", size="4000")]
    found = instance_returns([100, 101, 102, 100, 101, 102], *fills)
    assert found == pytest.approx([10 / 1000, 10 / 1000, -20 / 1000, 40 / 4000, 40 / 4000])


def test_a_return_over_a_gap_of_bars_is_left_out() -> None:
    found = instance_returns([100, 110, 120, 121], fill(0.5, "10", "100"), days=[0, 1, 5, 6])
    assert found == pytest.approx([0.1, 0.01])


def test_an_instance_that_never_traded_has_no_returns_to_optimise() -> None:
    assert instance_returns([100, 110, 120]) == [0.0, 0.0]


def test_executions_before_a_split_are_in_new_shares() -> None:
    split = ShareSplit(3 * DAY, 4)
    before, after = in_new_shares(fill(1, "10", "400"), [split]), in_new_shares(fill(3, "10", "100"), [split])
    assert (before.quantity, before.price, after) == (D(40), D(100), fill(3, "10", "100"))


@pytest.mark.parametrize("method", sorted(PENALIZED | {M.RISK_PARITY, M.HIERARCHICAL_RISK_PARITY}))
def test_without_the_library_the_remedy_is_named(method: M, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refused(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "skfolio":
            raise ImportError("No module named 'skfolio'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refused)
    with pytest.raises(InputError) as error:
        allocated(method)
    assert (error.value.code, error.value.status, "fks[allocation]" in error.value.remedy) == (
        "ALLOCATION_LIBRARY", 501, True,
    )  # fmt: skip
    assert weights_of(M.EQUAL) == pytest.approx([0.2] * 5)
