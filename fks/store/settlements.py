"""Settlements of orders by persons, and requests to reconcile: rows that the gateway writes and the order manager
applies.

A settlement is proposed, confirmed by its code within minutes, and applied (or refused with `error`) once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.model.timeframe import to_datetime
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class ReportedFill:
    """An execution that a person reports: a venue trade id, or quantity, price and fee (`venue_trade_id` empty)."""

    venue_trade_id: str = ""
    quantity: Decimal | None = None
    price: Decimal | None = None
    fee: Decimal = Decimal(0)
    fee_currency: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it as JSON-able members; numbers as text."""
        if self.venue_trade_id:
            return {"venue_trade_id": self.venue_trade_id}
        return {
            "quantity": f"{self.quantity:f}",
            "price": f"{self.price:f}",
            "fee": f"{self.fee:f}",
            "fee_currency": self.fee_currency,
        }


@dataclass(frozen=True, slots=True)
class Settlement:
    """A row of order_settlements. `filled` is the order's booked quantity when it was proposed."""

    id: int
    client_order_id: str
    outcome: str
    fills: tuple[ReportedFill, ...]
    filled: Decimal
    by: str
    reason: str
    confirm_code: str
    requested_ns: int
    confirmed_ns: int | None
    applied_ns: int | None
    error: str | None
    is_journaled: bool = False  # its event is in the journal: only the row's own end is missing

    @property
    def event_id(self) -> str:
        """Return the id of its event in the journal."""
        return f"settle:{self.id}"


def _fill(item: Mapping[str, str]) -> ReportedFill:
    if item.get("venue_trade_id"):
        return ReportedFill(venue_trade_id=item["venue_trade_id"])
    return ReportedFill(
        quantity=Decimal(item["quantity"]),
        price=Decimal(item["price"]),
        fee=Decimal(item["fee"]),
        fee_currency=item["fee_currency"],
    )


_settlement = reads(Settlement, fills=lambda row: tuple(map(_fill, row["fills"])))


class SettlementStore(FencedStore[Querier], queries="settlements"):
    """Reads and writes of order_settlements and reconcile_requests."""

    async def propose(
        self,
        client_order_id: str,
        outcome: str,
        fills: Sequence[ReportedFill],
        *,
        filled: Decimal,
        by: str,
        reason: str,
        code: str,
        now_ns: int,
    ) -> Settlement:
        """Store a person's report on an order; it has no effect before it is confirmed."""
        row = await self._db.fetchrow(
            "settlements.propose",
            client_order_id,
            outcome,
            [fill.as_json() for fill in fills],
            filled,
            by,
            reason,
            code,
            to_datetime(now_ns),
        )
        assert row is not None
        return _settlement(row)

    async def find(self, client_order_id: str, code: str) -> Settlement | None:
        """Return the settlement of an order that has this confirmation code, or None."""

    async def confirm(self, id: int, now_ns: int) -> None:
        """Release it to the order manager. Idempotent."""

    async def get(self, id: int) -> Settlement | None:
        """Return one settlement, or None."""

    async def confirmed(self, venues: Sequence[str]) -> list[Settlement]:
        """Return the settlements that the order manager of these venues has to apply, oldest first."""

    @query(is_fenced=True)
    async def finish(self, id: int, error: str | None, now_ns: int) -> None:
        """End a settlement: applied, or refused with `error`."""

    # ── requests to reconcile ────────────────────────────────────────────────────────────────────
    async def request_reconcile(self, venue: str, *, by: str, now_ns: int) -> int:
        """Ask for the comparison of a venue with the journal; return the request's id."""

    async def reconcile_requests(self, venues: Sequence[str]) -> dict[str, list[int]]:
        """Return the ids of the open requests, by venue."""

    @query(is_fenced=True)
    async def finish_reconcile(
        self, ids: Sequence[int], result: Mapping[str, object], error: str | None, now_ns: int
    ) -> None:
        """End requests with the findings of the comparison."""

    async def reconcile(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return requests by id, as the API shows them."""
