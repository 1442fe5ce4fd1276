"""Holds a position between two times of day in a time zone."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from fks.indicators import local_seconds
from fks.indicators.sessions import zone_of
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES
from fks.strategies.base import Decisions, Protected, StrategyError
from fks.strategies.base.daytime import Clock, second_of

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_S = 86_400


class TimeOfDay(Protected):
    """Long (or short) from `start` to `end` on the clock of `zone`, on the days named; overnight when `end` is earlier.

    A bar decides at its end: the one that ends at `start` enters, the first that ends at or after `end` leaves. A
    session belongs to the day it starts on. The clock is the zone's own, so sessions move with summer time.
    """

    name: ClassVar[str] = "time_of_day"
    start: Clock = Field("09:30", description="beginning of the session, HH:MM")
    end: Clock = Field("16:00", description="end of the session, HH:MM")
    zone: str = Field("America/New_York", description="IANA time zone of both")
    days: str = Field("mon tue wed thu fri", description="days on which a session starts")
    short: bool = Field(False, description="short in the session, instead of long")

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            zone_of(zone)
        except InputError as error:
            raise ValueError(str(error)) from None
        return zone

    @field_validator("days")
    @classmethod
    def _named(cls, days: str) -> str:
        found = re.findall(r"\w+", days.lower())
        wrong = [day for day in found if day not in _DAYS]
        if wrong or not found:
            raise ValueError(f"days are some of {' '.join(_DAYS)}")
        return " ".join(day for day in _DAYS if day in found)

    @model_validator(mode="after")
    def _differ(self) -> TimeOfDay:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}")
        return self

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        length_s = TIMEFRAMES.get(bars.timeframe, 0)
        if not 0 < length_s <= _DAY_S:
            raise StrategyError(
                f"strategy {self.name} needs bars of at most a day, not {bars.timeframe}",
                remedy="choose a shorter timeframe",
            )
        local = local_seconds(bars.time_ns + length_s * NS, self.zone)
        start, end = second_of(self.start), second_of(self.end)
        since = (local - start) % _DAY_S
        weekday = ((local - since) // _DAY_S + 3) % 7  # 1970-01-01 was a Thursday
        is_day = np.isin(weekday, [_DAYS.index(day) for day in self.days.split()])
        is_in = is_day & (since < (end - start) % _DAY_S)
        return self.protect(bars, np.where(is_in, -1.0 if self.short else 1.0, 0.0))
