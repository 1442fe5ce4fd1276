"""Rolling deployment and configuration, decided: which parts in which order, when one is back, what ends it. Pure.

The driver is `fks.system.supervisor.operations`. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fks.config.runtime import GATEWAY, SUPERVISOR
from fks.model.errors import FksError, OutageError, not_found
from fks.system.supervision.liveness import UP

LIVES_MAX = 2  # processes of a part within one restart: one death may be an accident


@dataclass(frozen=True, slots=True)
class RolloutPart:
    """One child as its supervisor last saw it. `version` and `config_version` are those its process reports."""

    state: str
    pid: int | None = None
    version: str = ""
    config_version: int = 0
    node: str = ""


def deploy_plan(children: Iterable[str], only: object = None) -> list[str]:
    """Return the parts that a deployment restarts, in order: `only` one, or all, supervisor and gateway last."""
    return [str(only)] if only else [*children, SUPERVISOR, GATEWAY]


def rollback_plan(
    concerned: Iterable[str], touched: Iterable[str], running: Mapping[str, int], version: int
) -> list[str]:
    """Return the parts that have to go back from `version` of the settings.

    `concerned`: those that its changes concern; `touched`: those that the rollout restarted; `running`: the version
    that each part reports.
    """
    restarted = set(touched)
    return [part for part in concerned if part in restarted or part == GATEWAY or running.get(part) == version]


def is_child(part: str) -> bool:
    """Return whether a part is a child of the supervisor: neither itself nor the gateway."""
    return part not in (SUPERVISOR, GATEWAY)


def find_part(part: str, children: Mapping[str, RolloutPart]) -> RolloutPart:
    """Return a child as it is known. Errors: InputError for one that is not there."""
    if part not in children:
        raise not_found(
            "COMPONENT_UNKNOWN",
            f"no part is called {part}",
            f"use one of {', '.join([*children, SUPERVISOR, GATEWAY])}",
        )
    return children[part]


def check_returned(part: str, seen: RolloutPart, *, build: str, config_version: int | None) -> None:
    """Refuse a part that came back with another build or other settings than intended. Errors: FksError.

    A part that reports no version is accepted: its process predates the reports.
    """
    if build and seen.version and seen.version != build:
        raise FksError(
            f"{part} came back as {seen.version}, not as {build}",
            remedy=f"install the same wheel on {seen.node or 'its node'} and deploy again",
        )
    if config_version is not None and seen.version and seen.config_version != config_version:
        raise FksError(f"{part} came back with version {seen.config_version} of the settings, not {config_version}")


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One part of a plan: `record` is its step of an earlier attempt, None before the first."""

    part: str
    place: int  # from 1
    record: dict[str, Any] | None

    @property
    def is_resumed(self) -> bool:
        """Return whether an earlier attempt began it."""
        return self.record is not None


def steps_left(plan: Sequence[str], records: Sequence[dict[str, Any]]) -> list[RolloutStep]:
    """Return the steps of a plan that no earlier attempt finished, in order."""
    known = {record["part"]: record for record in records}
    steps = [RolloutStep(part, place, known.get(part)) for place, part in enumerate(plan, 1)]
    return [step for step in steps if step.record is None or step.record["state"] != "done"]


class PartState(StrEnum):
    """Whether a part is back."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"  # it keeps dying


@dataclass(slots=True)
class PartSettling:
    """Waits until a part that was ready is ready again, and any other at least degraded.

    With `must_settle` it must stay so for `steady_s`, with at most LIVES_MAX processes: a start alone proves little.
    """

    part: str
    was: str  # its state before, "" when that does not matter
    must_settle: bool
    steady_s: float
    _since_s: float = float("inf")
    _pids: set[int | None] = field(default_factory=set)

    def take(self, seen: RolloutPart, now_s: float) -> PartState:
        """Return whether the part is back, given how it is now."""
        is_well = seen.state == "ready" or (seen.state in UP and self.was != "ready")
        self._since_s = min(self._since_s, now_s) if is_well else float("inf")
        if now_s - self._since_s >= (self.steady_s if self.must_settle else 0.0):
            return PartState.DONE
        self._pids.add(seen.pid)
        return PartState.FAILED if self.must_settle and len(self._pids) > LIVES_MAX else PartState.PENDING

    def end(self, seen: RolloutPart, waited_s: float) -> None:
        """Accept or refuse a part that did not settle in time. Errors: OutageError."""
        if seen.state in UP and not self.must_settle:
            return
        reason = "keeps dying" if len(self._pids) > LIVES_MAX else f"is {seen.state} {waited_s:g} s"
        raise OutageError(
            f"{self.part} {reason} after its restart" + (f" and was {self.was} before" if self.was else ""),
            remedy=f"see 'fks logs {self.part}'",
        )
