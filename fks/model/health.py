"""Results of checks: of this machine, of a cluster, of a dependency, of a process by itself; ages of heartbeats that
count as faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HEALTHY, DEGRADED, DOWN, UNKNOWN = "healthy", "degraded", "down", "unknown"
#: A component, or the keeper of a machine, whose last heartbeat is older, in seconds, is silent: it is shown so, in
#: place of the state that it last reported. Heartbeats are written each second. A process that hangs is killed and
#: replaced within 4 s (docs/recovery.md), so a restart is not shown as silence.
SILENT_AFTER_S: Final = 5.0
#: A component whose last heartbeat is older, in seconds, is lost: nothing is sent to it any more, and a supervisor is
#: replaced. Twice SILENT_AFTER_S: a restart had its time and failed, and replacing a supervisor by mistake costs more
#: than waiting.
LOST_AFTER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check, the same for `fks doctor`, `fks cluster check`, the deep checks and self-checks.

    `status`: HEALTHY, DEGRADED (usable, but in need of attention), DOWN, or UNKNOWN (not checked, or no evidence).
    `detail` is the finding and `remedy` the action against it. `about` distinguishes checks of one name (a symbol, a
    venue): name and about stay the same while a fault lasts, `detail` may change.
    `is_mended_by_restart`: a new process of this component may pass the check; False where the cause lies elsewhere.
    `values` are the measured numbers of a deep check, `response_ms` the time until the answer.
    """

    name: str
    status: str
    detail: str = ""
    remedy: str = ""
    about: str = ""
    is_mended_by_restart: bool = False
    response_ms: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def level(is_well: bool, is_usable: bool = True) -> str:
    """Return HEALTHY, else DEGRADED while it is usable, else DOWN."""
    return HEALTHY if is_well else DEGRADED if is_usable else DOWN


def checked(name: str, fault: str, finding: str, remedy: str, status: str = DOWN) -> Check:
    """Return a check that has `status` and `fault`, or is healthy with `finding` where there is no fault."""
    return Check(name, status, fault, remedy) if fault else Check(name, HEALTHY, finding)


def failed(name: str, detail: str, about: str = "", *, is_mended_by_restart: bool = False) -> Check:
    """Return a failed self-check, as it is now. `fks.system.process.self_checks` keeps its duration.

    `name`: database, feed, venue, queue, memory, loop, stuck, disk, lease, redis, schedule, ninja, ninja_secret.
    """
    return Check(name, DOWN, detail, about=about, is_mended_by_restart=is_mended_by_restart)
