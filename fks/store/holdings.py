"""Expected holdings of an account besides its executions: its opening, adopted differences, transfers, income."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from fks.model.account import Payment, Transfer
from fks.model.errors import conflict
from fks.model.timeframe import iso, to_datetime
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier
from fks.store.leases import fence_of

transfer_of = reads(Transfer, time_ns="time")
reads(Payment, time_ns="time")


class HoldingStore(FencedStore[Querier], queries="holdings"):
    """Reads and writes of account_assets and transfers, fenced by `lease`. Takes a database or an open transaction."""

    async def known(self, account_id: int) -> dict[str, Decimal]:
        """Return the opening of each asset plus adopted differences; empty before the opening was recorded."""

    async def set_opening(self, account_id: int, opening: Mapping[str, Decimal]) -> None:
        """Record the holdings before FKS; an asset that has an opening keeps it."""
        await self._db.execute(
            "holdings.set_opening", account_id, list(opening), list(opening.values()), *fence_of(self._lease)
        )

    async def add_transfers(self, account_id: int, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Book transfers, each once under its reference; return those that were not booked before."""
        if not transfers:
            return []
        rows = [
            {
                "kind": item.kind.value,
                "reference": item.reference,
                "asset": item.asset,
                "amount": format(item.amount, "f"),
                "fee": format(item.fee, "f"),
                "time": iso(item.time_ns),
                "source": item.source,
            }
            for item in transfers
        ]
        found = await self._db.fetch("holdings.add_transfers", account_id, rows, *fence_of(self._lease))
        return [transfer_of(row) for row in found]

    async def record(self, account_id: int, payment: Payment) -> bool:
        """Record income, once under its reference; return whether it is new. An equal difference that a person adopted
        within three days of it counts no more. Errors: InputError 409 PAYMENT_CHANGED if another payment has the
        reference."""
        names = ("kind", "reference", "asset", "amount", "time_ns", "symbol", "source")
        kind, reference, asset, amount, time_ns, symbol, source = (getattr(payment, name) for name in names)
        values = (account_id, kind, reference, asset, amount, to_datetime(time_ns), symbol, source)
        if await self._db.fetchval("holdings.add_payment", *values):
            return True
        known = await self.payment(account_id, kind, reference)
        if replace(known, source=source) != payment:
            raise conflict(
                "PAYMENT_CHANGED",
                f"{kind} {reference} is recorded already, with {known.amount:f} {known.asset} at {iso(known.time_ns)}",
                "give another reference; a wrong one is taken back by one of the opposite amount",
            )
        return False

    async def payment(self, account_id: int, kind: str, reference: str) -> Payment:
        """Return a payment that is recorded."""

    async def payments(self, account_id: int, limit: int = 100) -> list[Payment]:
        """Return the income of an account, newest first."""

    @query("moved")
    async def transferred(self, account_id: int) -> dict[str, Decimal]:
        """Return the amounts moved by transfers that were listed after the opening, and by income after it, by asset
        (signed, withdrawal fees included)."""

    @query("last_transfer")
    async def last_transfer_ns(self, account_id: int) -> int | None:
        """Return the time of the newest transfer that the venue listed, or None."""
