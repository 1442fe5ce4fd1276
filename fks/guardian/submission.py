"""The submit protocol's ports over the kill's file: the guardian's journal is the line it fsynced before the bytes
leave."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fks.clock import Clock
from fks.guardian.journal import ENDED, REFUSED, UNKNOWN, WORKING, KillJournal
from fks.model.order import TERMINAL, Answer, Order, Outcome, Report
from fks.model.ports import Log, Venue
from fks.orders import events as e
from fks.orders.submit import Journaled, Refuse, Submission


class FilePorts:
    """The ports of the submit protocol for flattening orders. `found` notes ids that the venue knew before they were
    sent here."""

    def __init__(
        self,
        venue: Venue,
        journal: KillJournal,
        *,
        save: Callable[[], Awaitable[None]],
        may_act: Callable[[], bool],
        clock: Clock,
        log: Log,
    ) -> None:
        self._venue = venue
        self._journal = journal
        self._save = save
        self._may_act = may_act
        self._clock = clock
        self._log = log
        self._numbers = itertools.count(1)
        self.found: set[str] = set()

    async def journal(self, submission: Submission) -> Journaled:
        """Write the orders into the file; they are merged into the tables, too, when PostgreSQL answers at once."""
        for order in submission.orders:
            self._journal.sending(order, now_ns=self._clock.now_ns())
        await self._save()
        return Journaled(submission.orders)

    async def may_send(self, submission: Submission, order: Order) -> Refuse | None:
        """Check that no other guardian has taken over."""
        return None if self._may_act() else Refuse("NOT_LEADER", "another guardian acts; no byte left")

    async def left_before(self, orders: Sequence[Order]) -> Sequence[str | None]:
        """Return for each order whether the venue knew its id before: a predecessor sent it."""
        return ["the venue knew the id" if order.client_order_id in self.found else None for order in orders]

    async def write(self, orders: Sequence[Order]) -> tuple[Sequence[Answer], int]:
        """Write the bytes once. What raises may have left."""
        sent_ns = self._clock.now_ns()
        return [await submitted(self._venue, order) for order in orders], sent_ns

    async def record(self, order: Order, event: e.Event, answer: Answer | None) -> Order:
        """Note in the file what the answer means."""
        if isinstance(event, e.Acked):
            self.note_report(order, event.report)
            return order
        code = event.code if isinstance(event, e.Refused) else (answer.code if answer is not None else None)
        detail = str(getattr(event, "detail", ""))
        outcome = REFUSED if isinstance(event, e.Refused) else UNKNOWN
        self._journal.outcome(order.client_order_id, outcome, now_ns=self._clock.now_ns(), code=code, detail=detail)
        self._log.warning("kill.order_" + outcome, client_order_id=order.client_order_id, code=code, detail=detail)
        return order

    def note_report(self, order: Order, report: Report) -> None:
        """Note in the file what the venue reports of an order."""
        self._journal.outcome(
            order.client_order_id,
            ENDED if report.state in TERMINAL else WORKING,
            now_ns=self._clock.now_ns(),
            filled=report.filled,
            venue_order_id=report.venue_order_id,
            code=report.code,
            detail=report.state.value,
        )

    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        """Return the fields that every event has."""
        return {"event_id": f"kill:{kind}:{next(self._numbers)}", "source": source, "recv_ns": self._clock.now_ns()}


async def submitted(venue: Venue, order: Order) -> Answer:
    """Write an order's bytes once; return the answer. What raises may have left."""
    try:
        return await venue.submit(order)
    except Exception as error:
        return Answer(Outcome.AMBIGUOUS, detail=f"{type(error).__name__}: {error}")
