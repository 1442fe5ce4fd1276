"""Liveness of a child, decided from its beats: well, hung, or unwell for so long that it needs a new process. Pure.

All times are monotonic seconds. The driver is `fks.system.supervisor.child_runner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fks.system.supervision.exits import How
from fks.system.supervision.spec import ChildSpec

START_SILENCE = 0.2  # of the time to start
COMING = frozenset({"starting", "waiting"})  # states of a child that is not up yet
UP = frozenset({"ready", "degraded"})  # of one that works, in full or with limits
LOOK_S = 0.05  # between two looks at a child that starts; and the slack of a last call


@dataclass(frozen=True, slots=True)
class LivenessLimits:
    """The heartbeat interval, the missed heartbeats allowed, and how long a child may be unwell, in seconds."""

    heartbeat_s: float
    misses_max: int
    unwell_s: float

    @property
    def silence_max_s(self) -> float:
        """Return how long a living child may be silent: a little less than `misses_max` heartbeats, so that it is
        killed, and recorded as killed, within them."""
        return self.heartbeat_s * (self.misses_max - 0.3)


@dataclass(frozen=True, slots=True)
class Assessment:
    """`how` is None for a child that goes on, else how its end is recorded: HUNG is killed, UNWELL drained."""

    how: How | None = None
    reason: str = ""


WELL = Assessment()


def assess(
    beat: Mapping[str, object] | None, *, silence_s: float, spec: ChildSpec, limits: LivenessLimits
) -> Assessment:
    """Return what follows from a beat, or from its absence.

    `beat` is the child's answer, None without one; `silence_s` is the time since its last answer, as far as the
    supervisor itself was running. The limit is `misses_max` heartbeats for a silent process and for a work loop that
    stands still, so that SIGSTOP and a blocked loop mean the same. A failed self-check ends a child only when a new
    process may end the problem.
    """
    if beat is None:
        if silence_s >= limits.silence_max_s:
            return Assessment(How.HUNG, f"hung: no answer for {silence_s:.1f} s")
        return WELL
    age_s = age_of(beat)
    if age_s > limits.silence_max_s:
        return Assessment(How.HUNG, f"hung: its work loop has stood still for {age_s:.1f} s")
    if beat.get("state") in COMING:
        return WELL
    return _unwell(beat, spec, limits)


def _unwell(beat: Mapping[str, object], spec: ChildSpec, limits: LivenessLimits) -> Assessment:
    problems = beat.get("problems")
    for problem in problems if isinstance(problems, list | tuple) else ():
        if not isinstance(problem, Mapping) or not problem.get("is_mended_by_restart"):
            continue
        # a loop is found stuck only after `supervision.stuck_max_s`
        limit_s = limits.silence_max_s if problem.get("kind") in ("memory", "stuck") else limits.unwell_s
        since_s = _number(problem.get("since_s"))
        if since_s > limit_s:
            return Assessment(How.UNWELL, f"unwell for {since_s:.0f} s: {problem.get('text')}")
    memory_mb = _number(beat.get("memory_mb"))
    if memory_mb > 1.25 * spec.memory_max_mb:  # at once: the machine may run out first
        return Assessment(How.UNWELL, f"unwell: {memory_mb:.0f} MB resident, above {spec.memory_max_mb} MB")
    return WELL


def age_of(beat: Mapping[str, object]) -> float:
    """Return the age of the last turn of the child's work loop, in seconds."""
    return _number(beat.get("age_s"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


@dataclass(slots=True)
class LivenessWatch:
    """One child that is up: the time of its next call, the call's time limit, and the meaning of the answer.

    A look is a pause, then a call. A fresh heartbeat in shared memory replaces the call.
    """

    spec: ChildSpec
    limits: LivenessLimits
    answered_s: float  # the last sign of life
    pause_s: float = field(init=False)  # before the next call
    _look_s: float = field(init=False)  # the beginning of this look
    _timeout_s: float = field(init=False, default=0.0)  # of its call

    def __post_init__(self) -> None:
        self.pause_s, self._look_s = self.limits.heartbeat_s, self.answered_s

    @property
    def is_suspect(self) -> bool:
        """Return whether the child has to be called sooner than after a heartbeat interval."""
        return self.pause_s < self.limits.heartbeat_s

    def begin_look(self, now_s: float) -> None:
        """Begin a look: the pause runs from now."""
        self._look_s = now_s

    def note_heartbeat(self, beat: Mapping[str, object], now_s: float) -> bool:
        """Return whether a heartbeat read from shared memory shows that the child is well: then the look begins again.

        A child with a late heartbeat or a problem has to be called.
        """
        if age_of(beat) > self.limits.heartbeat_s:
            return False
        if assess(beat, silence_s=0.0, spec=self.spec, limits=self.limits).how is not None:
            return False
        self.answered_s = self._look_s = now_s
        return True

    def call_timeout_s(self, now_s: float) -> float:
        """Return how long the call of this look may take: until the silence is too long. Calls are expensive, so one
        call waits for all of that time."""
        self._timeout_s = max(self.answered_s + self.limits.silence_max_s - now_s, 0.0) + LOOK_S
        return self._timeout_s

    def take(self, beat: Mapping[str, object] | None, now_s: float) -> Assessment:
        """Return what the answer of this look means, None for no answer.

        When the look took longer than its pause and its call, the supervisor itself stood still: the child could have
        answered meanwhile, so its silence begins now.
        """
        supervisor_late_s = now_s - self._look_s - self.pause_s - self._timeout_s
        if beat is not None or supervisor_late_s > self.limits.heartbeat_s:
            self.answered_s = now_s
        self.pause_s = self._pause_s(beat)
        return assess(beat, silence_s=now_s - self.answered_s, spec=self.spec, limits=self.limits)

    def _pause_s(self, beat: Mapping[str, object] | None) -> float:
        """Return the pause after an answer: a loop that stands still is called when its limit is reached, not a
        heartbeat later."""
        age_s = age_of(beat) if beat is not None else 0.0
        if age_s <= self.limits.heartbeat_s:
            return self.limits.heartbeat_s
        return min(self.limits.heartbeat_s, max(self.limits.silence_max_s - age_s, 0.0) + LOOK_S)


class StartStep(StrEnum):
    """The step that follows a beat of a child that starts."""

    UP = "up"
    BEGIN = "begin"  # it need not wait for its predecessor's lease any longer
    WAIT = "wait"
    LATE = "late"


@dataclass(slots=True)
class StartWatch:
    """One child that starts: its deadline, `start_s` after its wait.

    `wait_s` counts from `raised_s`, when the epoch was raised and the predecessor could not renew its lease any more:
    placing the child on another machine may have taken longer than that already. While the child waits for a dependency
    its deadline does not run.
    """

    start_s: float
    wait_s: float
    raised_s: float
    begun_s: float
    _deadline_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline_s = self.begun_s + self.start_s + self.wait_s

    @property
    def silence_max_s(self) -> float:
        """Return how long a child that has answered once may be silent while it starts. More than a child that is up:
        its imports may hold the interpreter for a while; its share of the deadline, so that a late one has longer."""
        return self.start_s * START_SILENCE

    def take(self, state: object, now_s: float) -> StartStep:
        """Return what follows from the state in a beat."""
        if state not in COMING:
            return StartStep.UP
        if state == "waiting":
            self._deadline_s = now_s + self.start_s
        if self.wait_s and now_s - self.raised_s >= self.wait_s:
            self.wait_s = 0.0
            return StartStep.BEGIN
        return StartStep.LATE if now_s > self._deadline_s else StartStep.WAIT
