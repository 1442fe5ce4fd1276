"""What somebody who reads market data asks first: what a symbol means here, and how its series stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.errors import InputError
from fks.store import copy
from fks.store.db import Database, Querier, Row, sql

#: the columns of `read_columns`, as they are told everywhere
COLUMNS = ("time", "open", "high", "low", "close", "volume", "trades", "is_complete", "is_empty", "revision")
_KINDS = {
    "time": copy.TIME,
    "trades": copy.INT4,
    "revision": copy.INT4,
    "is_complete": copy.BOOL,
    "is_empty": copy.BOOL,
}
_FORM = copy.row_form([(name, _KINDS.get(name, copy.FLOAT)) for name in COLUMNS])
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


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


async def read_columns(
    db: Database, series: tuple[str, str, str], first: datetime, end: datetime | None, limit: int
) -> dict[str, npt.NDArray[Any]]:
    """Return stored bars of (exchange, symbol, timeframe) with first <= open time < end, the oldest `limit`, as columns.

    `time` is int64 ns, prices and volume float64 (NaN where the table has null), the others as in COLUMNS. Errors: OutageError.
    """
    async with db.acquire() as connection:
        stream = await copy.copy_out(connection, sql("reading.columns"), *series, first, end or _LATEST, limit)
    rows = copy.decoded(_FORM, stream)
    found: dict[str, npt.NDArray[Any]] = {"time": copy.time_ns_of(rows)}
    for name in COLUMNS[1:]:
        found[name] = np.ascontiguousarray(rows[name].astype(rows[name].dtype.newbyteorder("=")))
    return found
