"""Risk of a portfolio: statistics as empyrical and scipy have them, parts that add up, and no figure without history."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import empyrical
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fks.trading.portfolio.risk import (
    RETURNS_MIN,
    SCENARIOS,
    RiskPosition,
    StressScenario,
    cornish_fisher,
    exposure_of,
    factor_logs,
    risk_of,
    stress,
)

D = Decimal


def logs_of(seed: int, days: int, *names: str) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(seed)
    whole = draw.normal(0.0, 0.02, days)
    return {name: whole * at + draw.standard_t(4, days) * 0.01 for at, name in enumerate(names)}


def position(factor: str, value: str, **given: str) -> RiskPosition:
    filled = {"asset": factor, "currency": "USDT", "venue": "paper", "strategy": ""} | given
    return RiskPosition(factor, filled["asset"], filled["currency"], filled["venue"], filled["strategy"], D(value))


def test_losses_equal_those_of_empyrical() -> None:
    logs = logs_of(1, 500, "BTC", "ETH", "SOL")
    values = {"BTC": 5000.0, "ETH": 3000.0, "SOL": -1000.0}
    risk = risk_of(values, logs)
    profit = sum(np.expm1(logs[name]) * value for name, value in values.items())
    for confidence in (0.95, 0.99):
        tail = 1 - confidence
        historical = risk.tail("historical", confidence, 1)
        assert historical is not None
        assert historical.var == pytest.approx(-empyrical.value_at_risk(profit, tail), rel=1e-9)
        assert historical.shortfall == pytest.approx(-empyrical.conditional_value_at_risk(profit, tail), rel=1e-9)
        parametric = risk.tail("parametric", confidence, 10)
        normal = stats.norm(profit.mean() * 10, profit.std(ddof=1) * 10**0.5)
        assert parametric is not None
        assert parametric.var == pytest.approx(-normal.ppf(tail), rel=1e-9)
        assert parametric.shortfall == pytest.approx(-normal.expect(ub=normal.ppf(tail)) / tail, rel=1e-6)
    assert risk.missing == ()
    weighted = profit / 7000
    beta = risk_of(values, logs, logs["BTC"], capital=7000).beta
    assert beta == pytest.approx(empyrical.beta(weighted, np.expm1(logs["BTC"])), rel=1e-9)
    table = np.corrcoef(np.column_stack([np.expm1(logs[name]) for name in sorted(values)]).T)
    assert risk.correlations == pytest.approx(table, rel=1e-9)


def test_ten_days_are_compounded_overlapping_spans() -> None:
    logs = logs_of(2, 300, "BTC")
    found = risk_of({"BTC": 100.0}, logs).tail("historical", 0.95, 10)
    spans = [100 * (np.exp(logs["BTC"][at : at + 10].sum()) - 1) for at in range(291)]
    assert found is not None
    assert found.var == pytest.approx(-np.quantile(spans, 0.05), rel=1e-9)


@pytest.mark.parametrize(("skew", "kurtosis"), [(0.0, 0.0), (-0.4, 1.0), (0.5, 2.0), (-0.8, 6.0)])
def test_cornish_fisher_is_the_mean_of_its_quantiles(skew: float, kurtosis: float) -> None:
    found = cornish_fisher(skew, kurtosis, 0.05)
    assert found is not None
    z = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000 * 0.05)
    quantiles = z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * kurtosis / 24 - (2 * z**3 - 5 * z) * skew**2 / 36
    assert found[0] == pytest.approx(quantiles[-1], rel=1e-4)
    assert found[1] == pytest.approx(quantiles.mean(), rel=1e-4)


def test_cornish_fisher_without_a_monotone_tail_is_not_defined() -> None:
    assert cornish_fisher(0.0, -3.0, 0.05) is None
    assert cornish_fisher(4.0, 1.0, 0.05) is None


@settings(deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(-1000, 1000), min_size=1, max_size=6))
def test_components_add_up_to_the_whole(seed: int, amounts: list[int]) -> None:
    names = [f"A{at}" for at in range(len(amounts))]
    risk = risk_of(dict(zip(names, map(float, amounts), strict=True)), logs_of(seed, 120, *names))
    var, shortfall = risk.tail("parametric", 0.95, 1), risk.tail("historical", 0.95, 1)
    assert var is not None
    assert shortfall is not None
    assert sum(row.var for row in risk.components) == pytest.approx(var.var, rel=1e-9, abs=1e-9)
    assert sum(row.shortfall for row in risk.components) == pytest.approx(shortfall.shortfall, rel=1e-9, abs=1e-9)


def test_a_factor_without_a_history_is_named_and_left_out() -> None:
    logs = logs_of(3, 200, "BTC", "NEW")
    logs["NEW"][:-5] = np.nan
    values = {"BTC": 100.0, "NEW": 50.0, "XYZ": 10.0}
    risk = risk_of(values, logs)
    assert risk.missing == (f"NEW: 5 of {RETURNS_MIN} daily returns", "XYZ: no stored bars")
    assert risk.tails == risk_of({"BTC": 100.0}, logs).tails
    nothing = risk_of({"XYZ": 10.0}, logs)
    assert (nothing.tails, nothing.missing) == ((), ("XYZ: no stored bars",)), "no figure, never a zero"


def test_histories_that_do_not_overlap_give_no_figure() -> None:
    logs = logs_of(4, 200, "A", "B")
    logs["A"][:120], logs["B"][90:] = np.nan, np.nan
    risk = risk_of({"A": 1.0, "B": 1.0}, logs)
    assert (risk.tails, risk.missing) == ((), (f"A, B: 0 of {RETURNS_MIN} common daily returns",))


def test_a_historical_tail_without_a_return_is_not_defined() -> None:
    risk = risk_of({"A": 100.0}, logs_of(5, 99, "A"))
    found = risk.tail("historical", 0.99, 1)
    assert found is not None
    assert (found.var, found.shortfall) == (None, None)
    whole = risk_of({"A": 100.0}, logs_of(5, 100, "A")).tail("historical", 0.99, 1)
    assert whole is not None
    assert whole.var is not None


def test_gaps_take_the_spans_that_contain_them() -> None:
    logs = logs_of(6, 200, "A")
    logs["A"][50] = np.nan
    found = risk_of({"A": 1.0}, logs).tail("historical", 0.95, 10)
    spans = [np.exp(logs["A"][at : at + 10].sum()) - 1 for at in range(191) if not at <= 50 < at + 10]
    assert found is not None
    assert found.var == pytest.approx(-np.quantile(spans, 0.05), rel=1e-9)


def test_exposure_by_asset_currency_venue_and_strategy() -> None:
    held = [
        position("BTC", "600", strategy="trend"),
        position("BTC", "-200", venue="ninja"),
        position("ETH", "100"),
        position("NQ 12-26", "-500", asset="NQ", currency="USD", venue="ninja"),
    ]
    found = exposure_of(held)
    assert (found.gross, found.net) == (D(1000), D(0))
    rows = {(row.kind, row.name): (row.gross, row.net) for row in found.shares}
    assert rows["asset", "BTC"] == (D(400), D(400))
    assert rows["currency", "USD"] == (D(500), D(-500))
    assert rows["venue", "ninja"] == (D(700), D(-700))
    assert rows["strategy", "trend"] == (D(600), D(600))
    assert found.herfindahl == pytest.approx(0.4**2 + 0.1**2 + 0.5**2)
    assert (found.largest, found.largest_share) == ("NQ", 0.5)
    for kind in ("asset", "currency", "venue", "strategy"):
        assert sum(row.net for row in found.shares if row.kind == kind) == found.net
    assert exposure_of([]).herfindahl is None


def test_a_rate_over_two_pairs_adds_their_returns() -> None:
    closes = {"XMRBTC": np.array([0.01, 0.02, np.nan]), "EURBTC": np.array([2e-5, 1e-5, 1e-5])}
    pairs = {"XMRBTC": ("XMR", "BTC"), "EURBTC": ("EUR", "BTC")}
    found = factor_logs("XMR", ("XMRBTC", "EURBTC", "EUR=EURC"), closes, pairs)
    assert found is not None
    assert found[0] == pytest.approx(np.log(4.0))
    assert np.isnan(found[1])
    assert factor_logs("XMR", ("XMRUSD",), closes, pairs) is None


def test_stress_names_the_assets_that_it_does_not_move() -> None:
    held = [position("BTC", "1000"), position("XYZ", "50")]
    found = stress(held, StressScenario("mine", {"BTC": D("-0.3")}, "given"))
    assert (found.profit, found.unmoved) == (D(-300), ("XYZ",))
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(scenario.source and min(scenario.moves.values()) > -1 for scenario in SCENARIOS)


def test_moves_of_a_known_day_are_those_of_its_sourced_prices() -> None:
    moves = {scenario.name: dict(scenario.moves) for scenario in SCENARIOS}
    assert moves == {
        "covid-2020-03-12": {"BTC": D("-0.395"), "ES": D("-0.095")},
        "crash-2021-05-19": {"BTC": D("-0.144")},
        "ftx-2022-11-09": {"BTC": D("-0.141")},
        "shares-1987-10-19": {"ES": D("-0.205")},
    }
    assert all(scenario.source.startswith(scenario.name[-10:]) for scenario in SCENARIOS)
