"""Supervision as a pure machine over specs of a tree: OTP's rules, with time as an argument.

Input: what happened (a child exited, a beat was missed, a person wants a restart) and when. Output: what to do
(find, start, stop, wait, page). The package knows no child by name and does no I/O: `fks.system.supervisor` performs
the decisions.
"""

from fks.system.supervision.exits import How, ProcessExit
from fks.system.supervision.machine import decide
from fks.system.supervision.policy import backoff_s, note_restart
from fks.system.supervision.spec import (
    ChildSpec,
    Containment,
    Intensity,
    RestartBackoff,
    SupervisorSpec,
    check_tree,
    start_waves,
)
from fks.system.supervision.state import TreeState

__all__ = [
    "ChildSpec",
    "Containment",
    "How",
    "Intensity",
    "ProcessExit",
    "RestartBackoff",
    "SupervisorSpec",
    "TreeState",
    "backoff_s",
    "check_tree",
    "decide",
    "note_restart",
    "start_waves",
]
