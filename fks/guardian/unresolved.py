"""Orders at one venue whose end is not proven: they are queried by client id until it is.

An order is unresolved when the journal has it SENDING or UNKNOWN, or when it was open, was to be cancelled, and is gone
without a confirmed cancel (the venue's "unknown order" also covers a fill). An end is proven by a report that names it,
or, for an order that the venue never acknowledged, by C5: "not found" often enough, over long enough. A proven absence
stays open to a late order: one that the venue lists or executes later is cancelled and closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.guardian.context import Context
from fks.model.order import TERMINAL, Presence, Report
from fks.model.ports import Venue
from fks.orders.absence import AbsenceProof


@dataclass(slots=True)
class UnresolvedOrder:
    """One order that may be live."""

    symbol: str
    proof: AbsenceProof
    is_acknowledged: bool
    due_s: float = 0.0
    wait_s: float = 0.0


@dataclass(slots=True)
class UnresolvedOrders:
    """The unresolved orders at one venue."""

    venue: Venue
    context: Context
    _open: dict[str, UnresolvedOrder] = field(default_factory=dict)
    _proven: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._open)

    def items(self) -> list[tuple[str, UnresolvedOrder]]:
        """Return the unresolved orders by client id."""
        return sorted(self._open.items())

    def add(
        self, client_order_id: str, symbol: str, *, sent_ns: int | None = None, is_acknowledged: bool = False
    ) -> None:
        """Query an order from now on, unless its end was proven already. `sent_ns`: its bytes left then at the latest;
        None: now."""
        if client_order_id in self._proven or client_order_id in self._open:
            return
        timing = self.context.timing
        sent_ns = self.context.clock.now_ns() if sent_ns is None else sent_ns
        proof = AbsenceProof(timing.absence, self.context.steps, sent_ns)
        self._open[client_order_id] = UnresolvedOrder(symbol, proof, is_acknowledged, wait_s=timing.round_s)

    def seen_open(self, client_order_id: str) -> None:
        """Note that the venue lists the order as open: whatever was proven, it is live."""
        self._proven.discard(client_order_id)
        if (order := self._open.get(client_order_id)) is not None:
            order.is_acknowledged = True

    def end(self, client_order_id: str) -> None:
        """Note that the order's end is proven."""
        self._open.pop(client_order_id, None)
        self._proven.add(client_order_id)

    def drop(self, client_order_id: str) -> None:
        """Stop asking about an order that the journal has ended."""
        self._open.pop(client_order_id, None)

    def due(self) -> list[tuple[str, UnresolvedOrder]]:
        """Return the orders whose turn it is, in growing steps for each, so that many of them fit the rate limit."""
        now, timing = self.context.clock.monotonic(), self.context.timing
        found = [(client_order_id, order) for client_order_id, order in self.items() if order.due_s <= now]
        for _, order in found:
            order.due_s = now + order.wait_s
            order.wait_s = min(order.wait_s * 2, max(timing.absent_spacing_s * 1.05, timing.round_s))
        return found

    async def ask(self, client_order_id: str, order: UnresolvedOrder) -> Report | None:
        """Ask the venue about one order; return its report, if there is one. Errors: OutageError."""
        lookup = await self.venue.query(order.symbol, client_order_id)
        if lookup.presence is Presence.FOUND and lookup.report is not None:
            order.is_acknowledged = True
            if lookup.report.state in TERMINAL:
                self.end(client_order_id)
            return lookup.report
        if lookup.presence is Presence.NOT_FOUND and not order.is_acknowledged and order.proof.not_found():
            self.end(client_order_id)
        return None
