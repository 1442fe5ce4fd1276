"""Descriptions of the events of a child."""

from __future__ import annotations

from typing import Any

import pytest

from fks.system.monitor.history import describe
from fks.system.supervision.exits import How, ProcessExit


def _row(event: str, reason: str = "", end: ProcessExit | None = None) -> dict[str, Any]:
    return {"event": event, "reason": end.reason if end else reason, "payload": end.payload() if end else {}}


TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: no price\n'
DUMP = """Current thread 0x1 (most recent call first):
  File "/usr/lib/python3.11/ssl.py", line 770 in create_default_context
  File "/home/me/fks/trading/venues/session.py", line 214 in on_wire
  File "/home/me/fks/trading/venues/other.py", line 1 in outer
"""


@pytest.mark.parametrize(
    ("row", "what", "why"),
    [
        (
            _row(
                "exited", end=ProcessExit(How.CRASH, "died: worker exit type: SYSTEM_ERROR, end of file", True, None, 9)
            ),
            "died",
            "signal 9 (SIGKILL)",
        ),
        (
            _row("exited", end=ProcessExit(How.CRASH, "died", True, None, 9, is_inferred=True)),
            "died",
            "signal 9 (SIGKILL, it seems)",
        ),
        (
            _row("exited", end=ProcessExit(How.CRASH, "the process ended", True, 1, None, traceback=TRACE)),
            "died",
            "exit code 1, ValueError: no price",
        ),
        (
            _row("exited", end=ProcessExit(How.CRASH, "somebody else took its lease", True, 3)),
            "died",
            "exit code 3, somebody else took its lease",
        ),
        (
            _row("exited", end=ProcessExit(How.HUNG, "3 health calls unanswered", True, None, 9)),
            "hung, killed",
            "3 health calls unanswered",
        ),
        (
            _row("exited", end=ProcessExit(How.HUNG, "hung: no answer for 3.0 s", True, None, 9, traceback=DUMP)),
            "hung, killed",
            "no answer for 3.0 s, in on_wire (fks/trading/venues/session.py:214)",
        ),
        (
            _row(
                "exited",
                end=ProcessExit(
                    How.CRASH,
                    "died: signal SIGSEGV",
                    True,
                    None,
                    11,
                    traceback="Fatal Python error: Segmentation fault\n\n" + DUMP,
                ),
            ),
            "died",
            "signal 11 (SIGSEGV), Fatal Python error: Segmentation fault, in on_wire (fks/trading/venues/session.py:214)",
        ),
        (
            _row("exited", end=ProcessExit(How.CRASH, "died: signal SIGKILL", True, None, 9)),
            "died",
            "signal 9 (SIGKILL)",
        ),
        (_row("exited", end=ProcessExit(How.NORMAL, "asked", True, None, 9)), "ended in order", "asked"),
        (
            _row("exited", end=ProcessExit(How.NODE_LOST, "node w1 does not answer")),
            "lost with its node",
            "node w1 does not answer",
        ),
        (
            _row("exited", end=ProcessExit(How.NORMAL, "restart asked: new key", True, 0)),
            "ended in order",
            "restart asked: new key",
        ),
        ({**_row("exited", "redis (pid 12) died, signal 9"), "child": "redis"}, "died", "signal 9 (SIGKILL)"),
        (
            {**_row("exited", "raylet (pid 12) died, exit code 1"), "child": "gcs"},
            "died",
            "raylet (pid 12) died, exit code 1",
        ),
        (_row("exited", "died: gone"), "died", "gone"),
        (_row("exited", "normal"), "ended in order", "asked"),
        (
            _row(
                "exited",
                "died: The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
                "exit detail: Worker unexpectedly exits",
            ),
            "died",
            "its process ended without a word (kill -9, out of memory, a crash in native code)",
        ),
        (_row("started", "epoch 3"), "started", ""),
        (
            {
                **_row("escalated", end=ProcessExit(How.CRASH, "died", True, None, 9)),
                "reason": "more than 5 restarts in 60 s",
            },
            "escalated",
            "more than 5 restarts in 60 s",
        ),
        (_row("adopted", "found alive"), "taken over alive", "found alive"),
        (_row("something_new", "because"), "something new", "because"),
        (_row("exited", end=ProcessExit(How.CRASH, "", True, None, 250)), "died", "signal 250 (?)"),
    ],
)
def test_event_is_described_in_plain_text(row: dict[str, Any], what: str, why: str) -> None:
    found = describe(row)
    assert (found.what, found.why) == (what, why)


def test_a_row_that_is_odd_is_shown_all_the_same() -> None:
    assert describe({"event": "exited", "reason": None, "payload": None}).what == "died"
    assert describe({}).what == ""
