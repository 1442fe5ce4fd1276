"""Due times of schedules: cron or an interval, in UTC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from croniter import croniter

from fks.model.errors import InputError, unprocessable

EVERY_MIN_S, EVERY_MAX_S = 60, 366 * 86_400
LATE_S = 60.0
_ANY = datetime(2024, 3, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Either `cron` (five fields, UTC) or `every_s` (counted from when the schedule was made, changed or last due)."""

    cron: str | None = None
    every_s: int | None = None

    def checked(self) -> Rhythm:
        """Return it. Errors: InputError 422 when it is none."""
        if (self.cron is None) == (self.every_s is None):
            raise _wrong("give either cron or every_s", "e.g. cron '0 3 * * *' (UTC), or every_s 3600")
        if self.cron is not None and not (len(self.cron.split()) == 5 and croniter.is_valid(self.cron)):
            raise _wrong(f"cron {self.cron[:80]!r} is not one", "use five fields, e.g. '0 3 * * *' for 03:00 UTC")
        try:
            if self.cron is not None:
                croniter(self.cron, _ANY).get_next(datetime), croniter(self.cron, _ANY).get_prev(datetime)
        except ValueError:  # well formed, and never due: 30 February
            raise _wrong(f"cron {self.cron!r} is never due", "use a day that its months have") from None
        if self.every_s is not None and not EVERY_MIN_S <= self.every_s <= EVERY_MAX_S:
            raise _wrong(f"every_s {self.every_s} is not usable", f"use {EVERY_MIN_S} to {EVERY_MAX_S} seconds")
        return self

    def due(self, since: datetime, now: datetime) -> datetime | None:
        """Return the latest due time in (since, now], or None: however many were missed, one run makes up for all."""
        if now <= since:
            return None
        if self.every_s is not None:
            count = int((now - since).total_seconds() // self.every_s)
            return since + timedelta(seconds=count * self.every_s) if count else None
        latest: datetime = croniter(self.cron, now + timedelta(microseconds=1)).get_prev(datetime)
        return latest if latest > since else None

    def next(self, since: datetime, now: datetime) -> datetime:
        """Return the first due time after now (and after `since`)."""
        if self.every_s is not None:
            count = max(0, int((now - since).total_seconds() // self.every_s))
            return since + timedelta(seconds=(count + 1) * self.every_s)
        following: datetime = croniter(self.cron, max(since, now)).get_next(datetime)
        return following


def cause_of(due: datetime, now: datetime) -> str:
    """Return `due`, or `late` when it was due more than a minute ago: the system did not run then."""
    return "late" if (now - due).total_seconds() > LATE_S else "due"


def _wrong(text: str, remedy: str) -> InputError:
    return unprocessable("SCHEDULE_WRONG", text, remedy)
