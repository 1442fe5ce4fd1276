"""An order and its venue as two machines: whatever is lost, doubled, late or reordered, both end with the same story.

The venue is the truth. What it says travels on two roads (answers, stream) that reorder, lose and repeat; the order
manager dies in between and replays. The invariants are those of docs/orders.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fks.model.order import LIVE, OPEN, TERMINAL, Fill, Order, Report, Request, State
from fks.trading.orders import events as e
from fks.trading.orders.machine import Act, Step, advance, begin
from tests.support.order_values import a_fill, a_report, an_order

D = Decimal
QUANTITY = D(10)


@dataclass
class TrueVenue:
    """The true state of the orders."""

    state: State | None = None  # None: the order never arrived
    filled: Decimal = field(default_factory=Decimal)
    fills: list[Fill] = field(default_factory=list)
    time: int = 1

    def report(self) -> Report:
        assert self.state is not None
        return a_report(self.state, self.filled, self.time)

    def tick(self) -> int:
        self.time += 1
        return self.time


class Lifecycle(RuleBasedStateMachine):
    """One order from its commit to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.venue = TrueVenue()
        self.road: list[e.Event] = []  # said by the venue and not delivered yet
        self.seen: set[str] = set()
        self.journal: list[e.Event] = []
        self.booked: dict[str, Fill] = {}
        self.writes = 0
        self.epoch = 1
        self.number = 0
        self.answered = False
        self.order: Order = an_order()

    # ── machinery ────────────────────────────────────────────────────────────────────────────────
    def stamp(self, name: str = "") -> dict[str, Any]:
        self.number += 1
        return {"event_id": name or f"e{self.number}", "recv_ns": self.number}

    def apply(self, event: e.Event) -> Step | None:
        if event.event_id in self.seen:
            return None
        self.seen.add(event.event_id)
        self.journal.append(event)
        step = advance(self.order, event)
        self.writes += Act.WRITE in step.acts
        assert not step.is_quarantined, (self.order.state, event)
        if isinstance(event, e.FillSeen):
            assert Act.BOOK in step.acts
            self.booked[event.event_id] = event.fill
        self.order = step.order
        return step

    def say(self, report: Report) -> None:
        name = f"r{report.state}:{report.filled}:{report.time_ns}"
        event = e.Reported(**self.stamp(name), source="stream", venue_time_ns=report.time_ns, report=report)
        self.road.append(event)

    # ── the send ─────────────────────────────────────────────────────────────────────────────────
    @initialize()
    def commit(self) -> None:
        step = begin(an_order(epoch=1), e.IntendedAndSent(**self.stamp()))
        self.writes += Act.WRITE in step.acts
        self.order = step.order

    @rule(arrives=st.booleans())
    @precondition(lambda self: self.venue.state is None and not self.answered and self.order.state is State.SENDING)
    def the_bytes_go_out(self, arrives: bool) -> None:
        if arrives:
            self.venue.state = State.WORKING
            self.venue.tick()
            self.say(self.venue.report())

    @rule(how=st.sampled_from(["ack", "ambiguous", "duplicate"]))
    @precondition(lambda self: self.venue.state is not None and not self.answered)
    def the_answer_comes(self, how: str) -> None:
        self.answered = True
        report = self.venue.report()
        if how == "ack":
            self.apply(e.Acked(**self.stamp(), source="rest", venue_time_ns=report.time_ns, report=report))
        elif how == "duplicate":
            self.apply(e.DuplicateId(**self.stamp()))
        else:
            self.apply(e.Ambiguous(**self.stamp()))

    @rule(definitive=st.booleans())
    @precondition(lambda self: self.venue.state is None and not self.answered and self.order.state is State.SENDING)
    def the_venue_never_hears_of_it(self, definitive: bool) -> None:
        self.answered = True
        self.apply(e.Refused(**self.stamp(), code="-2010") if definitive else e.Ambiguous(**self.stamp()))

    @rule()
    def the_manager_dies_and_replays(self) -> None:
        self.epoch += 1
        self.answered = True  # an answer that no task waits for any more
        if self.order.state in OPEN:
            self.apply(e.Replayed(**self.stamp(), epoch=self.epoch))
        self.order = replace(self.order, epoch=self.epoch)

    # ── the venue ────────────────────────────────────────────────────────────────────────────────
    @rule(quantity=st.integers(1, 6))
    @precondition(lambda self: self.venue.state in LIVE)
    def it_fills(self, quantity: int) -> None:
        part = min(D(quantity), QUANTITY - self.venue.filled)
        fill = a_fill(len(self.venue.fills) + 1, quantity=part, time_ns=self.venue.tick())
        self.venue.fills.append(fill)
        self.venue.filled += part
        self.venue.state = State.FILLED if self.venue.filled == QUANTITY else State.PARTIAL
        self.road.append(self.seen_fill(fill))
        self.say(self.venue.report())

    def seen_fill(self, fill: Fill) -> e.FillSeen:
        return e.FillSeen(**self.stamp(f"fill{fill.fill_id}"), source="stream", venue_time_ns=fill.time_ns, fill=fill)

    @rule(state=st.sampled_from([State.CANCELLED, State.EXPIRED]))
    @precondition(lambda self: self.venue.state in LIVE)
    def it_ends(self, state: State) -> None:
        self.venue.state = state
        self.venue.tick()
        self.say(self.venue.report())

    # ── the roads ────────────────────────────────────────────────────────────────────────────────
    @rule(data=st.data())
    @precondition(lambda self: self.road)
    def something_arrives(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.road) - 1))
        event = self.road[index] if data.draw(st.booleans()) else self.road.pop(index)
        self.apply(event)

    @rule(data=st.data())
    @precondition(lambda self: self.road)
    def something_is_lost(self, data: st.DataObject) -> None:
        self.road.pop(data.draw(st.integers(0, len(self.road) - 1)))

    @rule()
    @precondition(lambda self: self.order.state in OPEN)
    def a_cancel_is_requested(self) -> None:
        self.apply(e.CancelRequested(**self.stamp()))

    @rule()
    @precondition(lambda self: self.order.state in OPEN)
    def a_cancel_is_withdrawn(self) -> None:
        self.apply(e.CancelWithdrawn(**self.stamp()))

    @rule(how=st.sampled_from(["done", "lost", "unheard", "refused"]))
    @precondition(lambda self: self.order.request is Request.CANCEL and self.venue.state is not None)
    def the_cancel_is_answered(self, how: str) -> None:
        if how in ("done", "unheard") and self.venue.state in LIVE:
            self._cancel()
        if how == "done" and self.venue.state is State.CANCELLED:
            stamp = self.stamp() | {"venue_time_ns": self.venue.time}
            self.apply(e.CancelAcked(**stamp, filled=self.venue.filled))
        elif how == "refused":
            self.apply(e.CancelRefused(**self.stamp(), code="UNKNOWN_ORDER"))
        elif how != "done":
            self.apply(e.RequestAmbiguous(**self.stamp()))

    def _cancel(self) -> None:
        self.venue.state = State.CANCELLED
        self.venue.tick()
        self.say(self.venue.report())

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    @rule()
    @precondition(lambda self: self.order.state is not State.SENDING or self.answered)
    def the_venue_is_asked(self) -> None:
        """A query and the history: repeated for as long as an outcome is unknown."""
        if self.venue.state is None:
            if self.order.state is State.UNKNOWN:
                self.apply(e.FoundAbsent(**self.stamp(), polls=3, age_s=31.0))
            return
        if self.order.reported_cum_qty > self.order.filled or self.venue.filled > self.order.filled:
            for fill in self.venue.fills:
                self.apply(self.seen_fill(fill))
        report = self.venue.report()
        self.apply(e.Reported(**self.stamp(), source="rest", venue_time_ns=report.time_ns, report=report))
        if self.order.request is Request.CANCEL_UNKNOWN and self.order.state in LIVE:
            self.apply(e.CancelRequested(**self.stamp()))

    # ── what always holds ────────────────────────────────────────────────────────────────────────
    @invariant()
    def bytes_leave_at_most_once(self) -> None:
        assert self.writes <= 1

    @invariant()
    def filled_is_the_sum_of_what_was_booked(self) -> None:
        assert self.order.filled == sum((fill.quantity for fill in self.booked.values()), D(0))

    @invariant()
    def what_may_still_fill_is_reserved(self) -> None:
        open_there = QUANTITY - self.venue.filled if self.venue.state in LIVE else D(0)
        if self.order.state in OPEN:
            assert self.order.remaining >= open_there
        elif open_there:
            raise AssertionError(f"we say {self.order.state}, the venue may still fill {open_there}")

    @invariant()
    def an_ended_order_has_no_request(self) -> None:
        if self.order.state in TERMINAL:
            assert self.order.request is Request.NONE

    def teardown(self) -> None:
        """The venue answers eventually: both then agree, whatever was lost or delayed."""
        if self.venue.state is None and self.order.state is State.SENDING:
            return
        self.answered = True
        if self.order.state is State.SENDING:
            self.apply(e.Ambiguous(**self.stamp()))
        self.the_venue_is_asked()
        for event in list(self.road):
            self.apply(event)
        self.the_venue_is_asked()
        if self.venue.state is None:
            assert self.order.state in (State.ABSENT, State.REJECTED, State.ABANDONED)
            return
        assert self.order.state is self.venue.state
        assert self.order.filled == self.venue.filled
        assert self.order.reported_cum_qty == self.order.filled
        self.replaying_the_journal_gives_the_same()

    def replaying_the_journal_gives_the_same(self) -> None:
        step = begin(an_order(epoch=1), e.IntendedAndSent(event_id="again"))
        order = step.order
        for event in self.journal:
            order = advance(order, event).order
            if isinstance(event, e.Replayed):
                order = replace(order, epoch=event.epoch)
        assert (order.state, order.filled, order.request) == (self.order.state, self.order.filled, self.order.request)


Lifecycle.TestCase.settings = settings(stateful_step_count=30)
TestLifecycle = Lifecycle.TestCase
