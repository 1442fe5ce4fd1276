"""Signals at the client: sent at most once for an id, repeated only in the same epoch."""

from __future__ import annotations

from typing import Any

import pytest

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja.session import Prepared, UnsentReason
from fks.bridge.ninja.signals import ENDED, TRANSITIONS, LinkSignalState, SignalInput, input_of_state
from tests.support.ninja import EPOCH, OTHER_EPOCH, Wire, ack, log_event, nack, signal


def ready(**how: Any) -> Wire:
    wire = Wire.of(**how)
    wire.to_ready()
    wire.lines.clear()
    return wire


def prepared(wire: Wire, signal_id: str, **changes: Any) -> Prepared:
    found = wire.session.prepare(signal(signal_id, wire.clock.now_ms, **changes))
    assert isinstance(found, Prepared)
    return found


def sent(wire: Wire, signal_id: str, **changes: Any) -> Prepared:
    found = prepared(wire, signal_id, **changes)
    assert wire.session.send(found) is None
    wire.pull()
    return found


def states(wire: Wire, signal_id: str) -> list[LinkSignalState]:
    return [event.state for event in wire.seen(o.SignalChanged) if event.id == signal_id]


def sigstate(query: dict[str, Any], state: str, **fields: Any) -> dict[str, Any]:
    return {
        "t": "sigstate",
        "rid": query["rid"],
        "id": query["id"],
        "state": state,
        "filled": 0,
        "avg_price": None,
        **fields,
    }


def test_an_ack_answers_a_signal() -> None:
    wire = ready()
    sent(wire, "a1")
    assert wire.pop("signal")["id"] == "a1"
    wire.give(ack("a1", price_used=4500))
    assert states(wire, "a1") == [LinkSignalState.ACKED]
    answer = wire.seen(o.SignalChanged)[-1].message
    assert isinstance(answer, m.Ack)
    assert answer.order == "FKS:a1:E"
    assert wire.session.signals_open() == {}


def test_a_final_nack_has_its_code() -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give(nack("a1", "expired_contract", final=True))
    changed = wire.seen(o.SignalChanged)[-1]
    assert (changed.state, changed.code) == (LinkSignalState.NACKED, "expired_contract")


@pytest.mark.parametrize("answered", [True, False])
def test_an_id_is_never_sent_twice(answered: bool) -> None:
    wire = ready()
    line = sent(wire, "a1")
    if answered:
        wire.give(ack("a1"))
    assert wire.session.send(line) is UnsentReason.KNOWN_ID
    assert wire.session.send(prepared(wire, "a1", qty=2)) is UnsentReason.KNOWN_ID
    assert wire.session.adopt(line) is UnsentReason.KNOWN_ID
    wire.pull()
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def test_the_same_line_may_follow_a_nack_that_is_not_final() -> None:
    wire = ready()
    line = sent(wire, "a1")
    wire.give(nack("a1", "rate_limited", final=False))
    assert wire.session.signals_open() == {"a1": LinkSignalState.RETRYABLE}
    assert wire.session.retry("a1") is None
    wire.pull()
    assert [one for one in wire.raw if b'"t":"signal"' in one] == [line.line, line.line]
    wire.give(ack("a1"))
    assert states(wire, "a1") == [LinkSignalState.RETRYABLE, LinkSignalState.SENT, LinkSignalState.ACKED]


def test_a_retry_after_the_end_of_validity_drops_the_signal() -> None:
    wire = ready()
    sent(wire, "a1", valid_until=wire.clock.now_ms + 1_000)
    wire.give(nack("a1", "rate_limited", final=False))
    wire.advance(1_000)
    assert wire.session.retry("a1") is None
    wire.pull()
    assert states(wire, "a1")[-1] is LinkSignalState.DROPPED
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def lost_and_back(wire: Wire, **fields: Any) -> dict[str, Any]:
    """Lose the connection, come back, and return the query that the session sends."""
    wire.lose()
    wire.to_ready(**fields)
    return next(line for line in wire.lines if line["t"] == "query")


def test_an_unanswered_signal_is_queried_and_sent_again_if_unknown() -> None:
    wire = ready()
    line = sent(wire, "a1")
    query = lost_and_back(wire)
    assert states(wire, "a1") == [LinkSignalState.UNANSWERED, LinkSignalState.QUERIED]
    wire.give(sigstate(query, "unknown_id"))
    assert [one for one in wire.raw if b'"t":"signal"' in one] == [line.line, line.line]
    wire.give(ack("a1"))
    assert states(wire, "a1")[-2:] == [LinkSignalState.SENT, LinkSignalState.ACKED]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("working", LinkSignalState.ACKED),
        ("closed", LinkSignalState.ACKED),
        ("rejected", LinkSignalState.ACKED),
        ("nacked", LinkSignalState.NACKED),
        ("not_submitted", LinkSignalState.NACKED),
        ("indeterminate", LinkSignalState.INDETERMINATE),
        ("ambiguous", LinkSignalState.INDETERMINATE),
        ("something_new", LinkSignalState.INDETERMINATE),
    ],
)
def test_a_known_id_is_not_sent_again(answer: str, state: LinkSignalState) -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give(sigstate(lost_and_back(wire), answer))
    assert states(wire, "a1")[-1] is state
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def test_an_unknown_id_in_another_epoch_is_dropped() -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give(sigstate(lost_and_back(wire, epoch=OTHER_EPOCH), "unknown_id"))
    assert states(wire, "a1")[-1] is LinkSignalState.DROPPED
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def test_an_unknown_id_that_has_expired_is_dropped() -> None:
    wire = ready()
    sent(wire, "a1", valid_until=wire.clock.now_ms + 400)
    wire.give(sigstate(lost_and_back(wire), "unknown_id"))
    assert states(wire, "a1")[-1] is LinkSignalState.DROPPED


def test_an_event_may_answer_before_the_query_does() -> None:
    wire = ready()
    sent(wire, "a1")
    query = lost_and_back(wire, last_seq=0)
    wire.give(log_event(1, kind="signal", id="a1", state="submitted"))
    assert states(wire, "a1")[-1] is LinkSignalState.ACKED
    wire.give(sigstate(query, "unknown_id"))
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def test_an_indeterminate_signal_is_resolved_by_its_event() -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give({"t": "indeterminate", "id": "a1", "since_ms": 1, "detail": "x"})
    wire.give(log_event(1, kind="signal", id="a1", state="not_submitted", code="not_submitted"))
    assert states(wire, "a1") == [LinkSignalState.INDETERMINATE, LinkSignalState.NACKED]


def test_an_indeterminate_signal_is_queried_again_but_never_sent() -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give({"t": "indeterminate", "id": "a1", "since_ms": 1, "detail": "x"})
    wire.give(sigstate(lost_and_back(wire), "unknown_id"))
    assert wire.session.signals_open() == {"a1": LinkSignalState.INDETERMINATE}
    assert len([one for one in wire.raw if b'"t":"signal"' in one]) == 1


def test_a_bridge_that_does_not_answer_is_asked_for_the_state() -> None:
    wire = ready()
    sent(wire, "a1")
    for _ in range(5):
        wire.advance(1_000)
        wire.give_bytes(b"\n")
    assert states(wire, "a1") == [LinkSignalState.QUERIED]
    wire.give(ack("a1"))
    assert states(wire, "a1")[-1] is LinkSignalState.ACKED


def test_a_signal_of_an_earlier_process_is_queried() -> None:
    first = ready()
    line = prepared(first, "a1")
    wire = Wire.of()
    assert wire.session.adopt(line) is None
    wire.to_ready()
    query = next(one for one in wire.lines if one["t"] == "query")
    assert not [one for one in wire.raw if b'"t":"signal"' in one]
    wire.give(sigstate(query, "unknown_id"))
    assert [one for one in wire.raw if b'"t":"signal"' in one] == [line.line]


def test_nothing_is_sent_without_a_ready_connection() -> None:
    wire = Wire.of()
    assert wire.session.prepare(signal("a1")) is UnsentReason.NOT_READY
    wire.to_ready()
    line = prepared(wire, "a1")
    wire.advance(4_000)
    assert wire.session.state is LinkState.SUSPECT
    assert wire.session.send(line) is UnsentReason.SUSPECT
    wire.lose()
    assert wire.session.send(line) is UnsentReason.NOT_READY
    wire.to_ready(epoch=OTHER_EPOCH)
    assert wire.session.send(line) is UnsentReason.EPOCH_CHANGED
    assert not [one for one in wire.raw if b'"t":"signal"' in one]


def test_an_expired_signal_is_not_sent() -> None:
    wire = ready()
    line = prepared(wire, "a1", valid_until=wire.clock.now_ms + 500)
    wire.advance(500)
    assert wire.session.send(line) is UnsentReason.EXPIRED


def test_an_answer_for_another_signal_changes_nothing() -> None:
    wire = ready()
    sent(wire, "a1")
    wire.give(ack("b2"), nack("b3", "expired", final=True))
    assert wire.session.signals_open() == {"a1": LinkSignalState.SENT}


def test_only_two_rows_write_a_line_and_each_needs_the_same_journal() -> None:
    writing = [row for row in TRANSITIONS if any(act.name == "WRITE" for act in row.acts)]
    assert [(row.input, row.is_repeatable) for row in writing] == [
        (SignalInput.UNKNOWN_ID, True),
        (SignalInput.RETRY, True),
    ]
    assert not [row for row in TRANSITIONS if row.states & ENDED]
    assert {row.input for row in TRANSITIONS} == set(SignalInput)


def test_every_state_of_the_bridge_has_a_meaning() -> None:
    assert input_of_state("open") is SignalInput.FOUND
    assert input_of_state("unheard_of") is SignalInput.UNRESOLVED
    assert EPOCH != OTHER_EPOCH
