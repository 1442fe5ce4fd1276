"""What exchanges list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fks.model.instrument import Instrument
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Querier, Row

_COLUMNS = ("exchange", "symbol", "base", "quote", "tick", "lot_step", "qty_min", "qty_max", "notional_min",
            "multiplier", "is_trading")  # fmt: skip


class InstrumentStore:
    """The table `instruments`."""

    def __init__(self, db: Querier) -> None:
        self._db = db

    async def merge(self, instruments: Sequence[Instrument]) -> None:
        """Store what one exchange lists now; what it lists no more is marked as not trading."""
        if not instruments:
            return
        columns: list[list[Any]] = [[getattr(item, name) for item in instruments] for name in _COLUMNS]
        await self._db.execute("instruments.merge", *columns, [to_datetime(item.updated_ns) for item in instruments])
        await self._db.execute("instruments.retire", instruments[0].exchange, [item.symbol for item in instruments])

    async def all(self, exchange: str | None = None) -> list[Instrument]:
        """Return instruments of all exchanges or one, by exchange and symbol."""
        if exchange is None:
            rows = await self._db.fetch("instruments.all")
        else:
            rows = await self._db.fetch("instruments.of_exchange", exchange)
        return [_instrument(row) for row in rows]


def _instrument(row: Row) -> Instrument:
    return Instrument(**{name: row[name] for name in _COLUMNS}, updated_ns=to_ns(row["updated_at"]))
