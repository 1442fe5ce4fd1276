"""Own columns beside bars: of each bar the value that was known when it ended. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fks.model.bar import Bars, Feature, Floats, Ints
from fks.model.errors import unprocessable
from fks.model.timeframe import NS

NAME_MAX = 64
FORECAST = "forecast:"  # begins the names of columns of predictions
EVENTS = "events:"  # begins the names of columns of economic events; names of others have no `:`
IMPORTANCES = ("none", "low", "medium", "high")  # of economic events
_EVENTS = re.compile(r"events:(?:([a-z]{3})\.)?(low|medium|high)\.(\d{1,4})")
_NAME = re.compile(rf"[a-z][a-z0-9_.]{{0,{NAME_MAX - 1}}}")


def check_feature_name(name: str) -> str:
    """Return a name of a column. Errors: InputError FEATURE_NAME."""
    if _NAME.fullmatch(name) is None:
        raise unprocessable(
            "FEATURE_NAME",
            f"{name!r} is no name of a column",
            f"use up to {NAME_MAX} small letters, digits, _ and ., a letter first",
        )
    return name


def column_of(model: str, *, is_shadow: bool = False) -> str:
    """Return the own column of a model's predictions."""
    return f"{FORECAST}{model}{'.shadow' if is_shadow else ''}"


def model_of(column: str) -> str:
    """Return the model of a column of predictions."""
    return column.removeprefix(FORECAST).partition(".")[0]


def forecast_wait_s(bar_s: float) -> float:
    """Return for how long a decision waits for the forecast of a sealed bar: a second, at most a tenth of the bar."""
    return min(1.0, bar_s / 10)


@dataclass(frozen=True, slots=True)
class EventColumn:
    """A column that says whether an economic event of a currency (None: of any) is near a decision: of at least that
    importance, at most so many minutes before or after it."""

    currency: str | None
    importance: str
    minutes: int

    @property
    def reach_ns(self) -> int:
        """Return how far from an event a decision is near it."""
        return self.minutes * 60 * NS

    @staticmethod
    def parse(name: str) -> EventColumn:
        """Return the column of a name: `events:usd.high.30`, `events:high.30`. Errors: InputError FEATURE_NAME."""
        found = _EVENTS.fullmatch(name)
        if found is None:
            raise unprocessable(
                "FEATURE_NAME", f"{name!r} is no column of economic events", "write it as events:usd.high.30"
            )
        return EventColumn(found[1] and found[1].upper(), found[2], int(found[3]))


@dataclass(frozen=True, slots=True)
class EventRevision:
    """A revision of an economic event: its content from `known_ns` on, until the next revision of `key`."""

    key: tuple[str, str, int]
    time_ns: int
    importance: str
    known_ns: int


def near_events(bars: Bars, column: EventColumn, revisions: Sequence[EventRevision]) -> Feature:
    """Return 1 beside each bar whose decision is near an event of the column, as it was known then, 0 beside others.

    `revisions`: of each event in the order in which they were known. The time of a value is its event's; of 0 the
    bar's end.
    """
    ends = bars.ends_ns
    values, times = np.zeros(len(ends)), ends.copy()
    least = IMPORTANCES.index(column.importance)
    for one, later in zip(revisions, [*revisions[1:], None], strict=True):
        if IMPORTANCES.index(one.importance) < least:
            continue
        until = one.time_ns + column.reach_ns + 1
        if later is not None and later.key == one.key:
            until = min(until, later.known_ns)
        first, last = np.searchsorted(ends, (max(one.time_ns - column.reach_ns, one.known_ns), until))
        values[first:last], times[first:last] = 1.0, one.time_ns
    return Feature(values, times)


def aligned(bars: Bars, time_ns: Ints, known_ns: Ints, values: Floats) -> Feature:
    """Return a column beside bars, made of rows in any order: value, the time it is of, and when it was known.

    A bar has the value of the latest time among those known at its end (`known_ns` <= end); of several that are of one
    time, the one that was known last, which corrects the others. It keeps it until a later one is known; a row whose
    value is NaN takes it away. Shapes: rows all (m,); returns (len(bars),).
    """
    order = np.lexsort((time_ns, known_ns))
    time_ns, known_ns, values = time_ns[order], known_ns[order], values[order]
    latest = np.maximum.accumulate(time_ns) if len(time_ns) else time_ns
    chosen = np.maximum.accumulate(np.where(time_ns == latest, np.arange(len(time_ns)), 0))
    place = np.searchsorted(known_ns, bars.ends_ns, side="right") - 1
    rows = np.append(chosen, 0)[place]  # place -1: nothing was known
    return Feature(
        np.where(place >= 0, np.append(values, np.nan)[rows], np.nan),
        np.where(place >= 0, np.append(time_ns, -1)[rows], -1).astype(np.int64),
    )
