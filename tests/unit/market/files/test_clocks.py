"""Stamps of a clock on a wall: never taken for UTC, turned into it when the place is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, to_ns

NOW = 1_900_000_000 * NS
HEADER = "date,open,high,low,close,volume"


def table(stamps: list[str]) -> str:
    return "\n".join([HEADER, *(f"{stamp},10,12,9,11,5" for stamp in stamps)]) + "\n"


def read(
    path: Path, stamps: list[str], *, zone: str | None = None, timeframe: str = "", date_order: str = ""
) -> FileBars:
    path.write_text(table(stamps))
    return read_bars(path, ImportOptions("e", "S", timeframe, zone, date_order=date_order), now_ns=NOW)


def local(zone: str, begin: int, count: int, step: timedelta) -> tuple[list[int], list[str]]:
    """Return (ns UTC, local time as text) of `count` bars."""
    moments = [begin + i * step for i in range(count)]
    return [to_ns(m) for m in moments], [m.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S") for m in moments]


def test_timestamp_without_a_zone_is_refused_until_it_is_given(tmp_path: Path) -> None:
    stamps = ["2024-05-01 00:00:00", "2024-05-01 00:01:00"]
    with pytest.raises(
        InputError,
        match=r"row 2, column date: '2024-05-01 00:00:00' does not say in which time zone it is; say --timezone",
    ):
        read(tmp_path / "x.csv", stamps)
    assert read(tmp_path / "x.csv", stamps, zone="UTC").bars.time_ns[0] == to_ns(datetime(2024, 5, 1, tzinfo=UTC))
    with pytest.raises(InputError, match="there is no time zone 'Mars/Base'"):
        read(tmp_path / "x.csv", stamps, zone="Mars/Base")


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("newest_first", [False, True])
def test_a_year_of_hours_on_any_clock_is_the_same_year(tmp_path: Path, zone: str, newest_first: bool) -> None:
    truth, shown = local(zone, datetime(2024, 1, 1, tzinfo=UTC), 366 * 48, timedelta(minutes=30))
    found = read(tmp_path / "x.csv", shown[::-1] if newest_first else shown, zone=zone)
    assert found.bars.time_ns.tolist() == truth
    assert found.missing == 0


def test_an_hour_that_was_skipped_is_named(tmp_path: Path) -> None:
    stamps = ["2024-03-10 01:59:00", "2024-03-10 02:00:00", "2024-03-10 02:01:00"]
    with pytest.raises(
        InputError, match=r"row 3, column date: 2024-03-10 02:00:00 was skipped by the clocks of America/New_York"
    ):
        read(tmp_path / "x.csv", stamps, zone="America/New_York")


def test_repeated_hour_with_one_half_missing_is_refused(tmp_path: Path) -> None:
    stamps = [f"2024-11-03 {hour:02d}:{minute:02d}:00" for hour in (0, 1, 2) for minute in range(60)]
    with pytest.raises(InputError, match=r"row 62, column date: 2024-11-03 01:00:00 was twice in America/New_York"):
        read(tmp_path / "x.csv", stamps, zone="America/New_York")


def test_local_midnights_are_refused(tmp_path: Path) -> None:
    days = [f"2024-01-{day:02d}T05:00:00Z" for day in range(2, 20)]
    with pytest.raises(
        InputError, match=r"row 2, column date: 2024-01-02T05:00:00Z is not where a 1d bar begins in UTC, 5 h off"
    ):
        read(tmp_path / "x.csv", days)


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("form", ["%s", "%Y-%m-%dT%H:%M:%SZ"])
def test_local_days_with_a_zone_are_refused_whatever_zone_is_given(tmp_path: Path, form: str, zone: str | None) -> None:
    days = [datetime(2024, 1, day, 5, tzinfo=UTC) for day in range(2, 20)]
    stamps = [str(int(day.timestamp())) if form == "%s" else day.strftime(form) for day in days]
    with pytest.raises(
        InputError, match="these are stamps of local time; export 1d bars of UTC, or smaller bars"
    ) as caught:
        read(tmp_path / "x.csv", stamps, zone=zone)
    assert "--timezone" not in str(caught.value)


def test_local_days_converted_by_a_zone_are_refused_without_zone_remedy(tmp_path: Path) -> None:
    days = [f"2024-01-{day:02d} 00:00:00" for day in range(2, 20)]
    with pytest.raises(
        InputError, match="5 h off; so is every row: these are stamps of local time; export 1d bars of UTC"
    ):
        read(tmp_path / "x.csv", days, zone="America/New_York")


def test_assumed_utc_off_the_grid_suggests_a_zone(tmp_path: Path) -> None:
    path = tmp_path / "NQ 06-25.Last.txt"
    path.write_text("".join(f"20240102 {hour:02d}1500;10;12;9;11;5\n" for hour in range(9)))
    with pytest.raises(InputError, match="these are stamps of local time; say --timezone with the place"):
        read_bars(path, ImportOptions(), now_ns=NOW)


@pytest.mark.parametrize(
    ("stamps", "why"),
    [
        (["1704085200", "1704088800"], "counts from 1970 are UTC"),
        (["2024-01-02T05:00:00Z", "2024-01-02T06:00:00Z"], "the stamps say theirs"),
        (["2024-01-02", "2024-01-03"], "days are labels, in no zone"),
    ],
)
def test_unused_zone_is_noted(tmp_path: Path, stamps: list[str], why: str) -> None:
    found = read(tmp_path / "x.csv", stamps, zone="America/New_York")
    assert f"--timezone America/New_York was not used: {why}" in found.notes
    assert not any("--timezone" in note for note in read(tmp_path / "x.csv", stamps).notes)


def test_used_zone_is_in_the_reported_form(tmp_path: Path) -> None:
    found = read(tmp_path / "x.csv", ["2024-01-02 05:00:00", "2024-01-02 06:00:00"], zone="America/New_York")
    assert found.stamps == "iso date, America/New_York"
    assert not any("--timezone" in note for note in found.notes)


def test_repeated_epoch_is_no_local_time(tmp_path: Path) -> None:
    november = [str(1_700_000_040 + 60 * i) for i in (0, 1, 1, 2)]
    with pytest.raises(InputError, match="stands twice") as caught:
        read(tmp_path / "x.csv", november)
    assert str(caught.value).endswith("keep one of them")


def test_repeated_hour_in_a_utc_file_is_refused(tmp_path: Path) -> None:
    _, shown = local("America/New_York", datetime(2024, 11, 3, tzinfo=UTC), 48, timedelta(hours=1))
    with pytest.raises(InputError, match="or is it local time, in which an hour is twice in autumn"):
        read(tmp_path / "x.csv", [stamp + "Z" for stamp in shown])


def test_days_are_labels_in_no_zone(tmp_path: Path) -> None:
    found = read(tmp_path / "x.csv", ["2024-01-02", "2024-01-03", "2024-01-04"])
    assert found.bars.timeframe == "1d"
    assert found.bars.time_ns[0] == to_ns(datetime(2024, 1, 2, tzinfo=UTC))


def test_date_and_time_may_be_two_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "Date,Time,Open,High,Low,Close,Volume\n" + "".join(f"2024.05.01,00:{m:02d},10,12,9,11,5\n" for m in range(9))
    )
    found = read_bars(path, ImportOptions("e", "S", zone="UTC"), now_ns=NOW)
    assert found.bars.time_ns[-1] == to_ns(datetime(2024, 5, 1, 0, 8, tzinfo=UTC))


def test_order_of_day_and_month_is_an_option_and_never_guessed(tmp_path: Path) -> None:
    days = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(40)]
    for form, order in (("%m/%d/%Y", "month-day"), ("%d/%m/%Y", "day-month"), ("%d-%m-%Y", "day-month")):
        stamps = [day.strftime(form) for day in days]
        with pytest.raises(InputError, match="may have the day or the month first; say --date-order day-month or"):
            read(tmp_path / "x.csv", stamps)
        assert read(tmp_path / "x.csv", stamps, date_order=order).bars.time_ns[-1] == to_ns(days[-1])
    with pytest.raises(InputError, match="is a day or a time of day that there is not"):
        read(tmp_path / "x.csv", [day.strftime("%d/%m/%Y") for day in days], date_order="month-day")
    assert read(tmp_path / "x.csv", [day.strftime("%d.%m.%Y") for day in days]).bars.time_ns[-1] == to_ns(days[-1])


def test_halves_of_a_day_are_read(tmp_path: Path) -> None:
    hours = [datetime(2024, 1, 13, tzinfo=UTC) + timedelta(hours=i) for i in range(30)]
    found = read(
        tmp_path / "x.csv", [hour.strftime("%m/%d/%Y %I:%M %p") for hour in hours], zone="UTC", date_order="month-day"
    )
    assert found.bars.time_ns.tolist() == [to_ns(hour) for hour in hours]


@pytest.mark.parametrize(
    ("stamp", "what"),
    [
        ("2024-02-30 00:00:00Z", "is a day that there is not"),
        ("2024-01-01 24:00:00Z", "is a day or a time of day that there is not"),
        ("2024-13-01 00:00:00Z", "is a day or a time of day that there is not"),
        ("2024-01-01", "is not written as"),
        ("2024-01-01 00:02:00", "has a zone where others have none"),
    ],
)
def test_a_bad_date_is_named(tmp_path: Path, stamp: str, what: str) -> None:
    with pytest.raises(InputError, match=rf"row 4, column date: '{stamp}' {what}"):
        read(tmp_path / "x.csv", ["2024-01-01 00:00:00Z", "2024-01-01 00:01:00Z", stamp])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(631_152_000, 1_767_225_600),
    offset=st.integers(-12 * 4, 14 * 4),
    step=st.sampled_from([1, 5, 60, 240, 1440]),
)
def test_an_offset_in_the_stamp_is_taken_off(tmp_path: Path, begin: int, offset: int, step: int) -> None:
    sign, minutes = "-+"[offset >= 0], abs(offset) * 15
    first = begin // (step * 60) * step * 60
    truth = np.array([(first + i * step * 60) * NS for i in range(5)])
    shown = [
        (datetime.fromtimestamp(int(ns) // NS, UTC) + timedelta(minutes=offset * 15)).strftime("%Y-%m-%dT%H:%M:%S")
        + f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
        for ns in truth
    ]
    assert np.array_equal(read(tmp_path / "x.csv", shown).bars.time_ns, truth)
