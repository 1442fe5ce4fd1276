"""What somebody who reads market data asks first: what a symbol means here, and how its series stand."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.model.errors import InputError
from fks.store.db import Querier, Row


@dataclass(frozen=True, slots=True)
class Listed:
    """A symbol somewhere. `base` and `quote` are empty when there are bars of it but no exchange here lists it."""

    exchange: str
    symbol: str
    base: str
    quote: str
    multiplier: Decimal
    has_bars: bool


class ReadingStore:
    """Reads about series. Errors of all methods: OutageError."""

    def __init__(self, querier: Querier) -> None:
        self._db = querier

    async def find(self, text: str, exchange: str | None = None) -> Listed:
        """Return what `text` spells: BTCUSDT, BTC/USDT, BTC-USDT, binance:BTCUSDT, in any case.

        What is listed by several exchanges means the one with bars. Errors: InputError SYMBOL_UNKNOWN with known ones,
        SYMBOL_AMBIGUOUS with the candidates.
        """
        prefix, _, rest = text.strip().rpartition(":")
        wanted = (exchange or prefix or "").lower() or None
        rows = [listed_of(row) for row in await self._db.fetch("reading.spelled", rest, wanted)]
        chosen = [row for row in rows if row.has_bars] or rows
        if len(chosen) == 1:
            return chosen[0]
        if not chosen:
            known = ", ".join(row["symbol"] for row in await self._db.fetch("reading.known"))
            where = f" at {wanted}" if wanted else ""
            raise InputError(
                f"unknown symbol {text!r}{where}", code="SYMBOL_UNKNOWN", status=404,
                remedy=f"with bars: {known}" if known else "nothing is stored yet: 'fks data sample', or 'fks up'",
            )  # fmt: skip
        names = ", ".join(f"{row.exchange}:{row.symbol}" for row in chosen)
        raise InputError(f"ambiguous symbol {text!r}", code="SYMBOL_AMBIGUOUS", remedy=f"say which: {names}")

    async def sync_status(
        self, symbol: str | None = None, timeframe: str | None = None, exchange: str | None = None
    ) -> list[dict[str, Any]]:
        """Return how syncs stand, by symbol; `symbol` in any spelling, one that nobody asked for has no rows."""
        spelled = None if symbol is None else [symbol.upper(), symbol.upper().replace("/", "").replace("-", "")]
        return [dict(row) for row in await self._db.fetch("reading.sync_status", spelled, timeframe, exchange)]


def listed_of(row: Row) -> Listed:
    """Return a row of `reading.spelled` as a value."""
    return Listed(row["exchange"], row["symbol"], row["base"], row["quote"], row["multiplier"], row["has_bars"])
