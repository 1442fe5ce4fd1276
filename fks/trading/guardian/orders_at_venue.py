"""The one owner of the guardian's requests to a venue about each order: its send, its cancel, the queries until its end
is proven, and the proof that it never arrived (C1, C5).

An order is unresolved when the journal has it SENDING or UNKNOWN, or when it was open, was to be cancelled, and is gone
without a confirmed cancel (the venue's "unknown order" also covers a fill). An end is proven by a report that names it,
or, for an order that the venue never acknowledged, by C5: "not found" often enough, over long enough. A proven absence
stays open to a late order: one that the venue lists or executes later is cancelled and closed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal

from fks.model import ids
from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.order import TERMINAL, Answer, Order, Outcome, Presence, Report, Role, Side, evolve
from fks.model.ports import Venue
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import order_from
from fks.trading.orders.absence import IN_PROCESS, AbsenceProof


@dataclass(slots=True)
class OrderAtVenue:
    """One order. Its end is proven once `is_ended`: by `report`, or, without one, it never arrived."""

    client_order_id: str
    symbol: str
    proof: AbsenceProof
    is_acknowledged: bool = False
    must_end: bool = False  # it is cancelled and queried until its end is proven
    is_open: bool = False  # the venue listed it last, and it is cancelled for that
    is_ended: bool = False
    report: Report | None = None  # the last one
    cancel_outcome: Outcome | None = None  # of the last cancel
    due_s: float = 0.0
    wait_s: float = 0.0

    @property
    def is_unresolved(self) -> bool:
        return self.must_end and not self.is_ended

    def note(self, report: Report) -> None:
        """Take up what the venue reports of it."""
        self.report, self.is_acknowledged = report, True
        if report.state in TERMINAL:
            self.is_open, self.is_ended = False, True


class OrdersAtVenue:
    """Sends, cancels and queries at one venue. Soft state: a restart begins from the journals."""

    def __init__(self, venue: Venue, context: GuardianContext) -> None:
        self.venue, self._context = venue, context
        self._orders: dict[str, OrderAtVenue] = {}

    def about(
        self,
        client_order_id: str,
        symbol: str,
        *,
        role: Role | str = "",
        sent_ns: int | None = None,
        is_acknowledged: bool = False,
        has_left: bool = True,
    ) -> OrderAtVenue:
        """Return what is known of an order. `sent_ns`: its bytes left then at the latest; None: now. Without `has_left`
        none did, and one "not found" proves its absence. `role`: "" where it is not known."""
        order = self._orders.get(client_order_id)
        if order is None:
            context = self._context
            rule = context.timing.absence.of(role) if has_left else IN_PROCESS
            proof = AbsenceProof(rule, context.steps, sent_ns or context.clock.now_ns())
            order = self._orders[client_order_id] = OrderAtVenue(client_order_id, symbol, proof)
        order.is_acknowledged |= is_acknowledged
        return order

    def take_list(self, ending: Iterable[Report], open_ids: Collection[str]) -> list[OrderAtVenue]:
        """Note which open orders are to end, of those that the venue lists, and return them: whatever was proven, they
        are live. One of the last list that is gone without a confirmed cancel is unresolved."""
        for order in self._orders.values():
            if order.is_open and order.client_order_id not in open_ids:
                order.is_open, order.must_end = False, True
        listed = []
        for report in ending:
            order = self.about(report.client_order_id, report.symbol)
            order.note(report)
            order.is_open, order.is_ended = True, False
            listed.append(order)
        return listed

    def drop(self, client_order_id: str) -> None:
        """Stop asking about an order that the journal has ended."""
        if (order := self._orders.get(client_order_id)) is not None:
            order.must_end = False

    @property
    def unresolved(self) -> list[OrderAtVenue]:
        """Return the unresolved orders by client id."""
        return [order for _, order in sorted(self._orders.items()) if order.is_unresolved]

    @property
    def open_ids(self) -> set[str]:
        """Return the ids of listed orders whose cancel is not confirmed."""
        return {id for id, order in self._orders.items() if order.is_open}

    @property
    def filled(self) -> dict[str, Decimal]:
        """Return how much of each ended order was executed."""
        return {id: order.report.filled for id, order in self._orders.items() if order.is_ended and order.report}

    def due(self) -> list[OrderAtVenue]:
        """Return the unresolved orders whose turn it is, in growing steps for each, so that many of them fit the rate
        limit; not those that are cancelled as open."""
        now, timing = self._context.clock.monotonic(), self._context.timing
        backoff = Backoff(timing.round_s, max(timing.absence.spacing_s * 1.05, timing.round_s))
        found = [order for order in self.unresolved if order.due_s <= now and not order.is_open]
        for order in found:
            order.wait_s = backoff.next_s(order.wait_s)
            order.due_s = now + order.wait_s
        return found

    async def send(self, order: Order) -> Answer:
        """Write an order's bytes once; return the answer. What raises may have left."""
        try:
            return await self.venue.submit(order)
        except Exception as error:
            return Answer(Outcome.AMBIGUOUS, detail=f"{type(error).__name__}: {error}")

    async def cancel(self, order: OrderAtVenue) -> Answer:
        """Send a cancel; its answer may prove the end."""
        answer = await self.venue.cancel(order_of(self.venue.name, order.client_order_id, order.symbol, order.report))
        order.cancel_outcome = answer.outcome
        if answer.outcome is Outcome.ACK and answer.report is not None:
            order.note(answer.report)
        return answer

    async def ask(self, order: OrderAtVenue) -> Report | None:
        """Ask the venue about an order that has not ended; return its report, if there is one. Errors: OutageError."""
        if order.is_ended:
            return order.report
        lookup = await self.venue.query(order.symbol, order.client_order_id)
        if lookup.presence is Presence.FOUND and lookup.report is not None:
            order.note(lookup.report)
            return lookup.report
        if lookup.presence is Presence.NOT_FOUND and not order.is_acknowledged:
            order.is_ended = order.proof.not_found()
        return None

    async def ask_first(self, order: Order) -> None:
        """Ask whether an order was sent before, by a predecessor. Errors: OutageError without an answer."""
        lookup = await self.venue.query(order.symbol, order.client_order_id)
        if lookup.presence is Presence.NO_ANSWER:
            raise OutageError(f"whether {order.client_order_id} was sent before is not known: {lookup.detail}")
        if lookup.presence is Presence.FOUND:
            self._context.log.warning("kill.order_found", client_order_id=order.client_order_id)
            self.about(order.client_order_id, order.symbol, is_acknowledged=True)

    def has(self, client_order_id: str) -> bool:
        """Return whether the venue is known to have an order."""
        order = self._orders.get(client_order_id)
        return order is not None and order.is_acknowledged


def order_of(venue: str, client_order_id: str, symbol: str, report: Report | None = None) -> Order:
    """Return as much of an order as a cancel needs: it need not be one of ours."""
    fields = {
        "client_order_id": client_order_id,
        "intent_id": ids.NAMESPACE,
        "account_id": 0,
        "venue": venue,
        "exchange": "",
        "symbol": symbol,
        "instance": "",
        "role": Role.ORDER,
        "attempt": 0,
        "side": (report and report.side) or Side.SELL,
        "quantity": (report and report.quantity) or 0,
    }
    return evolve(order_from(fields, 0), venue_order_id=report and report.venue_order_id)
