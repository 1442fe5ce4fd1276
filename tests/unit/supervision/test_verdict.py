"""What a beat says of a child: well, hung, or unwell for so long that a new process is the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from fks.supervision.exits import How
from fks.supervision.spec import ChildSpec
from fks.supervision.verdict import Timing, judge

TIMING = Timing(heartbeat_s=1.0, misses_max=3, unwell_s=120.0)
SPEC = ChildSpec("a", "r", 1.0, memory_max_mb=1000)


def how(beat: dict[str, Any] | None, silence_s: float = 0.0) -> How | None:
    return judge(beat, silence_s=silence_s, spec=SPEC, timing=TIMING).how


def problem(since_s: float, *, kind: str = "queue", mends: bool = True) -> dict[str, Any]:
    found = {"kind": kind, "text": "it grows", "since_s": since_s, "is_mended_by_restart": mends}
    return {"state": "degraded", "age_s": 0.0, "problems": [found]}


def test_a_silent_process_and_a_loop_that_stands_still_are_both_hung_within_three_beats() -> None:
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
        ({"state": "ready", "age_s": 0.0, "memory_mb": 1200.0}, None),
        ({"state": "ready", "age_s": 0.0, "memory_mb": 1300.0}, How.UNWELL),
        ({**problem(121.0), "state": "starting"}, None),
        ({"state": "ready", "age_s": 0.0, "problems": ["nonsense"], "memory_mb": "?"}, None),
    ],
)
def test_only_what_a_new_process_may_mend_ends_one_and_only_after_a_while(
    beat: dict[str, Any], expected: How | None
) -> None:
    assert how(beat) is expected
