"""Ends of a child: the facts, as far as they can be known, and whether the end was orderly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class How(StrEnum):
    """The cause of an end."""

    NORMAL = "normal"  # it was asked to, and did in order
    CRASH = "crash"  # it ended by itself, by an error or a signal
    HUNG = "hung"  # no beat: we killed it
    UNWELL = "unwell"  # its self-check failed for too long: we ended it
    NODE_LOST = "node lost"  # its machine is gone; the state of the process is unknown
    KILLED = "killed"  # it did not end within its stop deadline: we killed it
    FAILED_START = "failed start"  # it never became ready


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """One end of one process. `is_gone`: the process is proven to be no more (same machine, pid vanished).

    `exit_code` and `signal` are None where they could not be seen; `is_inferred` marks a signal that was concluded, not
    read. `last_lines` are the last of its log, oldest first; `traceback` is the last one it left, "" without one.
    """

    how: How
    reason: str
    is_gone: bool = False
    exit_code: int | None = None
    signal: int | None = None
    is_inferred: bool = False
    last_lines: tuple[str, ...] = ()
    traceback: str = ""

    @property
    def is_normal(self) -> bool:
        """Return whether it ended as it was asked to."""
        return self.how is How.NORMAL

    def payload(self) -> dict[str, object]:
        """Return what `actor_events.payload` keeps: every field, JSON values only."""
        return {**asdict(self), "how": self.how.value, "last_lines": list(self.last_lines)}
