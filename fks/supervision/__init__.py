"""Restart policy as pure functions over child specs: OTP's rules, with time as an argument.

In comes what happened (a child exited, a beat was missed) and when; out comes what to do (start, stop, wait, give up).
The room knows no child by name and touches nothing: `actors.supervisor` performs what it decides.
"""

from fks.supervision.policy import Decision, GiveUp, Restart, Wait, backoff_s, decide_exit, is_hung, note_restart
from fks.supervision.spec import ChildSpec, Intensity, RestartType, check_tree, start_waves, stop_order

__all__ = [
    "ChildSpec",
    "Decision",
    "GiveUp",
    "Intensity",
    "Restart",
    "RestartType",
    "Wait",
    "backoff_s",
    "check_tree",
    "decide_exit",
    "is_hung",
    "note_restart",
    "start_waves",
    "stop_order",
]
