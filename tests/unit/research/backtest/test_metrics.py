"""Extended statistics: against empyrical, against formulas by hand, and on runs checked by eye."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar

import empyrical
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fks.model.bar import Bars
from fks.model.cash_flows import FundingRate, InstrumentEvents
from fks.model.timeframe import NS, TIMEFRAMES
from fks.research.backtest import Backtest, Member, Setup, metrics_of, setup_for, statistics_of
from fks.research.backtest import metrics as formulas
from fks.research.backtest.limits import UNLIMITED
from fks.research.backtest.series import Periods, drawdown_of, periods_of, position_of, rolling_of, trade_table
from fks.strategies.base import Decisions, Strategy
from fks.strategies.check import synthetic
from fks.strategies.registry import load_catalogue
from tests.support.backtests import run, run_account
from tests.support.strategies import START_NS

RETURNS = hnp.arrays(np.float64, st.integers(5, 60), elements=st.floats(-0.25, 0.25, width=32)).filter(
    lambda values: float(values.std()) > 1e-3 and float(np.minimum(values, 0).std()) > 1e-4
)


class Scripted(Strategy):
    """Targets by bar."""

    name: ClassVar[str] = "scripted"
    target: tuple[float, ...]
    stop: float | None = None

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        stop = None if self.stop is None else np.full(len(bars), self.stop)
        return Decisions(np.resize(np.array(self.target), len(bars)), stop)


def tape(rows: list[tuple[float, float, float, float]], timeframe: str = "1m") -> Bars:
    times = START_NS + np.arange(len(rows), dtype=np.int64) * TIMEFRAMES[timeframe] * NS
    return Bars("BTCUSDT", timeframe, times, *np.array(rows, dtype=float).T, np.full(len(rows), 0.00001))


def daily(count: int = 400) -> Backtest:
    """Return a year of daily bars traded with all cash and no fee."""
    minutes = synthetic(count)
    times = START_NS + np.arange(count, dtype=np.int64) * 86_400 * NS
    bars = replace(minutes, timeframe="1d", time_ns=times)
    setup = setup_for(bars, cash=10_000, size=9_000, fee_rate=0, limits=False, lot="0.01")
    return run(load_catalogue().make("sma_cross", {"fast": 3, "slow": 8}), bars, setup)


# ── against an independent library ───────────────────────────────────────────────────────────────
@given(RETURNS, st.sampled_from([252.0, 365.0, 12.0]))
def test_ratios_equal_those_of_empyrical(returns: np.ndarray[Any, Any], per_year: float) -> None:
    year = {"annualization": per_year}
    assert formulas.sharpe_ratio(returns, per_year) == pytest.approx(empyrical.sharpe_ratio(returns, **year), rel=1e-9)
    assert formulas.sortino_ratio(returns, per_year) == pytest.approx(
        empyrical.sortino_ratio(returns, **year), rel=1e-9
    )
    assert formulas.value_at_risk(returns) == pytest.approx(empyrical.value_at_risk(returns), rel=1e-9)
    assert formulas.expected_shortfall(returns) == pytest.approx(empyrical.conditional_value_at_risk(returns), rel=1e-9)


@given(RETURNS)
def test_skewness_and_kurtosis_equal_those_of_scipy(returns: np.ndarray[Any, Any]) -> None:
    from scipy import stats

    assert formulas.skewness(returns) == pytest.approx(stats.skew(returns, bias=False), rel=1e-6, abs=1e-8)
    assert formulas.excess_kurtosis(returns) == pytest.approx(stats.kurtosis(returns, bias=False), rel=1e-6, abs=1e-6)


def test_metrics_of_a_year_of_days_equal_those_of_empyrical() -> None:
    result = daily()
    found, (_, per_year, _, returns, market) = result.metrics, periods_of(result)
    year = {"annualization": per_year}
    assert (found.period, found.periods, per_year) == ("day", len(result.equity), 365.0)
    assert found.cagr_pct == pytest.approx(100 * empyrical.cagr(returns, **year), rel=1e-9)
    assert found.volatility_pct == pytest.approx(100 * empyrical.annual_volatility(returns, **year), rel=1e-9)
    assert found.downside_deviation_pct == pytest.approx(100 * empyrical.downside_risk(returns, **year), rel=1e-9)
    assert found.max_drawdown_pct == pytest.approx(-100 * empyrical.max_drawdown(returns), rel=1e-9)
    assert found.calmar == pytest.approx(empyrical.calmar_ratio(returns, **year), rel=1e-9)
    assert found.total_return_pct == pytest.approx(100 * empyrical.cum_returns_final(returns), rel=1e-9)
    assert found.beta == pytest.approx(empyrical.beta(returns, market), rel=1e-9)
    assert found.alpha_pct == pytest.approx(100 * empyrical.alpha(returns, market, **year), rel=1e-9)
    rolled = rolling_of(returns, 30, per_year)[1][29:]
    assert rolled == pytest.approx(empyrical.roll_sharpe_ratio(returns, window=30, **year), rel=1e-9, nan_ok=True)


# ── against the basic statistics ─────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", ["sma_cross", "rsi", "buy_and_hold"])
def test_metrics_agree_with_the_basic_statistics(name: str) -> None:
    bars = synthetic(9000)
    result = run(load_catalogue().make(name), bars)
    basic, found = statistics_of(result), metrics_of(result)
    assert (found.trades, found.win_rate_pct) == (basic.trades, basic.win_rate_pct)
    for ours, theirs in (
        (found.total_return_pct, basic.return_pct),
        (found.max_drawdown_pct, basic.max_drawdown_pct),
        (found.sharpe, basic.sharpe),
        (found.profit_factor, basic.profit_factor),
        (found.expectancy, basic.average_trade),
        (found.exposure_pct, basic.exposure_pct),
        (found.fees, basic.fees),
        (found.benchmark_return_pct, basic.buy_and_hold_pct),
    ):
        assert ours == pytest.approx(theirs)


# ── by eye ───────────────────────────────────────────────────────────────────────────────────────
def test_excursions_of_a_trade_count_the_bars_before_its_exit() -> None:
    rows = [(100, 100, 100, 100), (100, 104, 98, 101), (101, 108, 95, 102), (103, 150, 50, 100), (100, 100, 100, 100)]
    result = run(Scripted(target=(1, 1, 0, 0, 0)), tape(rows))
    found = trade_table(result)
    assert (found.entry_index.tolist(), found.exit_index.tolist()) == ([1], [3])
    assert found.mae_pct.tolist() == pytest.approx([-5.0])
    assert found.mfe_pct.tolist() == pytest.approx([8.0])


def test_excursions_of_a_short_are_mirrored() -> None:
    rows = [(100, 100, 100, 100), (100, 104, 98, 101), (101, 108, 95, 102), (103, 150, 50, 100), (100, 100, 100, 100)]
    bars = tape(rows)
    found = trade_table(run(Scripted(target=(-1, -1, 0, 0, 0)), bars, setup_for(bars, can_short=True)))
    assert found.sign.tolist() == [-1.0]
    assert found.mae_pct.tolist() == pytest.approx([-8.0])
    assert found.mfe_pct.tolist() == pytest.approx([5.0])


def test_a_trade_stopped_in_its_first_bar_has_the_stop_as_excursion() -> None:
    rows = [(100, 100, 100, 100), (100, 120, 80, 100), (100, 100, 100, 100)]
    found = trade_table(run(Scripted(target=(1, 1, 1), stop=97.0), tape(rows)))
    assert found.reason == ("stop loss",)
    assert (found.mae_pct.tolist(), found.mfe_pct.tolist()) == (pytest.approx([-3.0]), [0.0])


def test_drawdown_is_counted_from_the_starting_cash() -> None:
    assert drawdown_of(np.array([90.0, 110.0, 99.0]), 100.0).tolist() == pytest.approx([-10.0, 0.0, -10.0])


def test_drawdown_lasts_from_the_peak_to_the_close_that_regains_it() -> None:
    closes = [100, 100, 110, 105, 106, 111, 111]
    result = run(Scripted(target=(1,)), tape([(c, c, c, c) for c in closes], "1h"), None)
    assert result.metrics.max_drawdown_s == 3 * 3600
    assert result.metrics.under_water_pct == pytest.approx(100 * 3 / 7)  # the fee, and two closes under 110


def test_drawdowns_are_listed_with_peak_trough_and_end() -> None:
    closes = [100, 100, 110, 105, 106, 111, 90, 95]
    bars = tape([(c, c, c, c) for c in closes], "1h")
    found = formulas.drawdowns_of(run(Scripted(target=(1,)), bars, setup_for(bars, fee_rate=0)))
    hours = [[int((ns - START_NS) / 3600 / NS) for ns in (row.peak_ns, row.trough_ns)] for row in found]
    assert hours == [[5, 6], [2, 3]]
    assert [row.end_ns is None for row in found] == [True, False]
    assert [row.length_s for row in found] == [2 * 3600, 3 * 3600]
    assert found[0].depth_pct == pytest.approx(100 * 210 / 10_110)


def test_short_runs_have_no_ratio_that_would_be_noise() -> None:
    found = run(Scripted(target=(1, 0)), tape([(100, 101, 99, 100)] * 8)).metrics
    assert (found.sharpe, found.cagr_pct, found.calmar, found.skew, found.alpha_pct) == (None,) * 5
    assert found.periods == 1


def test_a_run_without_a_trade_has_zeros_and_nones() -> None:
    found = run(Scripted(target=(0,)), tape([(100, 101, 99, 100)] * 8)).metrics
    assert (found.trades, found.fees, found.turnover, found.exposure_pct, found.max_drawdown_pct) == (0, 0, 0, 0, 0)
    assert (found.win_rate_pct, found.sqn, found.average_holding_s, found.fees_of_turnover_pct) == (None,) * 4
    assert found.as_dict()["expectancy"] is None


def test_an_account_that_lost_everything_has_no_rate_of_growth() -> None:
    rows = [(100.0, 100.0, 100.0, 100.0)] * 3 + [(400.0, 400.0, 400.0, 400.0)] * 40
    bars = tape(rows, "1d")
    setup = Setup(setup_for(bars).instrument, size=Decimal(9000), can_short=True, limits=UNLIMITED)
    found = run(Scripted(target=(-1,)), bars, setup).metrics
    assert found.total_return_pct < -100
    assert (found.cagr_pct, found.sharpe, found.calmar) == (None, None, None)


def test_markets_that_close_at_weekends_have_252_days_a_year() -> None:
    days = [day for day in range(28) if (day + 3) % 7 not in (5, 6)]  # 2026-01-01 is a Thursday
    bars = tape([(100, 101, 99, 100)] * len(days), "1d")
    bars = replace(bars, time_ns=START_NS + np.array(days, dtype=np.int64) * 86_400 * NS, calendar="24/5")
    assert periods_of(run(Scripted(target=(1,)), bars)).per_year == 252.0


@pytest.mark.parametrize(
    ("mean", "days", "is_found"),
    [(0.0, 500, False), (0.3, 40, False), (0.2, 500, False), (0.3, 500, True), (0.8, 60, True)],
)
def test_a_run_better_than_any_known_fund_is_a_finding(mean: float, days: int, is_found: bool) -> None:
    dice = np.random.default_rng(7).standard_normal(days)
    returns = 0.01 * (mean + (dice - dice.mean()) / dice.std(ddof=1))
    found = formulas.too_good(Periods("day", 365.0, np.arange(days), returns, returns))
    assert (found is not None) == is_found
    if found is not None:
        assert f"A Sharpe ratio of {mean * 365**0.5:.1f} a year over {days} days" in found


def test_months_compound_to_the_total_return() -> None:
    result = daily()
    for rows in (formulas.monthly_returns(result), formulas.yearly_returns(result)):
        assert np.prod([1 + row.return_pct / 100 for row in rows]) == pytest.approx(
            1 + result.metrics.total_return_pct / 100
        )
    months = formulas.monthly_returns(result)
    assert [(row.year, row.month) for row in months[:2]] == [(2026, 1), (2026, 2)]
    assert [row.month for row in formulas.yearly_returns(result)] == [0, 0]


def test_amounts_beyond_64_bits_have_metrics_and_frames() -> None:
    bars = tape([(30_000, 30_001, 29_999, 30_000)] * 12)
    item = replace(setup_for(bars).instrument, qty_max=Decimal(10) ** 30)
    setup = Setup(item, size=Decimal(10) ** 16, cash=Decimal(10) ** 17, limits=UNLIMITED)
    result = run(Scripted(target=(1, 1, 0, 0)), bars, setup)
    assert result.fill_columns.quantity.dtype == object
    assert (result.metrics.trades, result.metrics.exposure_pct) == (3, 50.0)
    assert result.trades_frame()["pnl"].sum() == pytest.approx(float(sum(trade.pnl for trade in result.trades)))
    assert result.fills_frame()["fee"].min() > 0


def test_bars_without_equity_have_a_position_but_no_share() -> None:
    """Funding of twice the position takes more than the equity of 1,000, half of which is held."""
    bars = tape([(1, 1, 1, 1)] * 4)
    funding = InstrumentEvents(funding=(FundingRate(int(bars.time_ns[2]), Decimal(3), Decimal(1)),))
    setup = setup_for(bars, cash=1_000, size=500, fee_rate=0, events=funding)
    result = run(Scripted(target=(1.0,)), bars, setup)
    assert result.equity.tolist() == [1_000, 1_000, -500, -500]
    assert (result.metrics.exposure_pct, result.statistics.exposure_pct) == (75.0, 75.0)
    assert (result.metrics.average_exposure_pct, result.metrics.max_exposure_pct) == (25.0, 50.0)
    assert result.equity_frame()["exposure_pct"].isna().tolist() == [False, False, True, True]
    together = run_account([Member(Scripted(target=(1.0,)), bars, setup)], cash=1_000)
    found = together.statistics
    assert (found.exposure_pct, found.average_exposure_pct, found.max_exposure_pct) == (75.0, 25.0, 50.0)


def test_dust_of_fees_is_no_exposure() -> None:
    result = run(Scripted(target=(1, 1, 0, 0)), tape([(30_000, 30_001, 29_999, 30_000)] * 12))
    assert float(result.position) != 0
    assert position_of(result)[3] == 0.0
