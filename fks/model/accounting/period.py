"""Periods of reports: a day, a week or a month, with an end of the day of their own. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from fks.model.timeframe import to_datetime, to_ns

ReportName = Literal["daily", "weekly", "monthly"]
PERIODS: tuple[ReportName, ...] = ("daily", "weekly", "monthly")
_DAY_MIN, _MINUTE_NS = 1440, 60 * 10**9
#: A report that is made or delivered so much later than it was due is marked.
LATE_S = 3600.0


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """From `start_ns` up to, without, `end_ns`: a day, a week from Monday on, or a month."""

    name: ReportName
    start_ns: int
    end_ns: int


def period_of(name: ReportName, day: date, day_end_min: int = 0) -> ReportPeriod:
    """Return the period that `day` is in. `day_end_min`: when days end, minutes after midnight UTC; a day is named by
    the date that most of it is in."""
    match name:
        case "daily":
            start, end = day, day + timedelta(days=1)
        case "weekly":
            start = day - timedelta(days=day.weekday())
            end = start + timedelta(days=7)
        case "monthly":
            start = day.replace(day=1)
            end = (start + timedelta(days=31)).replace(day=1)
    shift_ns = _shift_min(day_end_min) * _MINUTE_NS
    return ReportPeriod(name, _ns(start) + shift_ns, _ns(end) + shift_ns)


def last_ended(name: ReportName, now_ns: int, day_end_min: int = 0) -> ReportPeriod:
    """Return the newest period that is over at `now_ns`."""
    today = day_at(now_ns, day_end_min)
    running = period_of(name, today, day_end_min)
    return period_of(name, day_at(running.start_ns - 1, day_end_min), day_end_min)


def day_at(now_ns: int, day_end_min: int = 0) -> date:
    """Return the day that runs at `now_ns`."""
    return to_datetime(now_ns - _shift_min(day_end_min) * _MINUTE_NS).date()


def _shift_min(day_end_min: int) -> int:
    return day_end_min if day_end_min <= _DAY_MIN // 2 else day_end_min - _DAY_MIN


def _ns(day: date) -> int:
    return to_ns(datetime(day.year, day.month, day.day, tzinfo=UTC))
