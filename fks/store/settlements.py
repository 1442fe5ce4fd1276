"""Settlements and amendments of orders by persons, and requests to reconcile: rows that the gateway writes and the
order manager applies.

A settlement is proposed, confirmed by its code within minutes, and applied (or refused with `error`) once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.model.parent import ParentPlan, plan_json, plan_of
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


@dataclass(frozen=True, slots=True)
class OrderAmendment:
    """A row of order_amendments: a person's change of a resting order (`price`; `quantity`: the whole, with its filled
    part), or of a parent's exits; or a strategy's of its entry that rests (`price`, `stop_price`), decided on the bar
    that opens at `bar_ns`. None: as it was. `successor`: the signal of the order that took its place."""

    id: int
    client_order_id: str
    price: Decimal | None
    quantity: Decimal | None
    stop_loss: Decimal | None
    plan: ParentPlan | None
    drops_protection: bool
    by: str
    requested_ns: int
    finished_ns: int | None
    error: str | None
    successor: uuid.UUID | None
    stop_price: Decimal | None = None
    bar_ns: int | None = None

    @property
    def wanted(self) -> tuple[object, ...]:
        """Return what it changes."""
        return self.price, self.quantity, self.stop_loss, self.plan, self.drops_protection


def _fill(item: Mapping[str, str]) -> ReportedFill:
    if item.get("venue_trade_id"):
        return ReportedFill(venue_trade_id=item["venue_trade_id"])
    return ReportedFill(
        quantity=Decimal(item["quantity"]),
        price=Decimal(item["price"]),
        fee=Decimal(item["fee"]),
        fee_currency=item["fee_currency"],
    )


_amendment = reads(
    OrderAmendment, bar_ns="bar_time", plan=lambda row: None if row["plan"] is None else plan_of(row["plan"])
)
_settlement = reads(Settlement, fills=lambda row: tuple(map(_fill, row["fills"])))


class SettlementStore(FencedStore[Querier], queries="settlements"):
    """Reads and writes of order_settlements, order_amendments, parent_orders and reconcile_requests."""

    async def request_amendment(
        self,
        client_order_id: str,
        *,
        price: Decimal | None = None,
        quantity: Decimal | None = None,
        stop_loss: Decimal | None = None,
        plan: ParentPlan | None = None,
        drops_protection: bool = False,
        by: str,
        now_ns: int,
    ) -> OrderAmendment:
        """Store a person's amendment of an order, or return the one of it that is open."""
        packed = None if plan is None else plan_json(plan)
        values = client_order_id, price, quantity, stop_loss, packed, drops_protection, by, to_datetime(now_ns)
        row = await self._db.fetchrow("settlements.request_amendment", *values)
        while row is None:
            open_ = await self._db.fetchrow("settlements.open_amendment", client_order_id)
            row = open_ or await self._db.fetchrow("settlements.request_amendment", *values)
        return _amendment(row)

    async def amendment(self, id: int) -> OrderAmendment | None:
        """Return one amendment, or None."""

    @query(is_fenced=True)
    async def take_entry_moves(self, venues: Sequence[str]) -> None:
        """Make amendments of the prices to which strategies moved their entries that rest at these venues."""

    async def hold_instance(self, instance: str) -> int | None:
        """Let no decision of an instance be committed until the transaction ends."""

    async def has_left(self, instance: str, symbol: str, after_ns: int) -> bool:
        """Return whether a strategy decided on a later bar to leave what an earlier one entered."""

    async def open_amendments(self, venues: Sequence[str]) -> list[OrderAmendment]:
        """Return the amendments that the order manager of these venues has to carry out, oldest first."""

    @query(is_fenced=True)
    async def finish_amendment(self, id: int, error: str | None, successor: uuid.UUID | None, now_ns: int) -> None:
        """End an amendment: carried out, or refused with `error`."""

    @query(is_fenced=True)
    async def set_plan(self, signal_id: uuid.UUID, plan: Mapping[str, Any]) -> bool:
        """Give a parent a plan (`plan_json`). False: a newer epoch owns the lease."""

    async def resting_orders(
        self, symbols: Sequence[str], accounts: Sequence[int] | None, instance: str | None, exchange: str | None
    ) -> list[str]:
        """Return the ids of open entries and persons' orders, oldest first; None stands for any."""

    async def protected_parents(
        self, symbols: Sequence[str], accounts: Sequence[int] | None, instance: str | None, exchange: str | None
    ) -> list[str]:
        """Return the ids of orders whose stop loss or take profit may still protect something, oldest first."""

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
