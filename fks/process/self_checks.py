"""Self-checks of a process: the problems it finds, since when, and what changed since the last update."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fks.model.health import FailedCheck

LAG_SHOWN_S = 5.0  # a late loop stays a problem for this long: the next beat must show it
_MB = 1024 * 1024
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Changes:
    """Problems that began and problems that ended with an update."""

    failed: tuple[FailedCheck, ...] = ()
    recovered: tuple[FailedCheck, ...] = ()


class SelfChecks:
    """The problems there are and since when. Updated by one loop, read by any thread.

    `since` is the monotonic time of the first update with it: a problem that ends and comes back is a new one.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        self._found: dict[tuple[str, str], FailedCheck] = {}

    def update(self, found: Iterable[FailedCheck], now_s: float) -> Changes:
        """Replace the problems by those of now; return which began and which ended."""
        now = {(problem.kind, problem.about): problem for problem in found}
        failed = tuple(problem for key, problem in now.items() if key not in self._found)
        recovered = tuple(problem for key, problem in self._found.items() if key not in now)
        self._since = {key: self._since.get(key, now_s) for key in now}
        self._found = now
        return Changes(failed, recovered)

    @property
    def is_well(self) -> bool:
        """Return whether there is no problem."""
        return not self._found

    def beat(self, now_s: float) -> list[dict[str, object]]:
        """Return the problems for the beat: kind, about, text, since_s (how long it lasts), is_mended_by_restart."""
        found, since = self._found, self._since
        return [
            {
                "kind": problem.kind,
                "about": problem.about,
                "text": problem.text,
                "since_s": round(now_s - since.get(key, now_s), 3),
                "is_mended_by_restart": problem.is_mended_by_restart,
            }
            for key, problem in found.items()
        ]


def memory_mb() -> float:
    """Return the resident memory of this process, MB (2^20 bytes); 0 where the system does not provide it."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def memory_problem(used_mb: float, limit_mb: float) -> FailedCheck | None:
    """Return the problem of this much resident memory, if any: a new process ends a leak."""
    if used_mb <= limit_mb:
        return None
    return FailedCheck("memory", f"{used_mb:.0f} MB resident, above {limit_mb:.0f} MB", is_mended_by_restart=True)


def stuck_problem(about: str, silent_s: float, limit_s: float) -> FailedCheck | None:
    """Return the problem of a loop that has not turned for `silent_s`, if any: one that waits for ever for an answer
    leaves the process alive and its beat fresh, so only a new process ends it."""
    if silent_s <= limit_s:
        return None
    return FailedCheck("stuck", f"it has not turned for {silent_s:.0f} s", about=about, is_mended_by_restart=True)


def lease_problem(*, has_lease: bool, holds: bool) -> FailedCheck | None:
    """Return the problem of a lease that ran out: the database was unavailable for its whole life."""
    if not has_lease or holds:
        return None
    return FailedCheck(
        "database", "the lease could not be renewed before it ran out: nothing is sent or written", about="lease"
    )


class LoopLag:
    """Measures how late the turns of the work loop come. The supervisor detects a loop that stands still."""

    def __init__(self, turn_s: float, limit_s: float) -> None:
        self._turn_s, self._limit_s = turn_s, limit_s
        self._last_s: float | None = None
        self._late_s = 0.0
        self._shown_until_s = float("-inf")

    def turn(self, now_s: float) -> FailedCheck | None:
        """Note a turn of the loop; return a problem for LAG_SHOWN_S after a late one."""
        late_s = 0.0 if self._last_s is None else now_s - self._last_s - self._turn_s
        self._last_s = now_s
        if late_s > self._limit_s:
            self._late_s, self._shown_until_s = late_s, now_s + LAG_SHOWN_S
        if now_s >= self._shown_until_s:
            return None
        return FailedCheck("loop", f"the work loop stood still for {self._late_s:.2f} s")
