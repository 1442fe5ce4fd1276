"""Trading calendars of markets, and the bars that each calendar expects.

`24/7` is built in. Every other name is one of exchange_calendars (XNYS, CMES, …), which is imported on first use. A bar
is expected when its market is open for at least a moment of it: bars lie in UTC buckets whatever the session (a day of
Globex is a UTC day, Sunday's is short; an hour of New York that begins at 13:00 UTC holds half an hour of trading). In
closed nights, weekends, holidays and the second half of an early close no bar is expected, so none is missing.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from fks.model.bar import Ints
from fks.model.buckets import starts_of, starts_within
from fks.model.errors import ConfigError, InputError, invalid
from fks.model.timeframe import NS, bar_end, iso, to_ns

Bools = npt.NDArray[np.bool_]

ALWAYS = "24/7"
#: the first and last year that sessions are made for; a time outside is a wrong unit, not a market
YEAR_FIRST, YEAR_LAST = 1980, 2100
_CHICAGO = ZoneInfo("America/Chicago")
_GLOBEX_OPEN_H = 17
_DAY_NS = 86400 * NS
_SATURDAY = 2  # 1970-01-01 was a Thursday
#: looked at for bars of an unknown market: shares of the United States, futures of Globex, currencies
_GUESSED = ("XNYS", "CMES", "24/5")
_FIT_MIN = 0.99
_SATURDAYS_MIN = 4
_WEEKS_NS = 14 * _DAY_NS  # a stretch that has whole trading days in it
_MARGIN_NS = 10 * _DAY_NS  # a session may begin in another year than it ends
_UNKNOWN_YEARS = 2  # after the last day that a calendar has, in which its market counts as open
#: exchange_calendars has no daily break of Globex. Calendar: (hour of a regular close there, ((first day, minutes after
#: midnight of the real close), …))
_DAILY_BREAKS: dict[str, tuple[int, tuple[tuple[str, int], ...]]] = {
    "CMES": (17, (("1980-01-01", 16 * 60 + 15), ("2015-09-21", 16 * 60))),
}
#: sessions that exchange_calendars lacks. Calendar: ((trade date, minutes after midnight of its close), …). 2025-01-09,
#: a national day of mourning: equity products until 08:30, by CME's announcement of 2024-12-30
_SPECIAL_CLOSES = {"CMES": (("2025-01-09", 8 * 60 + 30),)}
_JUNETEENTH_SINCE = 2022  # CMES ends at 12:00 then, as on other holidays of the United States
_NOON = 12 * 60


class Calendar(Protocol):
    """A market's opening hours. Times are ns UTC. Errors of all methods: InputError CALENDAR_RANGE."""

    name: str

    def is_open(self, times_ns: Ints) -> Bools:
        """Return for each moment whether the market trades then. Shapes: (n,) → (n,)."""
        ...

    def sessions(self, from_ns: int, to_ns: int) -> tuple[Ints, Ints]:
        """Return (opens, closes) of the stretches of trading that touch [from, to), cut to it."""
        ...

    def expected(self, timeframe: str, from_ns: int, to_ns: int) -> Ints:
        """Return the open times of the bars expected with from <= open time < to, oldest first."""
        ...

    def days(self, times_ns: Ints) -> Ints:
        """Return the ordinal of the trading day that each moment belongs to; one after a close belongs to the next."""
        ...


def calendar_of(name: str) -> Calendar:
    """Return the calendar of this name: `24/7` or one of exchange_calendars. Errors: ConfigError for another name."""
    return AlwaysOpen() if name == ALWAYS else _sessions_of(name)


def guess_calendar(time_ns: Ints, timeframe: str) -> str:
    """Return the calendar that the bars of an unknown market keep to: of those in `_GUESSED` the one with the fewest
    bars missing, if all but 1 % of these bars are expected by it, else `24/7`.

    A market of which a bar opens on a Saturday, or whose bars span fewer than four, is taken as always open.
    """
    if timeframe in ("1w", "1M") or not len(time_ns) or not _skips_saturdays(time_ns):
        return ALWAYS
    first_ns, end_ns = int(time_ns[0]), int(time_ns[-1]) + 1
    found, fewest = ALWAYS, -1
    for name in _GUESSED:
        try:
            expected = calendar_of(name).expected(timeframe, first_ns, end_ns)
        except InputError:  # its holidays are not known so far back or ahead
            continue
        is_expected = int(np.isin(time_ns, expected, assume_unique=True).sum())
        missing = len(expected) - is_expected
        if is_expected >= _FIT_MIN * len(time_ns) and (fewest < 0 or missing < fewest):
            found, fewest = name, missing
    return found


def _skips_saturdays(time_ns: Ints) -> bool:
    """Return whether the bars span four Saturdays (UTC) or more, and none opens on one."""
    days = time_ns // _DAY_NS
    first, last = int(days[0]), int(days[-1])
    saturdays = (last - _SATURDAY) // 7 - (first - 1 - _SATURDAY) // 7
    return saturdays >= _SATURDAYS_MIN and not bool(np.any(days % 7 == _SATURDAY))


def is_open_at(calendar: Calendar, time_ns: int) -> bool:
    """Return whether a market trades at a moment. Errors: InputError CALENDAR_RANGE."""
    return bool(calendar.is_open(np.array([time_ns], dtype=np.int64))[0])


def overnight(calendar: str, times: Ints, ends: Ints, minutes: int) -> Bools | None:
    """Return for each bar (its start and end, oldest first) whether it lies between so many minutes before the end of a
    trading day and the begin of the next one; None where the market never closes, or a bar holds that moment inside
    it."""
    opens, closes = calendar_of(calendar).sessions(int(times[0]) - _WEEKS_NS, int(ends[-1]) + _WEEKS_NS)
    days = calendar_of(calendar).days(opens)
    begins, overs = opens[np.diff(days, prepend=-1) != 0], closes[np.diff(days, append=-1) != 0]
    at = np.searchsorted(overs, times, side="right")
    if calendar == ALWAYS or at[-1] >= len(overs):  # some calendars end with the year
        return None
    since_ns = overs[at] - minutes * 60 * NS
    found: Bools = (times >= since_ns) | (times < begins[at])
    return None if bool(np.any((times < since_ns) & (ends > since_ns))) else found


def midnight_ns(calendar: str, day: date) -> int:
    """Return when a day begins where a market is; in UTC for `24/7`. Errors: ConfigError for an unknown calendar."""
    if calendar == ALWAYS:
        return to_ns(datetime.combine(day, time(), UTC))
    _sessions_of(calendar)
    import exchange_calendars

    zone = ZoneInfo(str(exchange_calendars.get_calendar(calendar).tz))
    return to_ns(datetime.combine(day, time(), zone))


class AlwaysOpen:
    """The calendar of crypto exchanges: always open, so every bar is expected."""

    name = ALWAYS

    def is_open(self, times_ns: Ints) -> Bools:
        return np.ones(len(times_ns), dtype=np.bool_)

    def sessions(self, from_ns: int, to_ns: int) -> tuple[Ints, Ints]:
        is_any = to_ns > from_ns
        return np.array([from_ns] * is_any, dtype=np.int64), np.array([to_ns] * is_any, dtype=np.int64)

    def expected(self, timeframe: str, from_ns: int, to_ns: int) -> Ints:
        found = starts_within(from_ns, to_ns, timeframe)
        return found[found >= from_ns]

    def days(self, times_ns: Ints) -> Ints:
        return times_ns // _DAY_NS


class MarketSessions:
    """A market that opens and closes. Sessions are computed for the years that are asked for, and cached."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._years = (0, 0)
        self._known_ns = 2**63 - 1  # the end of the last day whose sessions are known
        self._opens = self._closes = self._day_ends = np.empty(0, dtype=np.int64)

    def is_open(self, times_ns: Ints) -> Bools:
        if not len(times_ns):
            return np.empty(0, dtype=np.bool_)
        self._reach(int(times_ns.min()), int(times_ns.max()))
        at = np.searchsorted(self._opens, times_ns, side="right") - 1
        is_within = (at >= 0) & (times_ns < self._closes[np.maximum(at, 0)])
        return np.asarray(is_within | (times_ns >= self._known_ns), dtype=np.bool_)

    def sessions(self, from_ns: int, to_ns: int) -> tuple[Ints, Ints]:
        if to_ns <= from_ns:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._reach(from_ns, to_ns)
        first = int(np.searchsorted(self._closes, from_ns, side="right"))
        last = int(np.searchsorted(self._opens, to_ns, side="left"))
        return np.maximum(self._opens[first:last], from_ns), np.minimum(self._closes[first:last], to_ns)

    def expected(self, timeframe: str, from_ns: int, to_ns: int) -> Ints:
        if to_ns <= from_ns:
            return np.empty(0, dtype=np.int64)
        last = int(starts_of(np.array([to_ns - 1], dtype=np.int64), timeframe)[0])
        opens, closes = self.sessions(from_ns, bar_end(last, timeframe))
        if not len(opens):
            return np.empty(0, dtype=np.int64)
        pieces = [starts_within(int(a), int(b), timeframe) for a, b in zip(opens, closes, strict=True)]
        found = np.unique(np.concatenate(pieces))
        return found[(found >= from_ns) & (found < to_ns)]

    def days(self, times_ns: Ints) -> Ints:
        if len(times_ns):
            self._reach(int(times_ns.min()), int(times_ns.max()))
        return np.searchsorted(self._day_ends, times_ns, side="right").astype(np.int64)

    def _reach(self, from_ns: int, to_ns: int) -> None:
        """Compute the sessions of all years from one time to another, unless they are cached."""
        first, last = _year(from_ns - _MARGIN_NS), _year(to_ns + _MARGIN_NS)
        if self._years[0] <= first and last <= self._years[1]:
            return
        known = self._years if self._years[1] else (first, last)
        wanted = (min(first, known[0]), max(last, known[1]))
        self._opens, self._closes, self._day_ends, self._known_ns = _made(self.name, *wanted)
        self._years = wanted


@cache
def _sessions_of(name: str) -> MarketSessions:
    import exchange_calendars

    if name not in exchange_calendars.get_calendar_names(include_aliases=True):
        raise ConfigError(
            f"no calendar is called {name!r}", remedy=f"use {ALWAYS} or a name of exchange_calendars, such as XNYS"
        )
    return MarketSessions(name)


def _year(time_ns: int) -> int:
    year = 1970 + int(np.datetime64(time_ns, "ns").astype("datetime64[Y]").astype(np.int64))
    if not YEAR_FIRST <= year <= YEAR_LAST:
        raise invalid(
            "CALENDAR_RANGE",
            f"{iso(time_ns)} is no time of a market",
            "look whether times are in seconds, ms, us or ns",
        )
    return year


def _made(name: str, year_first: int, year_last: int) -> tuple[Ints, Ints, Ints, int]:
    """Return opens and closes (ns UTC) of whole years, lunch breaks and daily breaks taken out, the ends of the trading
    days, and until when they are known: the holidays of some markets are announced year by year."""
    import exchange_calendars

    known_ns, end = 2**63 - 1, f"{year_last}-12-31"
    last = type(exchange_calendars.get_calendar(name)).bound_max()
    if last is not None and last.year < year_last <= last.year + _UNKNOWN_YEARS:
        known_ns, end, year_first = int(last.value) + _DAY_NS, str(last.date()), min(year_first, last.year)
    try:
        made = exchange_calendars.get_calendar(name, start=f"{year_first}-01-01", end=end)
    except ValueError as error:  # its holidays are unknown so far back or ahead
        raise invalid("CALENDAR_RANGE", str(error), "ask for a nearer time") from None
    opens, closes = _nanos(made.opens), _nanos(made.closes)
    if name in _DAILY_BREAKS:
        closes = _with_daily_break(made, closes, *_DAILY_BREAKS[name])
    if name in _SPECIAL_CLOSES:
        opens, closes = _with_special_closes(name, opens, closes, year_first, year_last)
    day_ends = closes
    pause = made.break_starts.notna().to_numpy()
    if pause.any():
        opens = np.sort(np.concatenate([opens, _nanos(made.break_ends[pause])]))
        closes = np.sort(np.concatenate([closes, _nanos(made.break_starts[pause])]))
    return opens, closes, day_ends, known_ns


def _with_special_closes(name: str, opens: Ints, closes: Ints, year_first: int, year_last: int) -> tuple[Ints, Ints]:
    """Return sessions in which those of special days end as they do; a session that is lacking is added."""
    days = [(date.fromisoformat(day), minutes) for day, minutes in _SPECIAL_CLOSES[name]]
    days += [(_juneteenth(year), _NOON) for year in range(max(_JUNETEENTH_SINCE, year_first), year_last + 1)]
    for day, minutes in days:
        if not year_first <= day.year <= year_last:
            continue
        begin = datetime.combine(day - timedelta(days=1), time(_GLOBEX_OPEN_H), _CHICAGO)
        open_ns, day_end_ns = to_ns(begin), to_ns(datetime.combine(day, time(_GLOBEX_OPEN_H), _CHICAGO))
        close_ns = to_ns(datetime.combine(day, time(*divmod(minutes, 60)), _CHICAGO))
        keep = (opens >= day_end_ns) | (closes <= open_ns)
        opens = np.sort(np.append(opens[keep], open_ns))
        closes = np.sort(np.append(closes[keep], close_ns))
    return opens, closes


def _juneteenth(year: int) -> date:
    """Return the day on which 19 June is observed: Friday for a Saturday, Monday for a Sunday."""
    day = date(year, 6, 19)
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


def _nanos(column: Any) -> Ints:
    return np.asarray(
        column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[ns]").astype(np.int64)
    )


def _with_daily_break(made: Any, closes: Ints, hour: int, rules: tuple[tuple[str, int], ...]) -> Ints:
    """Return closes with the regular ones moved to where trading really ends; early closes stay."""
    local = made.closes.dt.tz_convert(made.tz)
    is_regular = (local.dt.hour == hour).to_numpy()
    days = made.sessions.to_numpy().astype("datetime64[D]")
    moved = closes.copy()
    for since, minutes in rules:
        of_rule = is_regular & (days >= np.datetime64(since))
        moved[of_rule] = closes[of_rule] - (hour * 60 - minutes) * 60 * NS
    return moved
