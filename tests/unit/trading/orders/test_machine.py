"""The transition table: complete, never raising, and right about the cases that cost others money."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from fks.model.order import LIVE, OPEN, TERMINAL, Request, State, evolve
from fks.trading.orders import events as e
from fks.trading.orders.machine import QUARANTINE, TRANSITIONS, Act, Step, advance, begin
from scripts.orders_page import PAGE, rewritten
from tests.support.order_values import a_fill, a_report, an_order

D = Decimal


def event(kind: type[e.Event], **fields: Any) -> e.Event:
    """Return an event of a kind with plausible fields."""
    defaults: dict[type[e.Event], dict[str, Any]] = {
        e.Denied: {"code": "BALANCE"},
        e.Refused: {"code": "-2010"},
        e.Replayed: {"epoch": 2},
        e.Acked: {"report": a_report(State.WORKING)},
        e.Reported: {"report": a_report(State.WORKING, time_ns=9)},
        e.FillSeen: {"fill": a_fill()},
        e.Busted: {"fill_id": UUID(int=1), "quantity": D(4), "price": D(100)},
        e.FoundAbsent: {"polls": 3, "age_s": 30.0},
        e.Settled: {"outcome": State.CANCELLED, "by": "ann", "reason": "seen at the venue"},
        e.CancelRefused: {"code": "UNKNOWN_ORDER"},
        e.ReplaceAcked: {"quantity": D(5), "price": D(1)},
        e.ReplaceRefused: {"code": "-2011"},
        e.LegReported: {"report": a_report(State.WORKING)},
        e.LegChanged: {"quantity": D(5), "price": None, "stop_price": D(1)},
        e.StopMoved: {"stop_loss": D(95), "bar_ns": 1},
        e.TargetMoved: {"take_profit": D(120), "bar_ns": 1},
        e.ProtectionDropped: {"by": "ann"},
        e.SharesSplit: {"new": 4, "old": 1, "before": D(10)},
    }
    return kind(**({"event_id": "x", "venue_time_ns": 9} | defaults.get(kind, {}) | fields))


def test_all_forty_nine_rows_are_there() -> None:
    assert {row.number for row in TRANSITIONS} | {QUARANTINE.number} == set(range(1, 50))


def test_every_state_and_every_event_has_a_row() -> None:
    assert {row.event for row in TRANSITIONS} == set(e.EVENTS)
    assert {state for row in TRANSITIONS for state in row.states or ()} == set(State)


def test_the_docs_show_the_tables_the_code_runs() -> None:
    assert PAGE.read_text() == rewritten(PAGE.read_text()), "docs/orders.md is old: python scripts/orders_page.py"


@pytest.mark.parametrize("answer", [e.ReplaceRefused, e.RequestAmbiguous])
def test_a_replacement_of_an_order_that_is_not_listed_ends_with_its_next_report(answer: type[e.Event]) -> None:
    order = an_order(state=State.ACCEPTED, is_acknowledged=True)
    for kind in (e.ReplaceRequested, e.NotListed, answer, e.Reported):
        order = advance(order, event(kind, source="rest")).order
    assert (order.state, order.request) == (State.WORKING, Request.NONE)


@pytest.mark.parametrize("state", State)
def test_no_pair_raises_and_no_fill_is_refused(state: State) -> None:
    for kind, request in product(e.EVENTS, Request):
        step = advance(an_order(state=state, request=request), event(kind))
        assert step.before is state
        if kind is e.FillSeen:
            assert {Act.BOOK, Act.BOOK_EXTERNAL} & set(step.acts), (state, request)
        if step.order.state in TERMINAL and step.order.state is not state:
            assert step.order.request is Request.NONE, (state, kind, request)


@pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED, State.REJECTED, State.ABSENT])
def test_a_fill_after_the_end_is_booked_late_and_ends_the_order(state: State) -> None:
    step = advance(an_order(state=state), event(e.FillSeen))
    assert (step.order.state, step.order.is_late, step.order.filled) == (State.PARTIAL, True, D(4))
    assert {Act.BOOK, Act.PROTECT, Act.ASK, Act.ALERT} <= set(step.acts)
    full = advance(step.order, event(e.FillSeen, fill=a_fill(2, quantity=D(6))))
    assert (full.order.state, full.order.is_late) == (State.FILLED, True)


@pytest.mark.parametrize("state", [State.DENIED, State.ABANDONED])
def test_an_impossible_fill_is_booked_as_external_and_halts(state: State) -> None:
    step = advance(an_order(state=state), event(e.FillSeen))
    assert (step.number, step.order.state, step.order.filled) == (40, state, 0)
    assert {Act.BOOK_EXTERNAL, Act.PAGE, Act.HALT} <= set(step.acts)


def test_a_fill_that_the_last_report_counted_is_not_late() -> None:
    ended = advance(an_order(state=State.WORKING), event(e.Reported, report=a_report(State.CANCELLED, 4, 5))).order
    assert (ended.state, ended.reported_cum_qty) == (State.CANCELLED, D(4))
    step = advance(ended, event(e.FillSeen))
    assert (step.order.state, step.order.is_late, step.order.filled) == (State.CANCELLED, False, D(4))
    beyond = advance(step.order, event(e.FillSeen, fill=a_fill(2, quantity=D(1))))
    assert (beyond.number, beyond.order.state) == (36, State.PARTIAL)


def test_working_never_follows_filled() -> None:
    filled = advance(an_order(state=State.WORKING), event(e.FillSeen, fill=a_fill(quantity=D(10)))).order
    step = advance(filled, event(e.Reported, report=a_report(State.WORKING, 0, 99)))
    assert (step.number, step.order.state) == (41, State.FILLED)


def test_an_open_report_with_the_end_s_time_came_before_the_end() -> None:
    ended = advance(an_order(state=State.WORKING), event(e.Reported, report=a_report(State.CANCELLED, 0, 9))).order
    assert advance(ended, event(e.Reported, report=a_report(State.WORKING, 0, 9))).number == 41
    alive = advance(ended, event(e.Reported, report=a_report(State.WORKING, 0, 10)))
    assert (alive.number, alive.order.state, alive.order.is_late) == (37, State.WORKING, True)
    assert Act.CANCEL_UNLESS_VALID in alive.acts


@pytest.mark.parametrize("state", [State.CANCELLED, State.FILLED, State.ABSENT, State.UNKNOWN])
def test_an_order_that_ended_while_it_was_asked_about_is_not_missed(state: State) -> None:
    step = advance(an_order(state=state), event(e.NotListed))
    assert (step.order.state, step.is_quarantined, step.acts) == (state, False, ())


@pytest.mark.parametrize("state", sorted(set(State) - OPEN))
def test_an_order_that_ended_while_the_session_was_lost_sends_no_page(state: State) -> None:
    step = advance(an_order(state=state), event(e.SessionBroke))
    assert (step.order.state, step.is_quarantined, step.acts) == (state, False, ())


def test_an_order_that_is_given_up_twice_is_given_up_once() -> None:
    given_up = advance(an_order(state=State.INTENDED), event(e.Abandoned)).order
    step = advance(given_up, event(e.Abandoned))
    assert (step.order.state, step.is_quarantined, step.acts) == (State.ABANDONED, False, ())
    assert advance(an_order(state=State.SENDING), event(e.Abandoned)).is_quarantined


def test_more_than_asked_is_booked_and_paged() -> None:
    filled = an_order(state=State.FILLED, filled=D(10), reported_cum_qty=D(10), is_acknowledged=True)
    step = advance(filled, event(e.FillSeen))
    assert (step.number, step.order.state, step.order.is_overfilled, step.order.filled) == (
        38,
        State.FILLED,
        True,
        D(14),
    )
    assert Act.PAGE in step.acts


def test_a_bust_takes_back_what_a_fill_gave() -> None:
    order = an_order(state=State.PARTIAL, filled=D(4), average_price=D(100), reported_cum_qty=D(4))
    step = advance(order, event(e.Busted))
    assert (step.order.state, step.order.filled, step.order.average_price) == (State.WORKING, 0, None)
    done = an_order(state=State.FILLED, filled=D(10), average_price=D(100), reported_cum_qty=D(10))
    assert advance(done, event(e.Busted)).order.state is State.CANCELLED


def test_a_wanted_cancel_goes_out_when_the_order_proves_open() -> None:
    wanted = advance(an_order(state=State.UNKNOWN), event(e.CancelRequested))
    assert (wanted.order.request, wanted.acts) == (Request.CANCEL_WANTED, ())
    found = advance(wanted.order, event(e.Reported))
    assert (found.order.state, found.order.request) == (State.WORKING, Request.CANCEL)
    assert Act.SEND_CANCEL in found.acts


def test_a_lost_cancel_is_asked_about_and_repeated_by_a_request_alone() -> None:
    asked = advance(an_order(state=State.WORKING), event(e.CancelRequested)).order
    lost = advance(asked, event(e.RequestAmbiguous))
    assert (lost.order.request, lost.acts) == (Request.CANCEL_UNKNOWN, (Act.ASK,))
    open_ = advance(lost.order, event(e.Reported, source="rest"))
    assert (open_.order.request, open_.acts) == (Request.CANCEL_UNKNOWN, ()), "its owner decides"
    again = advance(open_.order, event(e.CancelRequested))
    assert (again.number, again.order.request, again.acts) == (29, Request.CANCEL, (Act.SEND_CANCEL,))
    gone = advance(again.order, event(e.CancelRefused))
    assert (gone.number, gone.order.state) == (32, State.WORKING)
    end = advance(gone.order, event(e.Reported, report=a_report(State.FILLED, 10, 10)))
    assert (end.order.state, end.order.request) == (State.FILLED, Request.NONE)
    assert Act.FETCH_FILLS in end.acts


@pytest.mark.parametrize("answer", [e.CancelRefused, e.RequestAmbiguous])
@pytest.mark.parametrize("is_answered_first", [False, True])
def test_a_withdrawn_cancel_is_not_repeated(answer: type[e.Event], *, is_answered_first: bool) -> None:
    order = advance(an_order(state=State.WORKING), event(e.CancelRequested)).order
    for kind in (answer, e.CancelWithdrawn) if is_answered_first else (e.CancelWithdrawn, answer):
        step = advance(order, event(kind))
        order = step.order
        assert (step.is_quarantined, step.acts) == (False, (Act.ASK,))
    found = advance(order, event(e.Reported, source="rest"))
    assert (found.order.state, found.order.request, found.acts) == (State.WORKING, Request.NONE, ())


def test_a_withdrawn_cancel_that_had_left_ends_the_order() -> None:
    asked = advance(an_order(state=State.WORKING), event(e.CancelRequested)).order
    acked = advance(advance(asked, event(e.CancelWithdrawn)).order, event(e.CancelAcked))
    assert (acked.order.state, acked.is_quarantined) == (State.CANCELLED, False)


def test_a_wanted_cancel_that_was_withdrawn_never_goes_out() -> None:
    wanted = advance(an_order(state=State.UNKNOWN), event(e.CancelRequested)).order
    found = advance(advance(wanted, event(e.CancelWithdrawn)).order, event(e.Reported))
    assert (found.order.request, Act.SEND_CANCEL in found.acts) == (Request.NONE, False)


def test_only_an_older_epoch_makes_sending_unknown() -> None:
    assert advance(an_order(epoch=1), event(e.Replayed, epoch=2)).order.state is State.UNKNOWN
    assert advance(an_order(epoch=2), event(e.Replayed, epoch=2)).is_quarantined
    waiting = advance(an_order(state=State.INTENDED), event(e.Replayed))
    assert (waiting.order.state, waiting.acts) == (State.INTENDED, (Act.REEVALUATE,))


def test_what_was_acknowledged_is_never_found_absent() -> None:
    known = an_order(state=State.UNKNOWN, is_acknowledged=True)
    step = advance(known, event(e.FoundAbsent))
    assert (step.number, step.order.state, step.acts) == (19, State.UNKNOWN, (Act.PAGE,))
    assert advance(an_order(state=State.UNKNOWN), event(e.FoundAbsent)).order.state is State.ABSENT


@pytest.mark.parametrize("state", sorted(LIVE))
def test_missing_from_the_list_is_unknown_and_not_dead(state: State) -> None:
    step = advance(an_order(state=state, is_acknowledged=True), event(e.NotListed))
    assert (step.order.state, Act.ASK in step.acts) == (State.UNKNOWN, True)


def test_beginnings_are_rows_one_to_three() -> None:
    steps: list[Step] = [begin(an_order(), event(kind)) for kind in (e.Denied, e.IntendedAndSent, e.Intended)]
    assert [step.number for step in steps] == [1, 2, 3]
    assert [step.order.state for step in steps] == [State.DENIED, State.SENDING, State.INTENDED]
    assert [Act.WRITE in step.acts for step in steps] == [False, True, False]


def test_only_beginnings_and_waiting_orders_ever_write_bytes() -> None:
    writers = [row for row in TRANSITIONS if Act.WRITE in row.acts]
    assert {(row.number, row.states) for row in writers} == {(2, None), (4, frozenset({State.INTENDED}))}
    into_waiting = [
        (row.number, state)
        for row in TRANSITIONS
        for state in row.states or ()
        if state is not State.INTENDED
        and advance(an_order(state=state), event(row.event)).order.state in (State.INTENDED, State.SENDING)
        and state not in (State.SENDING,)
    ]
    assert into_waiting == [], "nothing leads back to a state from which bytes leave"


def test_open_and_terminal_are_all_there_is() -> None:
    assert set(State) == OPEN | TERMINAL
    assert not OPEN & TERMINAL


def test_a_changed_copy_equals_the_one_that_dataclasses_make() -> None:
    order = an_order(filled=D(3), detail="x")
    assert evolve(order, state=State.WORKING, filled=D(4)) == replace(order, state=State.WORKING, filled=D(4))
    assert evolve(order) == order
    with pytest.raises(TypeError, match="nonsense"):
        evolve(order, nonsense=1)
