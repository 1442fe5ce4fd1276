"""Hours of one trade date under a rule: when entries end, when FKS closes, and whether the market trades now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time
from zoneinfo import ZoneInfo

from fks.model.calendars import calendar_of, is_open_at
from fks.model.futures import session_close_ns, trade_date
from fks.model.futures.trading_days import moment_ns
from fks.model.timeframe import NS
from fks.trading.prop_rules.rules import FlatBy

_REGULAR_CLOSE = time(16)  # Chicago
_CLOSED_MAX_NS = 6 * 86400 * NS


@dataclass(frozen=True, slots=True)
class Hours:
    """Moments (ns UTC) of the trade date at hand. `next_session_ns`: the first opening after its close; before its own
    opening, that. Without a flat-by rule entries end at the close, and positions may be held over it."""

    day: date
    is_open: bool
    is_early_close: bool
    entries_end_ns: int
    flat_at_ns: int
    close_ns: int
    next_session_ns: int
    must_be_flat: bool


def hours_of(rule: FlatBy | None, now_ns: int, calendar: str = "CMES") -> Hours:
    """Return the hours of the trade date of a moment: while the market is closed, of the next one.

    On a day that closes early, the own times are moved: `before_early_close_min` before the close, and as far before
    that as on other days. Errors: InputError CALENDAR_RANGE.
    """
    day = trade_date(now_ns)
    close_ns = session_close_ns(day, calendar)
    assert close_ns is not None  # a trade date has a session
    zone = ZoneInfo("America/Chicago" if rule is None else rule.tz)
    flat_ns = entries_ns = close_ns
    regular_ns = moment_ns(day, _REGULAR_CLOSE, zone)
    if rule is not None and rule.has_value:
        flat_ns, entries_ns = (moment_ns(day, clock, zone) for clock in (rule.flat_at, rule.entries_end))
        if close_ns < regular_ns:
            lead_ns = flat_ns - entries_ns
            flat_ns = min(flat_ns, close_ns - rule.before_early_close_min * 60 * NS)
            entries_ns = min(entries_ns, flat_ns - lead_ns)
    is_open = is_open_at(calendar_of(calendar), now_ns) and now_ns < close_ns
    return Hours(
        day,
        is_open,
        close_ns < regular_ns,
        entries_ns,
        flat_ns,
        close_ns,
        _next_opening(close_ns if is_open or now_ns >= close_ns else now_ns, calendar),
        rule is not None and rule.has_value,
    )


def _next_opening(after_ns: int, calendar: str) -> int:
    """Return the first opening after a moment: 17:00 of a day, of Sunday, or of the evening after a holiday."""
    opens = calendar_of(calendar).sessions(after_ns + 1, after_ns + _CLOSED_MAX_NS)[0]
    return next(int(open_ns) for open_ns in opens if open_ns > after_ns + 1)  # the first may be the running session
