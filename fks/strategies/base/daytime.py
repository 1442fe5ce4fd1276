"""Times of day as parameters of strategies."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

#: a time of day, HH:MM
Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


def second_of(clock: str) -> int:
    """Return the seconds since midnight of a time of day, HH:MM."""
    hours, minutes = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60
