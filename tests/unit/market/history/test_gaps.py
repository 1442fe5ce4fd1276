"""Sets of time ranges: missing, known and remaining ones."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.market.history.fetch import bridged, folded, runs_missing
from fks.market.history.gaps import (
    ASK_AGAIN_NS,
    DAY_NS,
    YOUNG_NS,
    aligned,
    calendar_for,
    count_bars,
    expected_part,
    has_empty_bars,
    is_kept,
    kept_range,
    overlap,
    settled,
    subtract,
)
from fks.model.bar import Bar
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start
from fks.store.gaps import KnownGap, Series, TimeRange, known_after

MINUTE, HOUR = 60 * NS, 3600 * NS
START_NS = 1_767_225_600 * NS  # 2026-01-01, a Thursday

ranges = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: TimeRange(pair[0], pair[0] + pair[1]))


def points(spans: list[TimeRange]) -> set[int]:
    return {at for span in spans for at in range(span.start_ns, span.end_ns)}


@given(st.lists(ranges, max_size=4), st.lists(ranges, max_size=5))
def test_subtract_leaves_the_rest(spans: list[TimeRange], taken: list[TimeRange]) -> None:
    left = subtract(spans, taken)
    assert points(left) == points(spans) - points(taken)
    assert all(span.start_ns < span.end_ns for span in left)


@given(st.lists(ranges, max_size=4), st.lists(ranges, max_size=4))
def test_an_overlap_is_in_both(spans: list[TimeRange], others: list[TimeRange]) -> None:
    assert points(overlap(spans, others)) == points(spans) & points(others)


def test_young_known_gap_is_requested_again_each_day() -> None:
    now = START_NS
    gap = TimeRange(now - 10 * DAY_NS, now - 3 * DAY_NS)
    assert settled([KnownGap(gap, "exchange", now - HOUR)], now) == [gap]
    assert settled([KnownGap(gap, "exchange", now - ASK_AGAIN_NS)], now) == [TimeRange(gap.start_ns, now - YOUNG_NS)]
    for cause in ("unlisted", "silent"):
        assert settled([KnownGap(gap, cause, now - 90 * DAY_NS)], now) == [gap]
    assert settled([KnownGap(gap, "refused", now - ASK_AGAIN_NS)], now) == [TimeRange(gap.start_ns, now - YOUNG_NS)], (
        "it may be mended"
    )
    young = TimeRange(now - 2 * DAY_NS, now - DAY_NS)
    assert settled([KnownGap(young, "exchange", now - 2 * ASK_AGAIN_NS)], now) == []


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_bars_are_counted_in_every_timeframe(timeframe: str) -> None:
    start = bar_start(START_NS, timeframe)
    end, count = start, 0
    while count < 14:
        end, count = bar_end(end, timeframe), count + 1
    assert count_bars(TimeRange(start, end), timeframe) == 14
    assert aligned(start, timeframe) == start
    assert aligned(start + 1, timeframe) == bar_end(start, timeframe)


def test_closed_market_has_no_missing_bars() -> None:
    saturday = TimeRange(START_NS + 2 * DAY_NS, START_NS + 4 * DAY_NS)
    assert expected_part(saturday, "1m", "XNYS") is None
    assert count_bars(saturday, "1h", "XNYS") == 0
    friday = TimeRange(START_NS + DAY_NS, START_NS + 2 * DAY_NS)
    part = expected_part(friday, "1m", "XNYS")
    assert part is not None
    span, bars = part
    assert (span.start_ns - friday.start_ns, span.end_ns - friday.start_ns, bars) == (
        14 * HOUR + 30 * MINUTE,
        21 * HOUR,
        390,
    )


def test_runs_are_joined_only_over_closed_time() -> None:
    expected = np.array([0, 60, 120, 600, 660], dtype=np.int64) * NS
    there = np.array([60, 180], dtype=np.int64) * NS
    assert runs_missing(expected, there, "1m") == [TimeRange(0, MINUTE), TimeRange(2 * MINUTE, 12 * MINUTE)]
    assert runs_missing(expected, expected, "1m") == []


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_runs_with_the_shortest_distances_are_joined_first(steps: list[int], most: int) -> None:
    ends = list(accumulate([1, *(step + 1 for step in steps)]))
    runs = [TimeRange(end - 1, end) for end in ends]
    made = bridged(runs, most)
    assert len(made) == min(len(runs), most)
    assert points(runs) <= points(made)
    taken = len(points(made)) - len(points(runs))
    assert taken == sum(sorted(steps)[: len(runs) - len(made)])


def test_newest_answer_replaces_known_gaps() -> None:
    before = [
        KnownGap(TimeRange(0, 50), "exchange", 1),
        KnownGap(TimeRange(60, 70), "silent", 1),
        KnownGap(TimeRange(70, 90), "refused", 1),
    ]
    found = [
        KnownGap(TimeRange(40, 45), "refused", 2),
        KnownGap(TimeRange(50, 70), "exchange", 2),
        KnownGap(TimeRange(75, 80), "refused", 2),
    ]
    assert known_after(before, TimeRange(30, 80), found) == [
        KnownGap(TimeRange(0, 30), "exchange", 1),
        KnownGap(TimeRange(40, 45), "refused", 2),
        KnownGap(TimeRange(50, 70), "exchange", 2),
        KnownGap(TimeRange(75, 90), "refused", 2),
    ]
    assert known_after(
        [KnownGap(TimeRange(0, 30), "exchange", 1)], TimeRange(30, 80), [KnownGap(TimeRange(30, 40), "exchange", 2)]
    ) == [KnownGap(TimeRange(0, 40), "exchange", 2)]


def test_only_complete_bars_are_folded_and_no_trade_bars_add_nothing() -> None:
    rows = [
        Bar("x", "S", "5m", START_NS + i * 5 * MINUTE, *values)
        for i, values in enumerate(
            [(5.0, 5.0, 5.0, 5.0, 0.0, 0), (7.0, 8.0, 6.0, 7.5, 0.1, 3), (7.5, 9.0, 7.0, 8.5, 0.2, 4)]
        )
    ]
    made = folded([*rows, Bar("x", "S", "5m", START_NS + 15 * MINUTE, 8.5, 8.5, 8.5, 8.5, 0.0)], "15m")
    assert made == [
        Bar("x", "S", "15m", START_NS, 7.0, 9.0, 6.0, 8.5, 0.3, 7),
        Bar("x", "S", "15m", START_NS + 15 * MINUTE, 8.5, 8.5, 8.5, 8.5, 0.0, is_empty=made[1].is_empty),
    ]


def series(**fields: object) -> Series:
    values: dict[str, object] = {
        "exchange": "binance",
        "symbol": "BTCUSDT",
        "timeframe": "1m",
        "candles": 5,
        "oldest_ns": START_NS - 90 * DAY_NS,
        "newest_ns": START_NS - MINUTE,
        "revision": 0,
        "sync_status": None,
        "wanted_from_ns": None,
        "wanted_to_ns": None,
        "error": None,
        "is_collected": False,
    }
    return Series(**(values | fields))  # type: ignore[arg-type]


def test_only_synced_or_collected_series_are_kept_complete() -> None:
    assert not is_kept(series()), "imported, or a sample"
    assert is_kept(series(is_collected=True))
    assert is_kept(series(sync_status="done"))
    assert not is_kept(series(sync_status="running", is_collected=True)), "the sync sees to itself"
    assert not is_kept(series(sync_status="failed"))


def test_collected_series_is_kept_to_its_newest_bar_synced_to_now() -> None:
    now = START_NS + 5 * MINUTE + 30 * NS
    assert kept_range(series(is_collected=True), now, 7) == (now - 7 * DAY_NS, START_NS)
    wanted = START_NS - 30 * DAY_NS
    assert kept_range(series(sync_status="done", wanted_from_ns=wanted), now, 7) == (wanted, START_NS + 5 * MINUTE)
    both = series(sync_status="done", wanted_from_ns=wanted, is_collected=True)
    assert kept_range(both, now, 7) == (wanted, START_NS), "the collector is at it"
    bounded = series(sync_status="done", wanted_from_ns=wanted, wanted_to_ns=START_NS - 10 * DAY_NS)
    assert kept_range(bounded, now, 7) == (wanted, START_NS - 10 * DAY_NS), "nobody wants what came after"
    failed = series(sync_status="failed", wanted_from_ns=wanted, is_collected=True)
    assert (is_kept(failed), kept_range(failed, now, 7)) == (True, (now - 7 * DAY_NS, START_NS))
    later = now + HOUR
    assert kept_range(both, later, 7) == (wanted, START_NS + HOUR + 5 * MINUTE), "it is not"


@pytest.mark.parametrize("name", sorted(EXCHANGES))
def test_calendar_and_empty_bars_are_those_of_the_capabilities(name: str) -> None:
    assert calendar_for(name) == capabilities_of(name).calendar
    assert calendar_for(name, "XETR") == "XETR"
    assert has_empty_bars(name) == capabilities_of(name).has_empty_bars


def test_unknown_exchange_is_always_open_and_has_every_bar() -> None:
    assert (calendar_for("bitstamp"), has_empty_bars("bitstamp")) == ("24/7", True)
