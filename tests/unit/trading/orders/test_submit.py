"""The submit protocol by itself: it journals, asks, writes and records, in this order and at most once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fks.model.order import Answer, Order, Outcome, Refusal, State
from fks.trading.orders import events as e
from fks.trading.orders.submit import Journaled, Refuse, Submission, Submitted, Submitter
from tests.support.order_values import a_report, an_order

STOP, TARGET = an_order(client_order_id="a" * 32), an_order(client_order_id="b" * 32)


@dataclass
class Ports:
    """Ports whose answers a test chooses; `calls` has every call, in order."""

    takes: bool = True  # whether the journal takes the orders
    left: tuple[str | None, ...] = (None, None)
    refuse: Refuse | None = None
    answer: Answer = field(default_factory=lambda: Answer(Outcome.AMBIGUOUS))
    calls: list[str] = field(default_factory=list)
    events: list[tuple[str, e.Event]] = field(default_factory=list)

    async def journal(self, submission: Submission) -> Journaled:
        self.calls.append("journal")
        return Journaled(submission.orders if self.takes else (), is_killed=not self.takes)

    async def may_send(self, submission: Submission, order: Order) -> Refuse | None:
        self.calls.append("may_send")
        return self.refuse

    async def left_before(self, orders: Sequence[Order]) -> Sequence[str | None]:
        self.calls.append("left_before")
        return self.left[: len(orders)]

    async def write(self, orders: Sequence[Order]) -> tuple[Sequence[Answer], int]:
        self.calls.append("write")
        return [self.answer for _ in orders], 7

    async def record(self, order: Order, event: e.Event, answer: Answer | None) -> Order:
        self.calls.append("record")
        self.events.append((order.client_order_id, event))
        return replace(order, state=State.UNKNOWN)

    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        return {"event_id": kind, "source": source, "recv_ns": 1}


async def submitted(ports: Ports, *orders: Order, **changes: Any) -> Submitted:
    return await Submitter(ports).submit(Submission(orders or (STOP,), **changes))


async def test_the_bytes_leave_once_between_the_commit_and_the_record() -> None:
    ports = Ports()
    assert len((await submitted(ports)).answers) == 1
    assert ports.calls == ["journal", "left_before", "may_send", "write", "record"]


async def test_nothing_is_written_of_what_was_not_journaled() -> None:
    ports = Ports(takes=False)
    assert await submitted(ports) == Submitted((), is_killed=True)
    assert ports.calls == ["journal"]


async def test_what_may_have_left_is_unknown_and_is_not_written() -> None:
    """Its sibling has not left, and is not sent alone."""
    ports = Ports(left=(None, "the venue has it"))
    done = await submitted(ports, STOP, TARGET)
    assert done.refused is not None
    assert "write" not in ports.calls
    (first, refused), (second, unknown) = ports.events
    assert (first, second) == (STOP.client_order_id, TARGET.client_order_id)
    assert isinstance(refused, e.Refused)
    assert refused.refusal is Refusal.NOT_SENT
    assert isinstance(unknown, e.Ambiguous)


@pytest.mark.parametrize("where", ["may_send", "recheck"])
async def test_what_may_not_be_sent_after_the_commit_is_refused_as_not_sent(where: str) -> None:
    refuse = Refuse("NOT_LEADER", "the lease was lost")
    ports = Ports(refuse=refuse if where == "may_send" else None)
    done = await submitted(ports, STOP, TARGET, recheck=lambda order: refuse if where == "recheck" else None)
    assert done.refused == refuse
    assert "write" not in ports.calls
    for _, event in ports.events:
        assert isinstance(event, e.Refused)
        assert (event.code, event.refusal) == ("NOT_LEADER", Refusal.NOT_SENT)
    assert len(ports.events) == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(Outcome.ACK, report=a_report(State.ACCEPTED)), e.Acked),
        (Answer(Outcome.ACK), e.Ambiguous),  # a yes without an order proves nothing
        (Answer(Outcome.REFUSED, code="-2010"), e.Refused),
        (Answer(Outcome.EXISTS), e.DuplicateId),
        (Answer(Outcome.AMBIGUOUS), e.Ambiguous),
    ],
)
async def test_each_answer_is_the_event_that_it_proves(answer: Answer, expected: type[e.Event]) -> None:
    ports = Ports(answer=answer)
    await submitted(ports)
    ((_, event),) = ports.events
    assert type(event) is expected
    assert getattr(event, "sent_ns", None) == 7
