"""The submit protocol's ports of the guardian, whose journal is a line that it fsynced before the bytes leave."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fks.model.order import TERMINAL, Answer, Order, Report
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import ENDED, REFUSED, UNKNOWN, WORKING, KillJournal
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.orders import events as e
from fks.trading.orders.submit import Journaled, Refuse, Submission, SubmitPorts, Submitted, Submitter


class VenuePorts(SubmitPorts):
    """The ports at one venue, whatever file is the journal. `why_not` returns the reason why this guardian must not act
    now, "" when it may."""

    def __init__(self, context: GuardianContext, orders: OrdersAtVenue, why_not: Callable[[], str]) -> None:
        self._clock, self._log = context.clock, context.log
        self._orders, self._why_not = orders, why_not
        self._numbers = itertools.count(1)

    async def submit(self, order: Order) -> Submitted:
        """Send an order once, or take up the one that was sent under its id.

        Errors: OutageError when the venue does not say whether the id is free.
        """
        await self._orders.ask_first(order)
        return await Submitter(self).submit(Submission((order,)))

    async def may_send(self, submission: Submission, order: Order) -> Refuse | None:
        """Check that this guardian may still act."""
        why = self._why_not()
        return Refuse("NOT_LEADER", f"{why}; no byte left") if why else None

    async def left_before(self, orders: Sequence[Order]) -> Sequence[str | None]:
        """Return for each order whether the venue knew its id before: a predecessor sent it."""
        return ["the venue knew the id" if self._orders.has(order.client_order_id) else None for order in orders]

    async def write(self, orders: Sequence[Order]) -> tuple[Sequence[Answer], int]:
        """Write the bytes once. What raises may have left."""
        sent_ns = self._clock.now_ns()
        return [await self._orders.send(order) for order in orders], sent_ns

    def stamp(self, kind: str, source: str = "us") -> dict[str, Any]:
        """Return the fields that every event has."""
        now_ns = self._clock.now_ns()
        return {"event_id": f"guardian:{kind}:{now_ns}:{next(self._numbers)}", "source": source, "recv_ns": now_ns}


class FilePorts(VenuePorts):
    """The ports of a kill's own orders: its file is their journal."""

    def __init__(
        self,
        context: GuardianContext,
        orders: OrdersAtVenue,
        why_not: Callable[[], str],
        journal: KillJournal,
        save: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(context, orders, why_not)
        self._journal, self._save = journal, save

    async def journal(self, submission: Submission) -> Journaled:
        """Write the orders into the file; they are merged into the tables, too, when PostgreSQL answers at once."""
        for order in submission.orders:
            self._journal.sending(order, now_ns=self._clock.now_ns())
        await self._save()
        return Journaled(submission.orders)

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
