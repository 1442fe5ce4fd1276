"""Own columns of strategies in their table: values that were known from some moment on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

import numpy as np

from fks.bars.features import aligned, check_feature_name, ends_ns
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.instrument import folded
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.base import SqlStore
from fks.store.db import Database, Querier

_AT_ONCE = 10_000  # rows that one statement stores


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """A value of a column: of which time it is, and from when on it was known. `symbol` "": of every symbol."""

    feature: str
    symbol: str
    time_ns: int
    known_ns: int
    value: float
    source: str = ""


class FeatureStore(SqlStore[Querier], queries="feature_values"):
    """The table `feature_values`. Errors: OutageError."""

    async def ensure(self, names: Iterable[str], symbol: str) -> None:
        """Refuse columns of which a symbol has no row, nor every symbol one. Errors: InputError FEATURE_UNKNOWN."""
        for name in names:
            if await self._db.fetchval("feature_values.is_known", name, folded(symbol)) is None:
                raise InputError(
                    f"there is no column {name} of {symbol}",
                    code="FEATURE_UNKNOWN",
                    status=422,
                    remedy="'fks data import-features FILE' imports it, 'fks data features' lists the stored ones",
                )

    async def aligned(self, names: Iterable[str], symbol: str, bars: Bars) -> Bars:
        """Return bars of a symbol with columns beside them, made of its own rows and those of every symbol; of two with
        the same times its own counts. Errors: as `ensure`."""
        found = {}
        for name in names:
            await self.ensure([name], symbol)
            ends = ends_ns(bars)
            span = (0, 0) if not len(ends) else (int(ends[0]), int(ends[-1]))
            rows = await self._db.fetch("feature_values.read", name, folded(symbol), *map(to_datetime, span))
            time_ns, known_ns = (
                np.array([to_ns(r[key]) for r in rows], dtype=np.int64) for key in ("time", "known_at")
            )
            values = np.array([row["value"] for row in rows], dtype=np.float64)
            found[name] = aligned(bars, time_ns, known_ns, values)
        return bars.with_features(found) if found else bars

    async def state(self, names: Iterable[str], symbol: str) -> dict[str, list[Any]]:
        """Return the state of columns: the number of their rows, and when the newest was recorded."""
        found = {}
        for name in names:
            row = await self._db.fetchrow("feature_values.state", name, folded(symbol))
            assert row is not None
            found[name] = [row["count"], None if row["recorded_at"] is None else to_ns(row["recorded_at"])]
        return found

    async def list(self, name: str | None = None) -> list[Mapping[str, Any]]:
        """Return each column and symbol with its rows, oldest and newest time, and the newest `known_at`."""

    async def remove(self, name: str, symbol: str | None = None) -> int:
        """Delete a column, of all symbols or of one; return how many rows."""
        return int(await self._db.fetchval("feature_values.remove", name, None if symbol is None else folded(symbol)))


async def add_features(db: Database, values: Sequence[FeatureValue]) -> int:
    """Store values, all or none; return how many are new. The same ones again change nothing.

    Errors: InputError FEATURE_NAME; FEATURE_TIME for one that was known before the time it is of; FEATURE_CHANGED for
    one that is stored with another value of the same times: a known value is never changed.
    """
    for one in values:
        check_feature_name(one.feature)
        if isinf(one.value):
            raise InputError(f"{one.feature} of {iso(one.time_ns)} is infinite", status=422, remedy="leave it empty")
        if one.known_ns < one.time_ns:
            raise InputError(
                f"{one.feature} of {iso(one.time_ns)} was known before, at {iso(one.known_ns)}",
                code="FEATURE_TIME",
                status=422,
                remedy="give as time when it was made, of a forecast too, and as known_at when it could be read",
            )
    added = 0
    async with db.transaction() as tx:
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            columns: list[list[Any]] = [
                [one.feature for one in part],
                [folded(one.symbol) if one.symbol else "" for one in part],
                [to_datetime(one.time_ns) for one in part],
                [to_datetime(one.known_ns) for one in part],
                [one.value for one in part],
            ]
            added += len(await tx.fetch("feature_values.add", *columns, [one.source for one in part]))
            other = await tx.fetchrow("feature_values.changed", *columns)
            if other is not None:
                raise InputError(
                    f"{other['feature']} of {iso(to_ns(other['time']))} is {other['value']:g}, known from "
                    f"{iso(to_ns(other['known_at']))} on, not {other['given']:g}",
                    code="FEATURE_CHANGED",
                    status=409,
                    remedy="give a correction the later known_at at which it came, or remove the column first "
                    "('fks data features NAME --remove')",
                )
    return added
