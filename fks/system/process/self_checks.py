"""Self-checks of a process: the problems it finds, since when, and what changed since the last update."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fks.model.health import Check, failed
from fks.model.ports import Lease

LAG_SHOWN_S = 5.0  # a late loop stays a problem for this long: the next beat must show it
_MB = 1024 * 1024
_STATM = Path("/proc/self/statm")


class SelfChecks:
    """The problems there are and since when. Updated by one loop, read by any thread.

    `since` is the monotonic time of the first update with it: a problem that ends and comes back is a new one.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[Check, float]] = {}

    def update(self, found: Iterable[Check], now_s: float) -> tuple[list[Check], list[Check]]:
        """Replace the problems by those of now; return those that began and those that ended."""
        before, now = self._found, {(problem.name, problem.about): problem for problem in found}
        self._found = {key: (problem, before[key][1] if key in before else now_s) for key, problem in now.items()}
        began = [problem for key, problem in now.items() if key not in before]
        return began, [problem for key, (problem, _) in before.items() if key not in now]

    @property
    def is_well(self) -> bool:
        """Return whether there is no problem."""
        return not self._found

    def beat(self, now_s: float) -> list[dict[str, object]]:
        """Return the problems for the beat: kind, about, text, since_s (how long it lasts), is_mended_by_restart."""
        return [
            {
                "kind": problem.name,
                "about": problem.about,
                "text": problem.detail,
                "since_s": round(now_s - since_s, 3),
                "is_mended_by_restart": problem.is_mended_by_restart,
            }
            for problem, since_s in self._found.values()
        ]


def memory_mb() -> float:
    """Return the resident memory of this process, MB (2^20 bytes); 0 where the system does not provide it."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def memory_problems(used_mb: float, limit_mb: float) -> list[Check]:
    """Return the problem of this much resident memory, if any: a new process ends a leak."""
    text = f"{used_mb:.0f} MB resident, above {limit_mb:.0f} MB"
    return [failed("memory", text, is_mended_by_restart=True)] if used_mb > limit_mb else []


def stuck_problems(about: str, silent_s: float, limit_s: float) -> list[Check]:
    """Return the problem of a loop that has not turned for `silent_s`, if any: one that waits for ever for an answer
    leaves the process alive and its beat fresh, so only a new process ends it."""
    text = f"it has not turned for {silent_s:.0f} s"
    return [failed("stuck", text, about, is_mended_by_restart=True)] if silent_s > limit_s else []


def lease_problems(lease: Lease | None) -> list[Check]:
    """Return the problem of a lease that ran out, if any: the database was unavailable for its whole life."""
    text = "the lease could not be renewed before it ran out: nothing is sent or written"
    return [failed("database", text, "lease")] if lease is not None and not lease.holds() else []


class LoopLag:
    """Measures how late the turns of the work loop come. The supervisor detects a loop that stands still."""

    def __init__(self, turn_s: float, limit_s: float) -> None:
        self._turn_s, self._limit_s = turn_s, limit_s
        self._last_s: float | None = None
        self._late_s = 0.0
        self._shown_until_s = float("-inf")

    def turn(self, now_s: float) -> list[Check]:
        """Note a turn of the loop; return a problem for LAG_SHOWN_S after a late one."""
        late_s = 0.0 if self._last_s is None else now_s - self._last_s - self._turn_s
        self._last_s = now_s
        if late_s > self._limit_s:
            self._late_s, self._shown_until_s = late_s, now_s + LAG_SHOWN_S
        text = f"the work loop stood still for {self._late_s:.2f} s"
        return [failed("loop", text)] if now_s < self._shown_until_s else []
