"""Positions on disk. Fills move them through the order journal; only the external part is written here."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fks.model.account import Position
from fks.model.ports import Lease
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Querier, Row
from fks.store.leases import fence_of


class PositionStore:
    """Reads and the one external write of the positions table, fenced by `lease`. Takes a database or an open
    transaction."""

    def __init__(self, querier: Querier, lease: Lease | None = None) -> None:
        self._db, self._lease = querier, lease

    async def page(
        self, *, account_id: int | None = None, symbol: str | None = None, venues: Sequence[str] | None = None
    ) -> list[Position]:
        """Return positions by account, symbol and instance; the account's position is the sum over its instances."""
        chosen = None if venues is None else list(venues)
        return [position_of(row) for row in await self._db.fetch("positions.list", account_id, symbol, chosen)]

    async def save_external(self, account_id: int, venue: str, symbol: str, quantity: Decimal, now_ns: int) -> None:
        """Write the quantity that the venue holds of a symbol beyond our own fills (base, signed)."""
        await self._db.execute(
            "positions.save_external", account_id, venue, symbol, quantity, to_datetime(now_ns), *fence_of(self._lease)
        )


def position_of(row: Row) -> Position:
    """Return a row of the positions table as a value."""
    return Position(
        account_id=row["account_id"],
        venue=row["venue"],
        symbol=row["symbol"],
        instance=row["instance"],
        quantity=row["quantity"],
        average_price=row["average_price"],
        realized_pnl=row["realized_pnl"],
        fees=row["fees"],
        updated_ns=to_ns(row["updated_at"]),
        entries=row["entries"],
    )
