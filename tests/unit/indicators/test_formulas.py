"""Indicators against their formulas, written again as plain loops over bars."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.indicators import compute
from fks.indicators.sessions import local_seconds, pivot_points, session_starts, vwap_session
from fks.indicators.windows import hurst, ichimoku, realised_volatility, vwap_rolling, window_sum, zscore
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS
from fks.strategies.check import synthetic

COUNT = 400
BARS = synthetic(COUNT)
OPENS, H, L, C, V = (getattr(BARS, name).tolist() for name in ("open", "high", "low", "close", "volume"))
TYPICAL = [(h + low + c) / 3 for h, low, c in zip(H, L, C, strict=True)]
OTHER = Bars(
    "OTHER",
    "1m",
    BARS.time_ns,
    *(getattr(synthetic(3 * COUNT)[COUNT : 2 * COUNT], n) for n in ("open", "high", "low", "close", "volume")),
)
START_NS = int(BARS.time_ns[0])


def assert_column(found: Any, expected: Sequence[float], first: int) -> None:
    assert np.isnan(found[:first]).all()
    assert found[first:] == pytest.approx(expected[first:], rel=1e-9, abs=1e-9)


def ema(values: Sequence[float], period: int, first: int = 0) -> list[float]:
    """Return the EMA seeded by the mean of `period` values from `first` on; NaN before."""
    out = [math.nan] * len(values)
    at = first + period - 1
    out[at] = sum(values[first : at + 1]) / period
    for i in range(at + 1, len(values)):
        out[i] = out[i - 1] + 2 / (period + 1) * (values[i] - out[i - 1])
    return out


def wilder_atr(period: int, at: int) -> list[float]:
    """Return Wilder's ATR: at bar `at` the mean of the last `period` true ranges, then smoothed by 1/period."""
    true = [math.nan] + [max(H[i], C[i - 1]) - min(L[i], C[i - 1]) for i in range(1, COUNT)]
    out = [math.nan] * COUNT
    out[at] = sum(true[at - period + 1 : at + 1]) / period
    for i in range(at + 1, COUNT):
        out[i] = (out[i - 1] * (period - 1) + true[i]) / period
    return out


def wma(values: Sequence[float], period: int, i: int) -> float:
    return sum((k + 1) * values[i - period + 1 + k] for k in range(period)) / (period * (period + 1) / 2)


def test_donchian_is_the_range_of_the_window() -> None:
    found = compute("donchian", BARS, period=20)
    assert_column(found["upper"], [max(H[max(0, i - 19) : i + 1]) for i in range(COUNT)], 19)
    assert_column(found["lower"], [min(L[max(0, i - 19) : i + 1]) for i in range(COUNT)], 19)
    assert_column(found["middle"], [(u + w) / 2 for u, w in zip(found["upper"], found["lower"], strict=True)], 19)


def test_keltner_is_an_ema_of_the_typical_price_and_bands_of_wilders_range() -> None:
    found = compute("keltner", BARS, period=20, atr_period=10, deviations=2.0)
    middle, atr = ema(TYPICAL, 20), wilder_atr(10, 19)
    assert_column(found["middle"], middle, 19)
    assert_column(found["upper"], [m + 2 * a for m, a in zip(middle, atr, strict=True)], 19)
    assert_column(found["lower"], [m - 2 * a for m, a in zip(middle, atr, strict=True)], 19)


def test_hull_average_is_the_weighted_average_of_two_weighted_averages() -> None:
    raw = [math.nan] * 15 + [2 * wma(C, 8, i) - wma(C, 16, i) for i in range(15, COUNT)]
    expected = [math.nan] * 18 + [wma(raw, 4, i) for i in range(18, COUNT)]
    assert_column(compute("hma", BARS, period=16)["hma"], expected, 18)


def test_heikin_ashi_opens_in_the_middle_of_the_candle_before() -> None:
    found = compute("heikin_ashi", BARS)
    opens, closes = [(OPENS[0] + C[0]) / 2], [(a + b + c + d) / 4 for a, b, c, d in zip(OPENS, H, L, C, strict=True)]
    for i in range(1, COUNT):
        opens.append((opens[-1] + closes[i - 1]) / 2)
    assert_column(found["close"], closes, 0)
    assert_column(found["open"], opens, 0)
    assert_column(found["high"], [max(h, o, c) for h, o, c in zip(H, opens, closes, strict=True)], 0)
    assert_column(found["low"], [min(w, o, c) for w, o, c in zip(L, opens, closes, strict=True)], 0)


def test_supertrend_trails_the_bands_and_reverses_at_a_close_beyond() -> None:
    found = compute("supertrend", BARS, period=10, multiplier=3.0)
    atr, upper, lower, trend = wilder_atr(10, 10), math.inf, -math.inf, 0
    expected, signs = [math.nan] * COUNT, [math.nan] * COUNT
    for i in range(10, COUNT):
        middle = (H[i] + L[i]) / 2
        top, bottom = middle + 3 * atr[i], middle - 3 * atr[i]
        new_upper = top if top < upper or C[i - 1] > upper else upper
        new_lower = bottom if bottom > lower or C[i - 1] < lower else lower
        if trend == 0:
            trend = int(found["trend"][i])  # the first direction is a convention; every later one is the rule
        elif trend > 0 and C[i] < new_lower:
            trend = -1
        elif trend < 0 and C[i] > new_upper:
            trend = 1
        upper, lower = new_upper, new_lower
        expected[i], signs[i] = (lower if trend > 0 else upper), float(trend)
    assert_column(found["trend"], signs, 10)
    assert_column(found["supertrend"], expected, 10)
    assert set(found["trend"][10:]) == {-1.0, 1.0}


def test_ichimoku_draws_the_cloud_of_shift_bars_ago() -> None:
    found = ichimoku(BARS.high, BARS.low, 9, 26, 52, 26)

    def middle(i: int, period: int) -> float:
        window = slice(i - period + 1, i + 1)
        return (max(H[window]) + min(L[window])) / 2 if i >= period - 1 else math.nan

    assert_column(found.conversion, [middle(i, 9) for i in range(COUNT)], 77)
    assert_column(found.base, [middle(i, 26) for i in range(COUNT)], 77)
    assert_column(found.span_a, [(middle(i - 26, 9) + middle(i - 26, 26)) / 2 for i in range(COUNT)], 77)
    assert_column(found.span_b, [middle(i - 26, 52) for i in range(COUNT)], 77)


@given(st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=40), st.integers(1, 12))
def test_window_sums_are_sums_of_windows(values: list[float], period: int) -> None:
    found = window_sum(np.array(values, dtype=float), period)
    for i in range(len(values)):
        if i < period - 1:
            assert math.isnan(found[i])
        else:
            assert found[i] == pytest.approx(math.fsum(values[i - period + 1 : i + 1]), abs=1e-7)


def test_a_window_sum_forgets_what_is_far_away() -> None:
    values = np.concatenate([np.full(100, 1e16), np.ones(100)])
    assert window_sum(values, 10)[120:].tolist() == [10.0] * 80
    assert np.cumsum(values)[199] - np.cumsum(values)[189] != 10.0


def test_rolling_vwap_weighs_typical_prices_by_volume() -> None:
    expected = [
        sum(TYPICAL[k] * V[k] for k in range(i - 29, i + 1)) / sum(V[i - 29 : i + 1]) if i >= 29 else math.nan
        for i in range(COUNT)
    ]
    assert_column(vwap_rolling(BARS.high, BARS.low, BARS.close, BARS.volume, 30), expected, 29)
    nothing = vwap_rolling(BARS.high, BARS.low, BARS.close, np.zeros(COUNT), 30)
    assert_column(nothing, [sum(TYPICAL[max(0, i - 29) : i + 1]) / 30 for i in range(COUNT)], 29)


def test_zscore_counts_population_deviations() -> None:
    expected = [math.nan] * COUNT
    for i in range(19, COUNT):
        window = C[i - 19 : i + 1]
        spread = statistics.pstdev(window)
        expected[i] = (C[i] - statistics.fmean(window)) / spread if spread else 0.0
    assert_column(zscore(BARS.close, 20), expected, 19)
    assert zscore(np.full(30, 7.0), 20)[19:].tolist() == [0.0] * 11


def test_realised_volatility_is_the_root_mean_square_of_log_returns() -> None:
    returns = [math.nan] + [math.log(C[i] / C[i - 1]) for i in range(1, COUNT)]
    expected = [
        math.sqrt(525_600 * sum(r * r for r in returns[i - 29 : i + 1]) / 30) if i >= 30 else math.nan
        for i in range(COUNT)
    ]
    assert_column(realised_volatility(BARS.close, 30, 525_600.0), expected, 30)


def test_hurst_is_half_the_slope_of_squared_moves_over_lags() -> None:
    x, found = np.log(BARS.close), hurst(BARS.close, 64)
    for i in (63, 64, 200, COUNT - 1):
        window = x[i - 63 : i + 1]
        lags = [1, 2, 4, 8, 16]
        logs = [math.log(np.mean((window[lag:] - window[:-lag]) ** 2)) for lag in lags]
        assert found[i] == pytest.approx(np.polyfit(np.log(lags), logs, 1)[0] / 2, rel=1e-8)
    assert hurst(np.full(80, 3.0), 64)[63:].tolist() == [0.5] * 17


def test_hurst_tells_a_trend_from_a_walk_and_from_a_return() -> None:
    dice = np.random.default_rng(7)
    walk = np.exp(np.cumsum(dice.standard_normal(4000)) * 1e-3)
    noise = np.exp(dice.standard_normal(4000) * 1e-3)
    line = np.exp(np.arange(4000) * 1e-4)
    assert hurst(walk, 1024)[-1] == pytest.approx(0.5, abs=0.1)
    assert hurst(noise, 1024)[-1] < 0.1
    assert hurst(line, 1024)[-1] == pytest.approx(1.0, abs=0.01)


def test_correlation_and_beta_are_those_of_log_returns() -> None:
    other = OTHER.close.tolist()
    x = [math.nan] + [math.log(C[i] / C[i - 1]) for i in range(1, COUNT)]
    y = [math.nan] + [math.log(other[i] / other[i - 1]) for i in range(1, COUNT)]
    correlation, beta = [math.nan] * COUNT, [math.nan] * COUNT
    for i in range(60, COUNT):
        a, b = x[i - 59 : i + 1], y[i - 59 : i + 1]
        correlation[i], beta[i] = statistics.correlation(a, b), statistics.linear_regression(b, a).slope
    assert_column(compute("rolling_correlation", BARS, other=OTHER, period=60)["rolling_correlation"], correlation, 60)
    assert_column(compute("rolling_beta", BARS, other=OTHER, period=60)["rolling_beta"], beta, 60)


def test_what_does_not_move_correlates_with_nothing() -> None:
    still = Bars("STILL", "1m", BARS.time_ns, *[np.full(COUNT, 5.0)] * 5)
    for name in ("rolling_correlation", "rolling_beta"):
        assert compute(name, BARS, other=still, period=20)[name][20:].tolist() == [0.0] * (COUNT - 20)
        assert compute(name, BARS, other=BARS, period=20)[name][20:] == pytest.approx(1.0)


def test_talibs_beta_and_correlation_read_the_second_series() -> None:
    a, b = BARS.close, OTHER.close
    assert compute("correl", BARS, other=OTHER, period=30)["correl"][-1] == pytest.approx(
        np.corrcoef(a[-30:], b[-30:])[0, 1], rel=1e-6
    )
    assert compute("sub", BARS, other=OTHER)["sub"] == pytest.approx(a - b)


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")


@given(
    st.sampled_from(ZONES),
    st.integers(1_400_000_000, 1_900_000_000),
    st.integers(1, 300),
    st.sampled_from([1, 60, 3600, 86_400]),
)
def test_local_seconds_are_those_of_the_zones_clock(zone: str, start: int, count: int, step: int) -> None:
    times = (start + np.arange(count, dtype=np.int64) * step) * NS
    for time_ns, second in zip(times.tolist(), local_seconds(times, zone).tolist(), strict=True):
        clock = datetime.fromtimestamp(time_ns // NS, ZoneInfo(zone)).replace(tzinfo=None)
        assert datetime.fromtimestamp(second, UTC).replace(tzinfo=None) == clock


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InputError, match="unknown time zone 'Mars/Base'"):
        local_seconds(BARS.time_ns, "Mars/Base")


def days(count: int, *, first_minute: int = 0) -> Bars:
    """Return `count` days of 30-minute bars, beginning `first_minute` minutes after midnight UTC."""
    made = synthetic(48 * count, "30m")
    return Bars(
        "DAYS", "30m", made.time_ns + first_minute * 60 * NS, made.open, made.high, made.low, made.close, made.volume
    )


@pytest.mark.parametrize("first_minute", [0, 30])
def test_session_vwap_begins_again_each_day(first_minute: int) -> None:
    bars = days(3, first_minute=first_minute)
    found = vwap_session(bars.time_ns, bars.high, bars.low, bars.close, bars.volume)
    typical = (bars.high + bars.low + bars.close) / 3
    day = bars.time_ns // (86_400 * NS)
    for i in range(len(bars)):
        rows = [k for k in range(i + 1) if day[k] == day[i]]
        if first_minute and day[i] == day[0]:
            assert math.isnan(found[i])  # this day had begun before the first bar
        else:
            expected = sum(typical[k] * bars.volume[k] for k in rows) / sum(bars.volume[k] for k in rows)
            assert found[i] == pytest.approx(expected, rel=1e-12)


def test_session_vwap_without_volume_is_the_typical_price() -> None:
    bars = days(1)
    found = vwap_session(bars.time_ns, bars.high, bars.low, bars.close, np.zeros(len(bars)))
    assert found == pytest.approx((bars.high + bars.low + bars.close) / 3)


@pytest.mark.parametrize("first_minute", [0, 30])
def test_pivots_are_those_of_the_last_whole_session(first_minute: int) -> None:
    bars = days(4, first_minute=first_minute)
    found = pivot_points(bars.time_ns, bars.high, bars.low, bars.close)
    day = bars.time_ns // (86_400 * NS)
    for i in range(len(bars)):
        before = np.flatnonzero(day == day[i] - 1)
        if not len(before) or (first_minute and day[i] - 1 == day[0]):
            assert all(math.isnan(column[i]) for column in found)
            continue
        h, w, c = bars.high[before].max(), bars.low[before].min(), bars.close[before[-1]]
        p = (h + w + c) / 3
        expected = (p, 2 * p - w, p + h - w, h + 2 * (p - w), 2 * p - h, p - (h - w), w - 2 * (h - p))
        assert tuple(column[i] for column in found) == pytest.approx(expected)


def test_a_session_has_23_or_25_hours_when_the_clock_is_changed() -> None:
    start = int(datetime(2026, 3, 27, 23, tzinfo=UTC).timestamp())  # midnight in Berlin; summer time begins on the 29th
    times = (start + np.arange(96, dtype=np.int64) * 3600) * NS
    edges, is_whole = session_starts(times, 0.0, "Europe/Berlin")
    assert is_whole
    assert np.diff(edges).tolist()[:3] == [24, 23, 24]


@given(st.integers(0, 200), st.integers(1, 120))
def test_session_values_do_not_depend_on_where_the_columns_begin(first: int, shorter: int) -> None:
    bars = days(6)
    whole, late = (
        (vwap_session(b.time_ns, b.high, b.low, b.close, b.volume), *pivot_points(b.time_ns, b.high, b.low, b.close))
        for b in (bars, bars[first : len(bars) - shorter])
    )
    for a, b in zip(whole, late, strict=True):
        part = a[first : len(bars) - shorter]
        known = ~np.isnan(b)
        assert np.array_equal(b[known], part[known])
        assert known[96:].all()  # a session of VWAP, and a whole one before it for the pivots
