"""Bars in columns: stored bars are left alone, new ones go in by COPY, reads go straight into numpy."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from fks.model.bar import Bars
from fks.model.errors import OutageError, invalid
from fks.model.instrument import GivenRules
from fks.model.timeframe import iso, to_datetime
from fks.store import copy, merging
from fks.store.base import SqlStore, reads
from fks.store.db import Database, Transaction, sql
from fks.store.merging import PRICES, Incoming, Merged
from fks.store.partitions import ensure_months

__all__ = ["BarStore", "Merged", "SeriesSummary"]

_LATEST_NS = 253_402_300_799_000_000_000  # the year 9999: what timestamptz and datetime both hold
_LONG_S = 600.0
_ATTEMPTS = 3  # of a merge that collided with a concurrent one
_READ = copy.row_form([("time", copy.TIME), *((name, copy.FLOAT) for name in PRICES)])


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """Summary of one stored series.

    `revision` changes whenever a stored bar was changed, deleted, or inserted before the newest: a copy of the same
    revision is exact up to its newest bar, and only lacks later ones. `candles` counts incomplete bars as well.
    `calendar`: the trading calendar given by an import; None: the exchange's. `lot`, `tick` and `largest`: rules given
    by an import (`fks.model.instrument.GivenRules`).
    """

    revision: int
    candles: int
    oldest_ns: int | None
    newest_ns: int | None
    calendar: str | None = None
    lot: Decimal | None = None
    tick: Decimal | None = None
    largest: Decimal | None = None

    @property
    def rules(self) -> GivenRules:
        """Return the rules given by an import."""
        return GivenRules(self.lot, self.tick, self.largest)


_series = reads(SeriesSummary, oldest_ns="oldest", newest_ns="newest")


class BarStore(SqlStore[Database], queries="bars"):
    """The table `ohlcv_data`, by series. Symbols are in the exchange's spelling. Errors of all methods: OutageError."""

    async def read(
        self,
        symbol: str,
        timeframe: str,
        from_ns: int = 0,
        to_ns: int | None = None,
        limit: int | None = None,
        *,
        exchange: str = "binance",
        is_newest: bool = False,
    ) -> Bars:
        """Return complete bars with from <= open time < to, oldest first.

        `limit` keeps the oldest of them, or the newest with `is_newest`.
        """
        query = "bars.read_all" if limit is None else "bars.read_last" if is_newest else "bars.read"
        end_ns = _LATEST_NS if to_ns is None else min(to_ns, _LATEST_NS)
        bounds: list[object] = [to_datetime(from_ns), to_datetime(end_ns), *(() if limit is None else (limit,))]
        try:
            stream = await self._db.copy_out(query, symbol, timeframe, exchange, *bounds)
        except OutageError as error:
            if not isinstance(error.__cause__, asyncpg.QueryCanceledError):
                raise
            stream = await self._long_read(query, symbol, timeframe, exchange, *bounds)
        rows = copy.decoded(_READ, stream)
        time_ns = copy.time_ns_of(rows)
        if len(rows) > 1 and not (time_ns[1:] > time_ns[:-1]).all():
            order = np.argsort(time_ns, kind="stable")
            rows, time_ns = rows[order], time_ns[order]
        return Bars(symbol, timeframe, time_ns, *(rows[name].astype(np.float64) for name in PRICES))

    async def _long_read(self, query: str, *args: object) -> bytearray:
        """Run a query that may take longer than the statement timeout: decades of minutes."""
        async with self._db.transaction(is_readonly=True) as tx:
            await tx.sql(f"SET LOCAL statement_timeout = '{_LONG_S:.0f}s'")
            return await copy.copy_out(tx.connection, sql(query), *args, timeout=_LONG_S + 5.0)

    async def merge(
        self,
        bars: Bars,
        *,
        exchange: str = "binance",
        source: str,
        trades: npt.ArrayLike | None = None,
        is_empty: npt.ArrayLike | None = None,
        tx: Transaction | None = None,
    ) -> Merged:
        """Store bars of one series, oldest first; return how many were new, different, and the same. Idempotent.

        A bar that differs is replaced and its revision grows. `trades` None, or 0 where there is a volume, leaves
        stored counts as they are; `is_empty` None means: flat and without volume. All or nothing, also inside the
        caller's transaction `tx`.
        Errors: InputError BARS_UNSORTED, BARS_NOT_FINITE; OutageError.
        """
        rows = Incoming.of(bars, exchange, source, trades, is_empty)
        if not len(rows):
            return Merged(0, 0, 0)
        _check(bars)
        if tx is not None:
            return await merging.merge(tx, rows)
        if len(rows) > merging.FEW:
            await ensure_months(self._db, to_datetime(int(bars.time_ns[0])), to_datetime(int(bars.time_ns[-1])))
        met: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                async with self._db.transaction() as own:
                    return await merging.merge(own, rows)
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
                # rolled back: a concurrent merge was first
                met = error
        raise OutageError(
            f"merge of {bars.symbol} {bars.timeframe}: other writers were faster {_ATTEMPTS} times"
        ) from met

    async def keep_calendar(self, bars: Bars, calendar: str, *, exchange: str, tx: Transaction) -> None:
        """Store the trading calendar of a stored series, which decides which bars can be missing; the last one counts.
        Idempotent."""
        await tx.execute("bars.keep_calendar", exchange, bars.symbol, bars.timeframe, calendar)

    async def stand(self, bars: Bars, *, exchange: str, tx: Transaction | None = None) -> tuple[int, int]:
        """Return (how many bars are stored over the span of `bars`, how often they were changed).

        A merge of `bars` adds its own Merged to them; when they grew by another amount, another writer wrote there.
        """
        if not len(bars):
            return 0, 0
        span = to_datetime(int(bars.time_ns[0])), to_datetime(int(bars.time_ns[-1]))
        row = await (tx or self._db).fetchrow("bars.stand", exchange, bars.symbol, bars.timeframe, *span)
        assert row is not None
        return row["bars"], row["changes"]

    async def keep_rules(self, bars: Bars, rules: GivenRules, *, exchange: str, tx: Transaction) -> None:
        """Store the trading rules of a stored series; those that are None stay as they are."""
        values = (rules.lot, rules.tick, rules.largest)
        await tx.execute("bars.keep_rules", exchange, bars.symbol, bars.timeframe, *values)

    async def series(self, symbol: str, timeframe: str, *, exchange: str = "binance") -> SeriesSummary | None:
        """Return the summary of one series, without reading its bars; None when it does not exist."""
        row = await self._db.fetchrow("bars.series", exchange, symbol, timeframe)
        return None if row is None else _series(row)

    async def coverage(self) -> list[dict[str, Any]]:
        """Return symbol, timeframe, candles, oldest, newest, time_range of each series."""

    async def edges(
        self, symbol: str, timeframe: str, *, exchange: str = "binance"
    ) -> tuple[int, int | None, int | None]:
        """Return (number of bars, open time of the oldest, of the newest) of one series."""
        found = await self.series(symbol, timeframe, exchange=exchange)
        return (
            (0, None, None) if found is None or not found.candles else (found.candles, found.oldest_ns, found.newest_ns)
        )


def _check(bars: Bars) -> None:
    """Refuse bars that no series can hold. Errors: InputError."""
    steps = np.diff(bars.time_ns // 1000)  # in the table's resolution
    if steps.size and int(steps.min()) <= 0:
        at = int(np.argmax(steps <= 0)) + 1
        raise invalid(
            "BARS_UNSORTED",
            f"bars of {bars.symbol} {bars.timeframe} are not in order: row {at + 1} opens at "
            f"{iso(int(bars.time_ns[at]))},"
            f" the one before at {iso(int(bars.time_ns[at - 1]))}",
            "sort them by time and leave each open time once",
        )
    for name in PRICES:
        column: npt.NDArray[np.float64] = getattr(bars, name)
        if not np.isfinite(column).all():
            at = int(np.argmin(np.isfinite(column)))
            raise invalid(
                "BARS_NOT_FINITE",
                f"{name} of {bars.symbol} {bars.timeframe} at {iso(int(bars.time_ns[at]))} is {column[at]}",
                "leave such rows out, or put them in quarantine",
            )
