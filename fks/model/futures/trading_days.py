"""Business days, trade dates and session ends of CME Group's futures, from the calendars CMES and XNYS.

A business day counts for expiry and delivery. CMES has more days, as Globex opens for some hours on most holidays; the
days that count are those of New York's stock exchange. On a day when New York is closed or closes early, a session ends
at 12:00 Chicago at the latest: the equity products' early close is 12:00 or 12:15, later for others.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np

from fks.model.calendars import calendar_of
from fks.model.timeframe import NS, to_ns

CHICAGO = ZoneInfo("America/Chicago")
EARLY_CLOSE = time(12)
_ROLL_H = 7  # a trade date begins at 17:00, seven hours before midnight
_DAYS = "datetime64[D]"
_EARLY_NY = time(15)  # New York's early close is 13:00, its regular one 16:00
_NEW_YORK = ZoneInfo("America/New_York")


def business_day(day: date, offset: int) -> date:
    """Return the business day `offset` days from `day`; 0: `day` itself or the business day before it.

    A day that is none counts as the business day before it, whatever the sign of the offset.
    """
    found = np.busday_offset(np.datetime64(day), offset, roll="backward", busdaycal=_weekdays(day.year))
    return _date(found)


def is_business_day(day: date) -> bool:
    """Return whether the exchange counts the day as a business day."""
    return bool(np.is_busday(np.datetime64(day), busdaycal=_weekdays(day.year)))


def last_business_day(year: int, month: int) -> date:
    """Return the last business day of a month; `month` may be outside 1 to 12 and then counts on."""
    return business_day(_month_start(year, month + 1) - timedelta(days=1), 0)


def nth_weekday(year: int, month: int, weekday: int, number: int) -> date:
    """Return the n-th Monday (weekday 0) to Sunday (6) of a month."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))


def trade_date(now_ns: int) -> date:
    """Return the trade date of a moment: a day begins at 17:00 Chicago of the evening before, a week on Sunday.

    While the market is closed it is the next session's date. Errors: InputError CALENDAR_RANGE.
    """
    local = datetime.fromtimestamp(now_ns / NS, UTC).astimezone(CHICAGO)
    day = (local + timedelta(hours=_ROLL_H)).date()
    while session_close_ns(day) is None:
        day += timedelta(days=1)
    return day


def session_close_ns(day: date, calendar: str = "CMES") -> int | None:
    """Return the end (ns UTC) of the session of a trade date; None when there is none.

    Errors: InputError CALENDAR_RANGE.
    """
    night = to_ns(datetime.combine(day, time(4), CHICAGO))  # the clocks were changed by then
    closes = calendar_of(calendar).sessions(night, night + 20 * 3600 * NS)[1]
    in_day = [int(close) for close in closes if _local_date(int(close)) == day]
    if not in_day:
        return None
    early = to_ns(datetime.combine(day, EARLY_CLOSE, CHICAGO))
    return min(in_day[0], early) if _is_short_in_new_york(day) else in_day[0]


def moment_ns(day: date, clock: time, zone: ZoneInfo = CHICAGO) -> int:
    """Return the moment (ns UTC) of a time of day in a zone."""
    return to_ns(datetime.combine(day, clock, zone))


def _is_short_in_new_york(day: date) -> bool:
    """Return whether New York is closed on a day or closes early."""
    start = to_ns(datetime.combine(day, time(0), _NEW_YORK))
    closes = calendar_of("XNYS").sessions(start, start + 24 * 3600 * NS)[1]
    if not len(closes):
        return True
    return datetime.fromtimestamp(int(closes[-1]) / NS, _NEW_YORK).time() < _EARLY_NY


def _local_date(time_ns: int) -> date:
    return datetime.fromtimestamp(time_ns / NS, UTC).astimezone(CHICAGO).date()


def _month_start(year: int, month: int) -> date:
    years, index = divmod(month - 1, 12)
    return date(year + years, index + 1, 1)


@cache
def _weekdays(year: int) -> np.busdaycalendar:
    """Return the business days of a decade around a year: weekdays without New York's holidays."""
    decade = year - year % 10
    return _decade(decade)


@cache
def _decade(first: int) -> np.busdaycalendar:
    begin, end = date(first - 1, 1, 1), date(first + 11, 12, 31)
    bounds = [to_ns(datetime.combine(day, time(0), UTC)) for day in (begin, end + timedelta(days=1))]
    opens = calendar_of("XNYS").sessions(*bounds)[0]
    days = np.arange(np.datetime64(begin), np.datetime64(end) + np.timedelta64(1, "D"))
    # New York opens in the afternoon of UTC's same date
    traded = opens.astype("datetime64[ns]").astype(_DAYS)
    return np.busdaycalendar(holidays=np.setdiff1d(days, traded))


def _date(day: np.datetime64) -> date:
    found = day.astype(object)
    assert isinstance(found, date)
    return found
