"""Lookups before a read of market data: the meaning of a symbol, and the state of its series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fks.model.errors import InputError, invalid, not_found, unprocessable
from fks.model.instrument import folded
from fks.model.timeframe import to_datetime
from fks.store import copy
from fks.store.db import Database, Querier, sql

#: the columns of `read_columns`, in the one form of all interfaces
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
    """A symbol at an exchange. `base` and `quote` are empty when there are bars of it but no exchange here lists it."""

    exchange: str
    symbol: str
    base: str
    quote: str
    multiplier: Decimal
    has_bars: bool
    is_collected: bool
    is_chosen: bool = False  # a person made its exchange the symbol's default

    @property
    def is_listed(self) -> bool:
        """Return whether an exchange lists it: order rules exist only for listed ones."""
        return bool(self.base)

    @property
    def place(self) -> str:
        """Return the unambiguous name: binance:BTCUSDT."""
        return f"{self.exchange}:{self.symbol}"


class ReadingStore:
    """Reads about series. Errors of all methods: OutageError."""

    def __init__(self, querier: Querier) -> None:
        self._db = querier

    async def find(self, text: str, exchange: str | None = None, *, listed: bool = False) -> Listed:
        """Return the one symbol that `text` names: BTCUSDT, BTC/USDT, BTC-USDT, binance:BTCUSDT, in any case.

        The rule of all interfaces: a symbol of several exchanges means `exchange`, else the default that a person chose
        (`default_exchanges`), else the one where it is collected, else the one with bars. `listed`: only listed
        symbols. Errors: those of `spelled`; SYMBOL_AMBIGUOUS with the candidates.
        """
        rows = await self.spelled(text, exchange, listed=listed)
        rows = [row for row in rows if row.is_chosen] or rows
        rows = [row for row in rows if row.is_collected] or rows
        rows = [row for row in rows if row.has_bars] or rows
        if len(rows) > 1:
            raise ambiguous(text, [row.place for row in rows])
        return rows[0]

    async def trades(self, exchange: str, symbol: str, end_ns: int | None, limit: int) -> list[Mapping[str, Any]]:
        """Return the stored public trades of a symbol before a time, oldest first: time, price, quantity, and in
        `missing` how many ids are left out before each."""
        end = None if end_ns is None else to_datetime(end_ns)
        return [dict(row) for row in await self._db.fetch("reading.trades", exchange, symbol, end, limit)]

    async def trade_ids(self, exchange: str, symbol: str) -> list[int | None]:
        """Return the first and the last id of a symbol's stored public trades; None where there are none."""
        row = await self._db.fetchrow("reading.trade_ids", exchange, symbol)
        assert row is not None, "an aggregate has one row"
        return [row["first"], row["last"]]

    async def find_collected(self, text: str, exchange: str) -> Listed:
        """Return the one symbol at an exchange that `text` names and that is collected, for a strategy that reads its
        bars. Errors: those of `spelled`; INPUT_MISSING when it is not collected: no bar of it would ever be sealed."""
        found = await self.find(text, exchange)
        if not found.is_collected:
            raise unprocessable(
                "INPUT_MISSING",
                f"the strategy reads bars of {found.place}, and that is not collected",
                f"'fks assets enable {found.place}'; an instance that was stopped for it: 'fks strategies enable ID'",
            )
        return found

    async def spelled(self, text: str, exchange: str | None = None, *, listed: bool = False) -> list[Listed]:
        """Return everything that `text` may mean, by exchange and symbol, never nothing.

        Errors: InputError SYMBOL_UNKNOWN with known ones; EXCHANGE when `text` names another exchange than `exchange`.
        """
        prefix, _, rest = str(text).strip().rpartition(":")  # a notebook may pass any type
        if exchange and prefix and exchange.lower() != prefix.lower():
            raise unprocessable("EXCHANGE", f"{text!r} is not at {exchange}", "name one exchange, once")
        wanted = (exchange or prefix).lower() or None
        rows = await self._spelled(rest, wanted, listed)
        if rows:
            return rows
        elsewhere = [row.place for row in await self._spelled(rest, None, listed)] if wanted else []
        known = [row["symbol"] for row in await self._db.fetch("reading.known")]
        names = ", ".join(elsewhere or known)
        raise not_found(
            "SYMBOL_UNKNOWN",
            f"unknown symbol {text!r}{f' at {wanted}' if wanted else ''}",
            f"known: {names}" if names else "nothing is stored yet: 'fks data sample', or 'fks up'",
        )

    async def spelled_at(self, exchange: str, symbol: str) -> list[Listed]:
        """Return everything at one exchange that `symbol` may mean; [] for one without listing and stored bars."""
        return await self._spelled(symbol, exchange, False)

    async def _spelled(self, text: str, exchange: str | None, is_listed: bool) -> list[Listed]:
        rows = [Listed(**dict(row)) for row in await self._db.fetch("reading.spelled", folded(text), exchange)]
        return [row for row in rows if row.is_listed or not is_listed]

    async def sync_status(
        self, symbol: str | None = None, timeframe: str | None = None, exchange: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the state of syncs, by symbol; `symbol` in any spelling. A stored series without a sync is `collected`
        when its asset is, else `stored`."""
        wanted = None if symbol is None else folded(symbol)
        return [dict(row) for row in await self._db.fetch("reading.sync_status", wanted, timeframe, exchange)]


def ambiguous(text: str, places: Sequence[str]) -> InputError:
    """Return the error for a symbol that means several things (as `Listed.place` writes them), with the way to
    choose."""
    return invalid(
        "SYMBOL_AMBIGUOUS",
        f"ambiguous symbol {text!r}",
        f"it may be {', '.join(places)}: write it like that, or name the exchange "
        f"(exchange={places[0].partition(':')[0]})",
    )


async def read_columns(
    db: Database, series: tuple[str, str, str], first: datetime, end: datetime | None, limit: int
) -> dict[str, npt.NDArray[Any]]:
    """Return stored bars of (exchange, symbol, timeframe) with first <= open time < end, the oldest `limit`, as
    columns.

    `time` is int64 ns, prices and volume float64 (NaN where the table has null), the others as in COLUMNS. Errors:
    OutageError.
    """
    async with db.acquire() as connection:
        stream = await copy.copy_out(connection, sql("reading.columns"), *series, first, end or _LATEST, limit)
    rows = copy.decoded(_FORM, stream)
    found: dict[str, npt.NDArray[Any]] = {"time": copy.time_ns_of(rows)}
    for name in COLUMNS[1:]:
        found[name] = np.ascontiguousarray(rows[name].astype(rows[name].dtype.newbyteorder("=")))
    return found
