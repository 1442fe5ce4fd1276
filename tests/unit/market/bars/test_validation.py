"""Validation of bars and trades: accepted values, and the reason of each fault."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fks.market.bars.outliers import AGREEING, BASIS, OutlierDetector
from fks.market.bars.validation import Reason, RowFault, check_bars
from fks.market.files.sample import sample_tape
from fks.model.bar import Bar, Bars
from fks.model.calendars import calendar_of
from fks.model.timeframe import NS, bar_end, bar_start

T0 = 1_767_225_600 * NS  # a Thursday, 1 January
MINUTE = 60 * NS


def bar(minute: float = 0, **changes: object) -> Bar:
    made = Bar("binance", "BTCUSDT", "1m", T0 + round(minute * MINUTE), 10.0, 12.0, 9.0, 11.0, 5.0, 3)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def columns(*bars: Bar) -> Bars:
    return Bars.of("BTCUSDT", "1m", bars)


def walk(length: int, seed: int = 1) -> Bars:
    """Return a quiet market: closes within a tenth of a percent of one another."""
    dice = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(dice.normal(0, 0.0005, length)))
    open_ = np.concatenate([[100.0], close[:-1]])
    times = T0 + np.arange(length, dtype=np.int64) * MINUTE
    high, low = np.maximum(open_, close) * 1.0002, np.minimum(open_, close) * 0.9998
    return Bars("BTCUSDT", "1m", times, open_, high, low, close, np.ones(length))


def without(bars: Bars, faults: list[RowFault]) -> Bars:
    """Return the rows that are not refused."""
    keep = np.ones(len(bars), dtype=np.bool_)
    keep[[fault.row for fault in faults if fault.is_refused]] = False
    columns = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return Bars(bars.symbol, bars.timeframe, bars.time_ns[keep], *(column[keep] for column in columns))


def reasons(found: list[RowFault]) -> list[tuple[int, Reason]]:
    return [(finding.row, finding.reason) for finding in found]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"high": 10.5}, Reason.INCONSISTENT),
        ({"low": 10.5}, Reason.INCONSISTENT),
        ({"low": 0.0}, Reason.NOT_POSITIVE),
        ({"open": -1.0, "low": -1.0}, Reason.NOT_POSITIVE),
        ({"close": float("nan")}, Reason.NOT_A_NUMBER),
        ({"high": float("inf")}, Reason.NOT_A_NUMBER),
        ({"volume": float("nan")}, Reason.NOT_A_NUMBER),
        ({"volume": -0.1}, Reason.NEGATIVE_VOLUME),
        ({"time_ns": T0 + 1}, Reason.OFF_GRID),
        ({"time_ns": T0 // 1_000_000}, Reason.TIME),  # milliseconds
    ],
)
def test_impossible_values_are_refused(changes: dict[str, object], reason: Reason) -> None:
    (found,) = check_bars(columns(bar(**changes)))
    assert (found.reason, found.is_refused) == (reason, True)
    assert found.detail


def test_sound_and_empty_bars_are_accepted() -> None:
    flat = bar(1, open=9.0, high=9.0, low=9.0, close=9.0, volume=0.0, trades=0, is_empty=True)
    assert check_bars(columns(bar(), flat)) == []


def test_unfinished_bar_is_refused() -> None:
    rows = columns(bar(0), bar(1), bar(2))
    assert reasons(check_bars(rows, now_ns=T0 + 2 * MINUTE + 1)) == [(2, Reason.NOT_CLOSED)]
    assert check_bars(rows, now_ns=T0 + 3 * MINUTE) == []
    assert reasons(check_bars(columns(bar(99)), now_ns=T0)) == [(0, Reason.TIME)]


def test_repeats_and_disorder_have_different_reasons() -> None:
    rows = columns(bar(0), bar(2), bar(2), bar(1), bar(2, close=11.5), bar(3))
    assert reasons(check_bars(rows)) == [(2, Reason.DUPLICATE), (3, Reason.OUT_OF_ORDER), (4, Reason.CONFLICT)]
    assert without(rows, check_bars(rows)).time_ns.tolist() == [T0, T0 + 2 * MINUTE, T0 + 3 * MINUTE]


def test_bad_row_does_not_affect_other_rows() -> None:
    rows = columns(bar(0), bar(1, time_ns=T0 + 10**7 * MINUTE), bar(2, close=float("nan")), bar(2), bar(3))
    found = check_bars(rows, now_ns=T0 + 60 * MINUTE)
    assert reasons(found) == [(1, Reason.TIME), (2, Reason.NOT_A_NUMBER)]


def test_print_outside_a_session_is_suspect() -> None:
    new_york = calendar_of("XNYS")
    rows = dataclasses.replace(columns(bar(0), bar(1)), time_ns=np.array([1_767_623_400 * NS, 1_767_650_400 * NS]))
    found = check_bars(rows, calendar=new_york)  # Monday 14:30 and 22:00 UTC
    assert [(f.row, f.reason, f.is_refused) for f in found] == [(1, Reason.OFF_SESSION, False)]
    hour = Bars("SPY", "1h", np.array([1_767_621_600 * NS]), *(np.array([1.0]) for _ in range(5)))
    assert check_bars(hour, calendar=new_york) == []  # 14:00 holds the first half hour


def test_outlier_is_suspect_and_not_part_of_the_median() -> None:
    rows = walk(300)
    rows.low[200] = 60.0
    rows.high[201] = 190.0
    found = check_bars(rows, outliers=OutlierDetector())
    assert reasons(found) == [(200, Reason.OUTLIER), (201, Reason.OUTLIER)]
    assert "times the usual" in found[0].detail


def test_moved_market_is_accepted_after_a_few_bars() -> None:
    rows = walk(300)
    for column in (rows.open, rows.high, rows.low, rows.close):
        column[200:] *= 1.5
    assert reasons(check_bars(rows, outliers=OutlierDetector())) == [
        (row, Reason.OUTLIER) for row in range(200, 200 + AGREEING - 1)
    ]


def test_no_outliers_before_there_are_enough_bars() -> None:
    rows = walk(BASIS)
    rows.high[-1] = 1000.0
    assert check_bars(rows, outliers=OutlierDetector()) == []


@given(
    st.lists(st.integers(1, 399), max_size=6),
    st.lists(st.tuples(st.integers(0, 399), st.floats(0.3, 3.0)), max_size=12),
)
@example(cuts=[], bad=[(30, 0.5), (32, 0.5)])  # an accepted bar in between ends a row of suspect ones
def test_faults_are_the_same_in_one_piece_or_many(cuts: list[int], bad: list[tuple[int, float]]) -> None:
    rows = walk(400)
    for row, factor in bad:
        for column in (rows.open, rows.high, rows.low, rows.close):
            column[row] *= factor
    whole = [(f.time_ns, f.reason) for f in check_bars(rows, outliers=OutlierDetector())]
    edges = sorted({0, *cuts, len(rows)})
    outliers, pieces = OutlierDetector(), []
    for start, stop in itertools.pairwise(edges):
        pieces += check_bars(rows[start:stop], outliers=outliers)
    assert [(f.time_ns, f.reason) for f in pieces] == whole
    single = OutlierDetector()
    one_by_one = [f for i in range(len(rows)) for f in check_bars(rows[i : i + 1], outliers=single)]
    assert [(f.time_ns, f.reason) for f in one_by_one] == whole


def test_three_recorded_months_have_no_fault() -> None:
    assert check_bars(sample_tape().bars(), outliers=OutlierDetector(), calendar=calendar_of("24/7")) == []


numbers = st.one_of(st.floats(), st.floats(0.01, 1000.0))
moments = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 200).map(lambda m: T0 + m * MINUTE))


@given(
    st.lists(st.tuples(moments, numbers, numbers, numbers, numbers, numbers), max_size=30),
    st.sampled_from(["1m", "1h", "1w", "1M"]),
    st.sampled_from(["24/7", "XNYS"]),
)
def test_no_impossible_value_passes_for_any_input(rows: list[tuple[float, ...]], frame: str, market: str) -> None:
    times = np.array([row[0] for row in rows], dtype=np.int64)
    bars = Bars("X", frame, times, *(np.array([row[i] for row in rows], dtype=np.float64) for i in range(1, 6)))
    found = check_bars(bars, now_ns=T0 + 1000 * MINUTE, calendar=calendar_of(market), outliers=OutlierDetector())
    assert [finding.row for finding in found] == sorted({finding.row for finding in found})
    good = without(bars, found)
    assert (np.diff(good.time_ns) > 0).all()
    assert (good.low > 0).all()
    assert (good.high < np.inf).all()
    assert (np.minimum(good.open, good.close) >= good.low).all()
    assert (np.maximum(good.open, good.close) <= good.high).all()
    assert (good.volume >= 0).all()
    assert all(bar_start(int(t), frame) == t and bar_end(int(t), frame) <= T0 + 1000 * MINUTE for t in good.time_ns)
    assert check_bars(good, now_ns=T0 + 1000 * MINUTE) == []
