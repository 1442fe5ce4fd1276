"""What exchanges list, and which of it is collected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fks.model.instrument import Instrument
from fks.model.timeframe import to_datetime, to_ns
from fks.store.db import Querier, Row

_COLUMNS = ("exchange", "symbol", "base", "quote", "tick", "lot_step", "qty_min", "qty_max", "notional_min",
            "multiplier", "is_trading")  # fmt: skip


class InstrumentStore:
    """The tables `instruments` and `assets`."""

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

    async def assets(self) -> list[dict[str, Any]]:
        """Return one mapping per asset: exchange, symbol, name, is_enabled, is_trading, updated_at."""
        rows = await self._db.fetch("instruments.assets")
        return [
            {
                "exchange": row["exchange"],
                "symbol": row["symbol"],
                "name": f"{row['base']}/{row['quote']}" if row["base"] else row["symbol"],
                "is_enabled": row["is_enabled"],
                "is_trading": bool(row["is_trading"]),
                "updated_at": row["updated_at"],
            }
            for row in rows
        ]

    async def enabled(self, exchange: str) -> list[str]:
        """Return the symbols to collect."""
        return [row["symbol"] for row in await self._db.fetch("instruments.enabled_assets", exchange)]

    async def add_assets(self, exchange: str, symbols: Sequence[str]) -> None:
        """Enable symbols nobody has decided about yet; one that was disabled stays so."""
        await self._db.execute("instruments.add_assets", exchange, list(symbols))

    async def set_asset(self, exchange: str, symbol: str, *, is_enabled: bool) -> None:
        """Enable or disable one asset; the collector follows within seconds."""
        await self._db.execute("instruments.set_asset", exchange, symbol, is_enabled)


def _instrument(row: Row) -> Instrument:
    return Instrument(**{name: row[name] for name in _COLUMNS}, updated_ns=to_ns(row["updated_at"]))
