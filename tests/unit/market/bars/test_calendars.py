"""Trading calendars, and the bars that are expected of each market."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.bar import Ints
from fks.model.buckets import ends_of, starts_of, starts_within
from fks.model.calendars import ALWAYS, MarketSessions, calendar_of
from fks.model.errors import ConfigError, InputError
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, bar_start, to_ns

FRAMES = tuple(TIMEFRAMES)


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


def times(*texts: str) -> Ints:
    return np.array([at(text) for text in texts], dtype=np.int64)


moments = st.integers(at("1995-01-01"), at("2035-01-01"))


@given(moments, st.sampled_from(FRAMES), st.integers(0, 90 * 86400 * NS))
def test_buckets_in_columns_are_the_scalar_ones(time_ns: int, frame: str, span_ns: int) -> None:
    span_ns = min(span_ns, max(TIMEFRAMES[frame], 1) * 500 * NS)
    starts = starts_within(time_ns, time_ns + span_ns, frame)
    expected, start = [], bar_start(time_ns, frame)
    while span_ns and start < time_ns + span_ns:
        expected.append(start)
        start = bar_end(start, frame)
    assert starts.tolist() == expected
    assert ends_of(starts, frame).tolist() == [bar_end(s, frame) for s in expected]
    assert starts_of(starts + 1, frame).tolist() == expected


def test_a_market_that_never_closes_expects_every_bar() -> None:
    always = calendar_of(ALWAYS)
    found = always.expected("1m", at("2024-02-29T23:58:30"), at("2024-03-01T00:02"))
    assert found.tolist() == times("2024-02-29T23:59", "2024-03-01", "2024-03-01T00:01").tolist()
    assert (
        always.expected("1w", at("2024-02-01"), at("2024-03-01")).tolist()
        == times("2024-02-05", "2024-02-12", "2024-02-19", "2024-02-26").tolist()
    )
    assert (
        always.expected("1M", at("2023-12-02"), at("2024-03-02")).tolist()
        == times("2024-01-01", "2024-02-01", "2024-03-01").tolist()
    )
    assert always.expected("1h", 5, 5).size == 0
    assert always.is_open(times("2024-12-25")).all()


def test_new_york_moves_with_daylight_saving_and_closes_early() -> None:
    market = calendar_of("XNYS")
    winter, summer = (
        market.expected("1h", at("2024-03-08"), at("2024-03-09")),
        market.expected("1h", at("2024-03-11"), at("2024-03-12")),
    )
    assert (winter[0], len(winter)) == (at("2024-03-08T14:00"), 7)  # 14:30 to 21:00: the first hour is half an hour
    assert (summer[0], len(summer)) == (at("2024-03-11T13:00"), 7)
    assert len(market.expected("1m", at("2024-11-29"), at("2024-11-30"))) == 210  # after Thanksgiving: until 13:00
    assert market.expected("1m", at("2024-12-25"), at("2024-12-26")).size == 0
    assert (
        market.expected("1d", at("2024-12-23"), at("2024-12-30")).tolist()
        == times("2024-12-23", "2024-12-24", "2024-12-26", "2024-12-27").tolist()
    )
    opens = market.is_open(times("2024-03-08T14:29:59", "2024-03-08T14:30", "2024-03-08T20:59:59", "2024-03-08T21:00"))
    assert opens.tolist() == [False, True, True, False]


def test_globex_has_its_daily_break_its_weekend_and_a_short_sunday() -> None:
    market = calendar_of("CMES")
    days = market.expected("1d", at("2025-03-22"), at("2025-03-30"))
    assert [datetime.fromtimestamp(int(d) // NS, UTC).strftime("%a") for d in days] == [
        "Sun",
        "Mon",
        "Tue",
        "Wed",
        "Thu",
        "Fri",
    ]
    monday = market.expected("1m", at("2025-03-24"), at("2025-03-25"))
    assert len(monday) == 23 * 60
    assert not np.isin(monday, market.expected("1m", at("2025-03-24T21:00"), at("2025-03-24T22:00"))).any()
    assert market.expected("1m", at("2025-04-18"), at("2025-04-19")).size == 0  # Good Friday
    assert len(market.expected("1m", at("2013-10-08T20:00"), at("2013-10-08T23:00"))) == 75 + 60  # 16:15 until 2015
    assert len(market.expected("1M", at("2025-01-01"), at("2026-01-01"))) == 12


def test_globex_closes_early_on_days_that_the_library_lacks() -> None:
    market = calendar_of("CMES")
    mourning = market.sessions(at("2025-01-08T23:00"), at("2025-01-09T23:00"))
    assert [column.tolist() for column in mourning] == [[at("2025-01-08T23:00")], [at("2025-01-09T14:30")]]
    assert market.is_open(
        times("2025-01-08T21:59", "2025-01-09T14:29", "2025-01-09T14:30", "2025-01-09T23:00")
    ).tolist() == [
        True,
        True,
        False,
        True,
    ]
    for day, is_early in (("2021-06-18", False), ("2022-06-20", True), ("2025-06-19", True), ("2027-06-18", True)):
        assert market.is_open(times(f"{day}T16:59", f"{day}T17:00")).tolist() == [True, not is_early]
    opens, closes = market.sessions(at("2020-01-01"), at("2031-01-01"))
    assert (opens < closes).all()
    assert (closes[:-1] <= opens[1:]).all()


@given(st.sampled_from(["XNYS", "CMES", "XHKG"]), moments, st.sampled_from(["1m", "30m", "1h", "4h", "1d", "1w", "1M"]))
def test_a_bar_is_expected_exactly_when_a_minute_of_it_trades(name: str, time_ns: int, frame: str) -> None:
    market = calendar_of(name)
    start, end = bar_start(time_ns, frame), bar_end(bar_start(time_ns, frame), frame)
    minutes = starts_within(start, end, "1m")
    assert market.expected(frame, start, end).tolist() == ([start] if market.is_open(minutes).any() else [])
    opens, closes = market.sessions(start, end)
    assert int((closes - opens).sum()) == int(market.is_open(minutes).sum()) * 60 * NS
    assert (opens < closes).all()


def test_sessions_are_computed_for_the_requested_years() -> None:
    market = calendar_of("XNYS")
    for year in (2030, 1985, 2010):
        day = datetime(year, 7, 1, tzinfo=UTC)
        days = market.expected("1d", to_ns(day), to_ns(day + timedelta(days=30)))
        assert 19 <= len(days) <= 23


def test_calendar_without_holidays_there_is_refused_and_goes_on() -> None:
    for name, text in (("XTKS", "1985-06-03"), ("XHKG", "2090-06-03")):
        with pytest.raises(InputError) as error:
            calendar_of(name).is_open(times(text))
        assert error.value.code == "CALENDAR_RANGE"
    assert calendar_of("XTKS").is_open(times("1997-02-03T02:00", "2025-06-03T03:00", "2025-06-03T04:00")).tolist() == [
        True,
        False,
        True,
    ]  # lunch


def test_market_counts_as_open_after_the_last_day_of_its_calendar() -> None:
    """The holidays of Shanghai are announced for a year: an unknown day is neither off session nor missing."""
    import exchange_calendars

    last = type(exchange_calendars.get_calendar("XSHG")).bound_max()
    market, year = calendar_of("XSHG"), last.year
    assert market.is_open(times(f"{year}-12-26T02:00", f"{year + 1}-01-02T02:00")).tolist()[1]
    start, end = times(f"{year + 1}-01-01", f"{year + 1}-02-01").tolist()
    assert len(market.expected("1d", start, end)) == 0
    before, _ = times(f"{year}-12-01", f"{year + 1}-02-01").tolist()
    assert 20 <= len(market.expected("1d", before, end)) <= 23
    assert MarketSessions("XSHG").is_open(times(f"{year + 1}-02-02T02:00")).all()
    with pytest.raises(InputError, match="are only recorded to the year"):
        market.is_open(times(f"{year + 4}-01-02T02:00"))


def test_wrong_unit_and_wrong_name_are_refused() -> None:
    with pytest.raises(InputError, match="no time of a market") as error:
        calendar_of("XNYS").is_open(np.array([1_700_000_000_000], dtype=np.int64))  # ms
    assert error.value.code == "CALENDAR_RANGE"
    with pytest.raises(ConfigError, match="no calendar is called 'NYC'"):
        calendar_of("NYC")


def test_always_open_does_not_load_calendars() -> None:
    code = (
        "import sys; from fks.market.bars import aggregate, validation; from fks.model import calendars; "
        "calendars.calendar_of('24/7').expected('1m', 0, 10**12);"
        "assert not {'pandas', 'exchange_calendars'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
