"""Expected holdings of an account besides its executions: its opening, adopted differences, transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from fks.model.account import Transfer
from fks.model.timeframe import iso
from fks.store.base import FencedStore, query, reads
from fks.store.db import Querier
from fks.store.leases import fence_of

transfer_of = reads(Transfer, time_ns="time")


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

    @query("page")
    async def transfers(self, account_id: int, limit: int = 100) -> list[Transfer]:
        """Return the newest deposits and withdrawals of an account, newest first."""

    @query("moved")
    async def transferred(self, account_id: int) -> dict[str, Decimal]:
        """Return the amounts moved by transfers that were listed after the opening, by asset (signed, withdrawal fees
        included)."""

    @query("last_transfer")
    async def last_transfer_ns(self, account_id: int) -> int | None:
        """Return the time of the newest transfer, or None."""
