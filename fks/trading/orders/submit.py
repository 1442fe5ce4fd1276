"""The submit protocol: the one way in which an order reaches a venue.

    check -> reserve and journal in one statement -> check again what may have changed -> send once -> classify

Entries, exits, protection and kill orders all take it; the order manager journals in PostgreSQL, the guardian in its
file. What differs is given: the checks, the journal, the venue. After an exception anywhere the journal says what is
certain: INTENDED or nothing was never sent, SENDING may have been.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fks.model.order import Answer, Order, Outcome, Refusal
from fks.model.signal import Signal
from fks.trading.orders import events as e
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.risk.policy import Action


@dataclass(frozen=True, slots=True)
class Refuse:
    """The reason why an order that is journaled may not be sent after all: nothing of it has left."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission: one order, the two legs of an OCO (stop first), or an entry with its legs as one list.

    `with_it`: orders journaled in the same statement and sent later (an entry's legs). `is_release`: the orders are
    journaled already, INTENDED. `signal_id`: the signal that gets its outcome with them; None = none does. `action` and
    `is_by_person`: how the policy is asked (`fks.trading.risk.policy`). `is_known`: the venue has it already, and it is
    journaled whatever the policy says of sending it. `copies`: signals for other accounts, committed with the orders.
    `recheck` is asked between the commit and the bytes.
    """

    orders: tuple[Order, ...]
    with_it: tuple[Order, ...] = ()
    signal_id: uuid.UUID | None = None
    is_release: bool = False
    action: Action = Action.ENTRY
    is_by_person: bool = False
    is_known: bool = False
    copies: tuple[Signal, ...] = ()
    recheck: Callable[[Order], Refuse | None] = lambda order: None


@dataclass(frozen=True, slots=True)
class Journaled:
    """The orders that the journal took, as they are now (SENDING); none when it took nothing."""

    orders: tuple[Order, ...]
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """The outcome of a submission. `orders` are as the journal has them now; empty when nothing was journaled."""

    orders: tuple[Order, ...]
    answers: tuple[Answer, ...] = ()
    is_killed: bool = False
    refused: Refuse | None = None


class SubmitPorts(Protocol):
    """The ports of the protocol. Nothing here decides."""

    async def journal(self, submission: Submission) -> Journaled:
        """Reserve and write the orders in one durable statement. Returns after the commit; waits while there is no
        journal."""
        ...

    async def may_send(self, submission: Submission, order: Order) -> Refuse | None:
        """Check the lease, the policy and the order's time now, waiting a moment for a lease that is away. It changes
        nothing."""
        ...

    async def left_before(self, orders: Sequence[Order]) -> Sequence[str | None]:
        """Return for each order why its id may have left before, in this process or before a failover; None = it did
        not."""
        ...

    async def write(self, orders: Sequence[Order]) -> tuple[Sequence[Answer], int]:
        """Write the bytes once; return one answer an order, and the time (ns) of the first byte. Never raises."""
        ...

    async def record(self, order: Order, event: e.Event, answer: Answer | None) -> Order:
        """Write what the answer means; return the order after it."""
        ...

    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        """Return the fields that every event has."""
        ...


class Submitter:
    """Carries submissions out. Holds no state."""

    def __init__(self, ports: SubmitPorts, *, at: At = nowhere) -> None:
        self._ports = ports
        self._at = at

    async def submit(self, submission: Submission) -> Submitted:
        """Journal, check again, send once, classify. The caller has checked and reserved.

        Guarantees: no byte leaves before the commit; an id that may have left before is UNKNOWN, and is not written
        again.
        Errors: StaleEpochError when a newer epoch owns the journal.
        """
        self._at("place.before")
        journaled = await self._ports.journal(submission)
        self._at("place.after")
        if not journaled.orders:
            return Submitted((), is_killed=journaled.is_killed)
        return await self._send(submission, journaled.orders)

    async def _send(self, submission: Submission, orders: tuple[Order, ...]) -> Submitted:
        reasons = await self._ports.left_before(orders)
        if any(reasons):
            return Submitted(
                tuple(
                    [
                        await self._unknown(order, reason) if reason else await self._refuse(order, _SIBLING)
                        for order, reason in zip(orders, reasons, strict=True)
                    ]
                ),
                refused=_SIBLING,
            )
        refuse = await self._ports.may_send(submission, orders[0]) or submission.recheck(orders[0])
        if refuse is not None:
            after = [await self._refuse(order, refuse) for order in orders]
            return Submitted(tuple(after), refused=refuse)
        self._at("send.before")
        answers, sent_ns = await self._ports.write(orders)
        self._at("send.after")
        after = []
        for order, answer in zip(orders, answers, strict=True):
            self._at("ack.before")
            after.append(await self._ports.record(order, self._classified(answer, sent_ns), answer))
            self._at("ack.after")
        return Submitted(tuple(after), tuple(answers))

    async def _unknown(self, order: Order, reason: str) -> Order:
        stamp = self._ports.stamp("ask-first", "us")
        return await self._ports.record(order, e.Ambiguous(**stamp, detail=reason), None)

    async def _refuse(self, order: Order, refuse: Refuse) -> Order:
        stamp = self._ports.stamp("refuse", "us")
        event = e.Refused(**stamp, code=refuse.code, detail=refuse.detail, refusal=Refusal.NOT_SENT)
        return await self._ports.record(order, event, None)

    def _classified(self, answer: Answer, sent_ns: int) -> e.Event:
        """Return the event that an answer means."""
        stamp = self._ports.stamp(answer.outcome.value, "rest")
        if answer.outcome is Outcome.ACK and answer.report is not None:
            stamp["venue_time_ns"] = answer.report.time_ns
            return e.Acked(**stamp, report=answer.report, sent_ns=sent_ns)
        if answer.outcome is Outcome.REFUSED:
            return e.Refused(
                **stamp, code=answer.code or "REFUSED", detail=answer.detail, refusal=answer.refusal, sent_ns=sent_ns
            )
        if answer.outcome is Outcome.EXISTS:
            return e.DuplicateId(**stamp, detail=answer.detail, sent_ns=sent_ns)
        return e.Ambiguous(**stamp, detail=answer.detail, sent_ns=sent_ns)


_SIBLING = Refuse("NOT_LEADER", "its sibling may have been sent before the database changed")
