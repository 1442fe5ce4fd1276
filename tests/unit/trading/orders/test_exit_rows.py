"""Rows of the exit table by themselves: which one applies in a situation."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from fks.model.order import Side
from fks.model.signal import Kind
from fks.trading.orders.exits import Exit, ExitAct, ExitState, Situation, next_row
from tests.support.order_rig import signal_of

#: five are held, nothing is in the way
NOW = Situation(10.0, Side.SELL, False, False, Decimal(5), "", has_legs=False, has_attempt=False)


@pytest.mark.parametrize(
    ("state", "changes", "act"),
    [
        (ExitState.CLOSING, {"has_attempt": True}, ExitAct.NOTHING),  # it may still fill: no second one
        (ExitState.CLOSING, {"has_attempt": True, "is_flat": True}, ExitAct.NOTHING),
        (ExitState.CLOSING, {}, ExitAct.NEXT_ATTEMPT),
        (ExitState.WAITING, {}, ExitAct.SUBMIT),
        (ExitState.WAITING, {"has_legs": True}, ExitAct.CANCEL_LEGS),
        (ExitState.WAITING, {"postponed": "halted", "has_legs": True}, ExitAct.NOTHING),
        (ExitState.WAITING, {"quantity": Decimal(0)}, ExitAct.NOTHING),
        (ExitState.WAITING, {"is_flat": True, "has_legs": True}, ExitAct.FINISH_FLAT),
        (ExitState.WAITING, {"is_dust": True}, ExitAct.FINISH_DUST),
        (ExitState.CLEARING, {"has_legs": True}, ExitAct.NOTHING),
        (ExitState.CLEARING, {"has_legs": True, "now_s": 20.0}, ExitAct.GIVE_UP_CLEARING),
        (ExitState.CLEARING, {"postponed": "halted"}, ExitAct.GIVE_UP_CLEARING),
        (ExitState.CLEARING, {}, ExitAct.SUBMIT),
    ],
)
def test_the_row_that_applies(state: ExitState, changes: dict[str, object], act: ExitAct) -> None:
    exit_ = Exit(signal_of(Kind.EXIT), state=state, clear_by_s=20.0)
    assert next_row(exit_, replace(NOW, **changes)).act is act  # type: ignore[arg-type]


def test_nothing_is_done_while_the_last_attempt_is_waited_for() -> None:
    waiting = Exit(signal_of(Kind.EXIT), retry_at_s=11.0)
    assert next_row(waiting, NOW).act is ExitAct.NOTHING
    assert next_row(waiting, replace(NOW, now_s=11.0)).act is ExitAct.SUBMIT
    submitting = Exit(signal_of(Kind.EXIT), state=ExitState.CLOSING, is_submitting=True)
    assert next_row(submitting, NOW).act is ExitAct.NOTHING


def test_a_persons_end_waits_for_the_order_that_may_fill() -> None:
    ended = Exit(signal_of(Kind.EXIT), ended_by="me")
    assert next_row(ended, replace(NOW, has_attempt=True)).act is not ExitAct.FINISH_PERSON
    assert next_row(ended, NOW).act is ExitAct.FINISH_PERSON
