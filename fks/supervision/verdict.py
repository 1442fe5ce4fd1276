"""What a beat, or its absence, says of a child: well, hung, or unwell for so long that a new process is the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fks.supervision.exits import How
from fks.supervision.spec import ChildSpec

COMING = frozenset({"starting", "waiting"})


@dataclass(frozen=True, slots=True)
class Timing:
    """The limits of patience, in seconds."""

    heartbeat_s: float
    misses_max: int
    unwell_s: float

    @property
    def silence_max_s(self) -> float:
        """Return how long a living child may be silent: a little less than `misses_max` beats, so that it is killed,
        and noted as killed, within them."""
        return self.heartbeat_s * (self.misses_max - 0.3)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`how` is None for one that goes on, else what its end is to be called: HUNG is killed, UNWELL drained."""

    how: How | None = None
    reason: str = ""


WELL = Verdict()


def judge(beat: Mapping[str, object] | None, *, silence_s: float, spec: ChildSpec, timing: Timing) -> Verdict:
    """Return what is to become of a child.

    `beat` is what it answered, None when it did not; `silence_s` is the time since its last answer, as far as there was
    somebody to hear one. The limit is `misses_max` heartbeats for a silent process and for a work loop that stands
    still, so that SIGSTOP and a blocked loop mean the same. A failed self-check ends a child only when a new process
    may mend it.
    """
    if beat is None:
        if silence_s >= timing.silence_max_s:
            return Verdict(How.HUNG, f"hung: no answer for {silence_s:.1f} s")
        return WELL
    age_s = _number(beat.get("age_s"))
    if age_s > timing.silence_max_s:
        return Verdict(How.HUNG, f"hung: its work loop has stood still for {age_s:.1f} s")
    if beat.get("state") in COMING:
        return WELL
    return _unwell(beat, spec, timing)


def _unwell(beat: Mapping[str, object], spec: ChildSpec, timing: Timing) -> Verdict:
    problems = beat.get("problems")
    for problem in problems if isinstance(problems, list | tuple) else ():
        if not isinstance(problem, Mapping) or not problem.get("is_mended_by_restart"):
            continue
        patience_s = timing.silence_max_s if problem.get("kind") == "memory" else timing.unwell_s
        since_s = _number(problem.get("since_s"))
        if since_s > patience_s:
            return Verdict(How.UNWELL, f"unwell for {since_s:.0f} s: {problem.get('text')}")
    memory_mb = _number(beat.get("memory_mb"))
    if memory_mb > 1.25 * spec.memory_max_mb:  # no time for patience: the machine may run out first
        return Verdict(How.UNWELL, f"unwell: {memory_mb:.0f} MB resident, above {spec.memory_max_mb} MB")
    return WELL


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
