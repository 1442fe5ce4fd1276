"""Liveness of a child from its beats: well, hung, unwell, and when it is called next."""

from __future__ import annotations

from typing import Any

import pytest

from fks.system.supervision.exits import How
from fks.system.supervision.liveness import LOOK_S, LivenessLimits, LivenessWatch, StartStep, StartWatch, assess
from fks.system.supervision.spec import ChildSpec

LIMITS = LivenessLimits(heartbeat_s=1.0, misses_max=3, unwell_s=120.0)
SPEC = ChildSpec("a", "r", 1.0, memory_max_mb=1000)


def how(beat: dict[str, Any] | None, silence_s: float = 0.0) -> How | None:
    return assess(beat, silence_s=silence_s, spec=SPEC, limits=LIMITS).how


def problem(since_s: float, *, kind: str = "queue", mends: bool = True) -> dict[str, Any]:
    found = {"kind": kind, "text": "it grows", "since_s": since_s, "is_mended_by_restart": mends}
    return {"state": "degraded", "age_s": 0.0, "problems": [found]}


def test_silent_process_and_blocked_loop_are_hung_within_three_beats() -> None:
    assert how(None, 2.6) is None
    assert how(None, 2.7) is How.HUNG
    assert how({"age_s": 2.6, "state": "ready"}) is None
    assert how({"age_s": 2.8, "state": "ready"}) is How.HUNG


@pytest.mark.parametrize(
    ("beat", "expected"),
    [
        (problem(119.0), None),
        (problem(121.0), How.UNWELL),
        (problem(9999.0, mends=False), None),
        (problem(2.0, kind="memory"), None),
        (problem(4.0, kind="memory"), How.UNWELL),
        (problem(4.0, kind="stuck"), How.UNWELL),
        ({"state": "ready", "age_s": 0.0, "memory_mb": 1200.0}, None),
        ({"state": "ready", "age_s": 0.0, "memory_mb": 1300.0}, How.UNWELL),
        ({**problem(121.0), "state": "starting"}, None),
        ({"state": "ready", "age_s": 0.0, "problems": ["nonsense"], "memory_mb": "?"}, None),
    ],
)
def test_only_lasting_problems_that_a_restart_may_end_do_end_a_child(
    beat: dict[str, Any], expected: How | None
) -> None:
    assert how(beat) is expected


WELL_BEAT: dict[str, Any] = {"state": "ready", "age_s": 0.1}


def test_fresh_heartbeat_replaces_the_call_and_renews_the_patience() -> None:
    watch = LivenessWatch(SPEC, LIMITS, 10.0)
    watch.begin_look(10.0)
    assert watch.note_heartbeat(WELL_BEAT, 12.0)
    assert watch.call_timeout_s(12.0) == pytest.approx(2.7 + LOOK_S)


@pytest.mark.parametrize("beat", [{"state": "ready", "age_s": 1.5}, problem(121.0)])
def test_late_or_unwell_heartbeat_needs_a_call(beat: dict[str, Any]) -> None:
    watch = LivenessWatch(SPEC, LIMITS, 10.0)
    assert not watch.note_heartbeat(beat, 11.0)
    assert watch.call_timeout_s(11.0) == pytest.approx(1.7 + LOOK_S)


def test_call_without_an_answer_is_a_hung_child() -> None:
    watch = LivenessWatch(SPEC, LIMITS, 10.0)
    watch.begin_look(10.0)
    timeout_s = watch.call_timeout_s(11.0)
    assert watch.take(None, 11.0 + timeout_s).how is How.HUNG


def test_supervisor_that_stood_still_does_not_count_its_own_silence() -> None:
    watch = LivenessWatch(SPEC, LIMITS, 10.0)
    watch.begin_look(10.0)
    timeout_s = watch.call_timeout_s(11.0)
    assert watch.take(None, 11.0 + timeout_s + 60.0).how is None


def test_loop_that_stands_still_is_called_when_its_limit_is_reached() -> None:
    watch = LivenessWatch(SPEC, LIMITS, 10.0)
    watch.begin_look(10.0)
    watch.call_timeout_s(11.0)
    assert watch.take({"state": "ready", "age_s": 2.0}, 11.0).how is None
    assert watch.is_suspect
    assert watch.pause_s == pytest.approx(0.7 + LOOK_S)
    assert watch.take(WELL_BEAT, 11.5).how is None
    assert not watch.is_suspect


def test_start_is_late_after_its_deadline_and_the_lease_it_waits_for() -> None:
    watch = StartWatch(start_s=5.0, wait_s=2.0, raised_s=0.0, begun_s=0.0)
    assert watch.take("starting", 1.9) is StartStep.WAIT
    assert watch.take("starting", 2.0) is StartStep.BEGIN
    assert watch.take("starting", 7.0) is StartStep.WAIT
    assert watch.take("starting", 7.1) is StartStep.LATE
    assert watch.take("ready", 7.2) is StartStep.UP


def test_wait_for_the_lease_counts_from_the_raised_epoch() -> None:
    watch = StartWatch(start_s=5.0, wait_s=2.0, raised_s=0.0, begun_s=10.0)  # placing it took ten seconds
    assert watch.take("starting", 10.0) is StartStep.BEGIN


def test_deadline_does_not_run_while_a_dependency_is_away() -> None:
    watch = StartWatch(start_s=5.0, wait_s=0.0, raised_s=0.0, begun_s=0.0)
    assert watch.take("waiting", 100.0) is StartStep.WAIT
    assert watch.take("starting", 104.9) is StartStep.WAIT
    assert watch.take("starting", 105.1) is StartStep.LATE
