"""The auditor's fold of order events: it agrees with the machine on every history, and finds each row that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.lab.chaos.fold import journal_errors
from fks.model.order import QUARANTINE_ROW, Order, State
from fks.trading.order_manager.ledger import payload_of, quantity_of
from fks.trading.orders import events as e
from fks.trading.orders.machine import Step, advance, begin
from tests.support.order_values import a_fill, a_report, an_order

D = Decimal
Row = dict[str, Any]
VENUE_STATES = (
    State.ACCEPTED,
    State.WORKING,
    State.PARTIAL,
    State.FILLED,
    State.CANCELLED,
    State.EXPIRED,
    State.REJECTED,
)
SOURCES = st.sampled_from(["rest", "stream", "reconcile"])


def record(event: e.Event, step: Step) -> Row:
    """Return the row that the journal keeps of a step."""
    order, before, number = step.order, step.before, step.number
    return {
        "client_order_id": order.client_order_id,
        "event_id": event.event_id,
        "event": type(event).__name__,
        "from_state": None if before is None else before.value,
        "to_state": order.state.value,
        "source": event.source,
        "payload": {"row": number, **quantity_of(step), **payload_of(event)},
    }


def row_of(order: Order) -> Row:
    return {
        "client_order_id": order.client_order_id,
        "state": order.state.value,
        "quantity": order.quantity,
        "filled": order.filled,
        "request": order.request.value,
    }


def live_through(first: e.Event, events: list[e.Event]) -> tuple[Row, list[Row], list[Row]]:
    """Return an order's row, its event rows and its executions after the machine took the events."""
    step = begin(an_order(), first)
    order, rows, trades, seen = step.order, [record(first, step)], [], set()
    for event in events:
        if isinstance(event, e.FillSeen):
            if event.fill.fill_id in seen:
                continue
            seen.add(event.fill.fill_id)
        step = advance(order, event)
        is_fill = isinstance(event, e.FillSeen)
        unstamped = replace(step.order, epoch=order.epoch, updated_ns=order.updated_ns)
        if unstamped != order or is_fill or step.is_impossible_fill or step.is_quarantined:
            rows.append(record(event, step))
        if is_fill and step.order.filled != order.filled:
            assert isinstance(event, e.FillSeen)
            trades.append({"client_order_id": order.client_order_id, "fill_id": event.fill.fill_id})
        order = step.order
    return row_of(order), rows, trades


def stamp(number: int, source: str = "rest") -> dict[str, Any]:
    return {"event_id": f"e{number}", "source": source, "venue_time_ns": number, "recv_ns": number}


@st.composite
def histories(draw: st.DrawFn) -> tuple[e.Event, list[e.Event]]:
    """Return a first event and what happens to the order then, in any order that a venue may say it."""
    leg = a_report(draw(st.sampled_from(VENUE_STATES)), draw(st.sampled_from([0, 4, 10])), 0, quantity=D(10))
    first: e.Event = draw(
        st.sampled_from([e.IntendedAndSent(**stamp(0)), e.Intended(**stamp(0)), e.LegReported(**stamp(0), report=leg)])
    )
    is_leg = isinstance(first, e.LegReported)
    found: list[e.Event] = []
    for number in range(1, draw(st.integers(1, 14))):
        source = draw(SOURCES)
        report = a_report(draw(st.sampled_from(VENUE_STATES)), draw(st.sampled_from([0, 4, 10])), number)
        found.append(
            draw(
                st.sampled_from(
                    [
                        e.Sent(**stamp(number)),
                        e.Abandoned(**stamp(number)),
                        e.Acked(**stamp(number), report=report),
                        e.Refused(**stamp(number), code="NO"),
                        e.Ambiguous(**stamp(number)),
                        e.DuplicateId(**stamp(number)),
                        e.Replayed(**stamp(number), epoch=2),
                        e.Reported(**stamp(number, source), report=report),
                        e.FillSeen(**stamp(number, source), fill=a_fill(draw(st.integers(1, 4)))),
                        e.SessionBroke(**stamp(number)),
                        e.NotListed(**stamp(number)),
                        e.FoundAbsent(**stamp(number), polls=5, age_s=9.0),
                        e.Settled(**stamp(number), outcome=State.CANCELLED, by="me", reason="seen"),
                        e.CancelRequested(**stamp(number)),
                        e.CancelWithdrawn(**stamp(number)),
                        e.CancelAcked(**stamp(number)),
                        e.CancelRefused(**stamp(number), code="UNKNOWN_ORDER"),
                        e.RequestAmbiguous(**stamp(number)),
                        e.ReplaceRequested(**stamp(number)),
                        e.ReplaceRefused(**stamp(number), code="NO"),
                        e.ReplaceAcked(**stamp(number), quantity=D(draw(st.sampled_from([4, 6]))), price=None),
                    ]
                    + [e.StopMoved(**stamp(number), stop_loss=D(95), bar_ns=1)]
                    + [e.ProtectionDropped(**stamp(number), by="me")]
                    + [e.LegChanged(**stamp(number), quantity=D(8), price=None, stop_price=D(90))] * is_leg
                )
            )
        )
    return first, found


@given(histories())
def test_the_fold_makes_of_every_history_what_the_machine_made(history: tuple[e.Event, list[e.Event]]) -> None:
    order, events, trades = live_through(*history)
    found = [texts for texts in journal_errors([order], events, trades) if "in quarantine" not in texts]
    assert found == []


def a_history() -> tuple[Row, list[Row], list[Row]]:
    """Return an order that was filled in two parts, after a crash and a question."""
    return live_through(
        e.IntendedAndSent(**stamp(0)),
        [
            e.Replayed(**stamp(1), epoch=2),
            e.Reported(**stamp(2), report=a_report(State.PARTIAL, 4, 2)),
            e.FillSeen(**stamp(3), fill=a_fill(1)),
            e.FillSeen(**stamp(4), fill=a_fill(2, quantity=D(6))),
        ],
    )


def test_executions_count_against_the_quantity_of_their_time() -> None:
    """An amendment to 6 was answered by nobody, the order executed 6, and only then was the new quantity read."""
    order, events, trades = live_through(
        e.IntendedAndSent(**stamp(0)),
        [
            e.Acked(**stamp(1), report=a_report(State.ACCEPTED, 0, 1)),
            e.ReplaceRequested(**stamp(2)),
            e.RequestAmbiguous(**stamp(3)),
            e.FillSeen(**stamp(4), fill=a_fill(1, quantity=D(6))),
            e.Reported(**stamp(5), report=a_report(State.FILLED, 6, 5, quantity=D(6))),
        ],
    )
    assert [row["to_state"] for row in events][-2:] == ["PARTIAL", "FILLED"]
    assert (order["quantity"], events[-1]["payload"]["quantity_before"]) == (D(6), "10")
    assert list(journal_errors([order], events, trades)) == []
    events[-2]["to_state"] = "FILLED"
    assert any("legal is PARTIAL" in error for error in journal_errors([order], events, trades))


Change = Callable[[Row, list[Row], list[Row]], object]
WRONG: list[tuple[str, Change]] = [
    ("is PARTIAL", lambda order, events, trades: order.update(state="PARTIAL")),
    ("its events make FILLED, filled 10", lambda order, events, trades: order.update(filled=D(4))),
    ("request cancel,", lambda order, events, trades: order.update(request="cancel")),
    ("legal is", lambda order, events, trades: events[1].update(to_state="WORKING")),
    ("the step before ended at", lambda order, events, trades: events.pop(1)),
    ("is booked, but not in its events", lambda order, events, trades: events.pop(3)),
    ("is in its events, but not booked", lambda order, events, trades: trades.pop()),
    ("which has no row", lambda order, events, trades: events.append(events[0] | {"client_order_id": "x"})),
    ("in quarantine", lambda order, events, trades: events[2]["payload"].update(row=QUARANTINE_ROW)),
    ("made it", lambda order, events, trades: events[0].update(event="Denied")),
]


@pytest.mark.parametrize(("texts", "change"), WRONG, ids=[texts for texts, _ in WRONG])
def test_a_row_that_its_events_do_not_make_is_found(texts: str, change: Change) -> None:
    order, events, trades = a_history()
    assert list(journal_errors([order], events, trades)) == []
    change(order, events, trades)
    errors = list(journal_errors([order], events, trades))
    assert any(texts in error for error in errors), errors


def test_an_order_of_the_guardian_is_folded_from_its_own_steps() -> None:
    order = row_of(an_order(state=State.FILLED, filled=D(10)))
    blank = {"client_order_id": order["client_order_id"], "from_state": None, "source": "guardian", "payload": {}}
    events = [
        blank | {"event": "Sending", "to_state": "SENDING"},
        blank | {"event": "Answered", "to_state": "WORKING"},
        blank
        | {
            "event": "FillSeen",
            "from_state": "WORKING",
            "to_state": "FILLED",
            "source": "stream",
            "payload": {"fill_id": "f", "quantity": "10"},
        },
    ]
    assert list(journal_errors([order], events, [{"client_order_id": order["client_order_id"], "fill_id": "f"}])) == []


def steps_beside_the_guardian() -> tuple[Row, list[Row], list[Row]]:
    """Return a flattening order whose end the guardian noted after the order manager had read it as SENDING."""
    order = row_of(an_order(state=State.FILLED, filled=D(10)))
    id = {"client_order_id": order["client_order_id"]}
    guardian = id | {"from_state": None, "source": "guardian", "payload": {}}
    report = {"says": "WORKING", "filled": "0", "row": 13}
    execution = {"fill_id": "f", "quantity": "10", "row": 22}
    stream = id | {"source": "stream"}
    events = [
        guardian | {"event": "sent", "to_state": "SENDING"},
        guardian | {"event": "ended", "to_state": "WORKING"},
        stream | {"event": "Reported", "from_state": "SENDING", "to_state": "WORKING", "payload": report},
        stream | {"event": "FillSeen", "from_state": "WORKING", "to_state": "FILLED", "payload": execution},
    ]
    return order, events, [id | {"fill_id": "f"}]


def test_a_step_may_start_before_what_the_guardian_noted_meanwhile() -> None:
    order, events, trades = steps_beside_the_guardian()
    assert list(journal_errors([order], events, trades)) == []


@pytest.mark.parametrize(("number", "state"), [(2, "UNKNOWN"), (3, "SENDING")])
def test_beside_the_guardian_other_steps_must_join(number: int, state: str) -> None:
    order, events, trades = steps_beside_the_guardian()
    events[number]["from_state"] = state
    errors = list(journal_errors([order], events, trades))
    assert any(f"starts at {state}" in error for error in errors), errors
