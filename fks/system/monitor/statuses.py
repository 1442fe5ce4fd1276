"""Statuses of services: found by a look, reported after damping, and changed by dependencies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN

#: Looks in a row that agree before a change is reported.
CONFIRMED = 2
#: Looks that are remembered, and the changes among them from which a service flaps and until which it goes on flapping.
REMEMBERED, FLAPS_FROM, FLAPS_UNTIL = 20, 6, 3
_BAD = {UNKNOWN: 0, HEALTHY: 0, DEGRADED: 1, DOWN: 2}


@dataclass(frozen=True, slots=True)
class ReportedStatus:
    """The status that is reported of a service, and whether it flaps: then it does not change."""

    status: str
    is_flapping: bool = False


def damped(looks: Sequence[str], before: ReportedStatus | None = None) -> ReportedStatus:
    """Return the status reported after `looks`, oldest first, the newest of which was not reported yet.

    `before`: the status reported after the look before; None: nothing, and the newest look is reported as it is.
    A change is reported when CONFIRMED looks in a row agree on it. A service flaps from FLAPS_FROM changes within the
    last REMEMBERED looks until at most FLAPS_UNTIL are left; while it flaps, the reported status may only get worse.
    An unknown look is evidence of nothing and is left out.
    Errors: ValueError without a look.
    Source: the idea of Nagios' flap detection with two thresholds, without its weights.
    """
    if not looks:
        raise ValueError("there is no look")
    known = [status for status in looks[-REMEMBERED:] if status != UNKNOWN]
    if not known:
        return before or ReportedStatus(UNKNOWN)
    changes = sum(one != other for one, other in pairwise(known))
    newest = known[-CONFIRMED:]
    is_agreed = len(newest) == CONFIRMED and len(set(newest)) == 1
    if before is None or before.status == UNKNOWN:
        return ReportedStatus(known[-1], is_flapping=changes >= FLAPS_FROM)
    is_flapping = changes > FLAPS_UNTIL if before.is_flapping else changes >= FLAPS_FROM
    if is_agreed and (not is_flapping or _BAD[known[-1]] > _BAD[before.status]):
        return ReportedStatus(known[-1], is_flapping)
    return ReportedStatus(before.status, is_flapping)


@dataclass(frozen=True, slots=True)
class Dependency:
    """One service needs another: without a critical one it is down, without an optional one degraded."""

    service: str
    depends_on: str
    is_critical: bool = False


@dataclass(frozen=True, slots=True)
class Rolled:
    """A status with its dependencies counted in, and those that made it worse than its own."""

    status: str
    because: tuple[str, ...] = ()


def rolled_up(own: Mapping[str, str], dependencies: Iterable[Dependency]) -> dict[str, Rolled]:
    """Return every status in `own` with the dependencies counted in, through any number of steps.

    A critical dependency that is down makes its service down, one that is degraded degraded; an optional one that is
    down makes it degraded. Dependencies without a status, or unknown ones, change nothing. Cycles are allowed.
    """
    needed = [d for d in dependencies if d.service in own and d.depends_on in own and d.service != d.depends_on]
    statuses = dict(own)
    has_changed = True
    while has_changed:  # a status only gets worse, so this ends
        has_changed = False
        for one in needed:
            worse = _through(one, statuses)
            if _BAD[worse] > _BAD[statuses[one.service]]:
                statuses[one.service] = worse
                has_changed = True
    because = {name: [d for d in needed if d.service == name] for name in own}
    return {
        name: Rolled(
            status,
            tuple(d.depends_on for d in because[name] if _BAD[_through(d, statuses)] == _BAD[status])
            if _BAD[status] > _BAD[own[name]]
            else (),
        )
        for name, status in statuses.items()
    }


def _through(dependency: Dependency, statuses: Mapping[str, str]) -> str:
    status = statuses[dependency.depends_on]
    if dependency.is_critical:
        return status
    return DEGRADED if status == DOWN else HEALTHY


def uptime_percent(healthy: int, degraded: int, down: int) -> float | None:
    """Return the share of looks at which a service worked, in percent; unknown ones are not counted, None without."""
    seen = healthy + degraded + down
    return None if seen == 0 else round(100 * (healthy + degraded) / seen, 3)
