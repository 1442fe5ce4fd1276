"""Positions on disk. Fills move them through the order journal; only the external part is written here."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fks.model.account import Position
from fks.store.base import FencedStore, query
from fks.store.db import Querier


class PositionStore(FencedStore[Querier], queries="positions"):
    """Reads and the one external write of the positions table, fenced by `lease`. Takes a database or an open
    transaction."""

    @query("list")
    async def page(
        self, *, account_id: int | None = None, symbol: str | None = None, venues: Sequence[str] | None = None
    ) -> list[Position]:
        """Return positions by account, symbol and instance; the account's position is the sum over its instances."""

    @query(is_fenced=True)
    async def save_external(self, account_id: int, venue: str, symbol: str, quantity: Decimal, now_ns: int) -> None:
        """Write the quantity that the venue holds of a symbol beyond our own fills (base, signed)."""
