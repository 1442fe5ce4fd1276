"""Own columns of strategies in their table: values that were known from some moment on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

import numpy as np

from fks.model.bar import Bars
from fks.model.errors import InputError, conflict, unprocessable
from fks.model.features import (
    EVENTS,
    FORECAST,
    EventColumn,
    EventRevision,
    aligned,
    check_feature_name,
    model_of,
    near_events,
)
from fks.model.instrument import folded
from fks.model.timeframe import NS, iso, to_datetime, to_ns
from fks.store.base import SqlStore
from fks.store.db import Database, Querier

_AT_ONCE = 10_000  # rows that one statement stores


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """A value of a column: of which time it is, and from when on it was known. `symbol` "": of every symbol.

    `knowledge_ns`: up to when the language model that made it knows the world; None: no such model made it.
    """

    feature: str
    symbol: str
    time_ns: int
    known_ns: int
    value: float
    source: str = ""
    knowledge_ns: int | None = None


class FeatureStore(SqlStore[Querier], queries="feature_values"):
    """The table `feature_values`. Errors: OutageError."""

    async def ensure(self, names: Iterable[str], symbol: str) -> None:
        """Refuse columns of which a symbol has no row, nor every symbol one. Errors: InputError FEATURE_UNKNOWN."""
        for name in names:
            if name.startswith(EVENTS):
                currency = EventColumn.parse(name).currency
                if not (await self._state(name, symbol))["count"]:
                    raise unprocessable(
                        "FEATURE_UNKNOWN",
                        f"no economic event{f' of {currency}' if currency else ''} is stored",
                        "'fks data import-events FILE' imports them",
                    )
            elif await self._db.fetchval("feature_values.is_known", name, folded(symbol)) is None:
                raise unprocessable(
                    "FEATURE_UNKNOWN",
                    f"there is no column {name} of {symbol}",
                    "'fks forecast predict MODEL' fills it"
                    if name.startswith(FORECAST)
                    else "'fks data import-features FILE' imports it, 'fks data features' lists the stored ones",
                )

    async def aligned(self, names: Iterable[str], symbol: str, bars: Bars) -> Bars:
        """Return bars of a symbol with columns beside them, made of its own rows and those of every symbol; of two with
        the same times its own counts. Errors: as `ensure`."""
        found = {}
        for name in names:
            await self.ensure([name], symbol)
            ends = bars.ends_ns
            span = (0, 0) if not len(ends) else (int(ends[0]), int(ends[-1]))
            if name.startswith(EVENTS):
                column = EventColumn.parse(name)
                found[name] = near_events(bars, column, await self._revisions(column, span))
                continue
            rows = await self._db.fetch("feature_values.read", name, folded(symbol), *map(to_datetime, span))
            time_ns, known_ns = (
                np.array([to_ns(r[key]) for r in rows], dtype=np.int64) for key in ("time", "known_at")
            )
            values = np.array([row["value"] for row in rows], dtype=np.float64)
            found[name] = aligned(bars, time_ns, known_ns, values)
            if name.startswith(FORECAST):  # a prediction holds for one bar of its model, however late the next one is
                held_ns = int(await self._db.fetchval("forecasts.bar_s", model_of(name)) or 0) * NS
                found[name].values[ends - found[name].time_ns >= held_ns] = np.nan
        return bars.with_features(found) if found else bars

    async def check_knowledge(self, names: Iterable[str], symbol: str, from_ns: int) -> None:
        """Refuse columns that a language model made when bars from a time on lie before what it knows: it may remember
        them. Errors: InputError FEATURE_KNOWLEDGE."""
        for name in names:
            known = await self._db.fetchval("feature_values.knowledge", name, folded(symbol))
            if not name.startswith(FORECAST) and known is not None and from_ns < to_ns(known):
                raise unprocessable(
                    "FEATURE_KNOWLEDGE",
                    f"the model that made {name} knows the world up to {iso(to_ns(known))}, and the bars begin at "
                    f"{iso(from_ns)}",
                    "begin the run after that: it may remember what comes before",
                )

    async def state(self, names: Iterable[str], symbol: str) -> dict[str, list[Any]]:
        """Return the state of columns: the number of their rows, and when the newest was recorded."""
        found = {}
        for name in names:
            row = await self._state(name, symbol)
            found[name] = [row["count"], None if row["recorded_at"] is None else to_ns(row["recorded_at"])]
        return found

    async def _state(self, name: str, symbol: str) -> Mapping[str, Any]:
        if name.startswith(EVENTS):
            row = await self._db.fetchrow("corporate_actions.economic_state", EventColumn.parse(name).currency)
        else:
            row = await self._db.fetchrow("feature_values.state", name, folded(symbol))
        assert row is not None, "an aggregate has one row"
        return dict(row)

    async def _revisions(self, column: EventColumn, span: tuple[int, int]) -> Sequence[EventRevision]:
        first, last = to_datetime(span[0] - column.reach_ns), to_datetime(span[1] + column.reach_ns)
        rows = await self._db.fetch("corporate_actions.economic_revisions", column.currency, first, last)
        return [
            EventRevision(
                (row["currency"], row["name"], at_ns := to_ns(row["time"])),
                at_ns,
                row["importance"],
                to_ns(row["published_at"]),
            )
            for row in rows
        ]

    async def list(self, name: str | None = None) -> list[Mapping[str, Any]]:
        """Return each column and symbol with its rows, oldest and newest time, and the newest `known_at`."""

    async def remove(self, name: str, symbol: str | None = None) -> int:
        """Delete a column, of all symbols or of one; return how many rows. Predictions that were made live stay."""
        return int(await self._db.fetchval("feature_values.remove", name, None if symbol is None else folded(symbol)))


async def add_features(db: Database, values: Sequence[FeatureValue]) -> int:
    """Store values, all or none; return how many are new. The same ones again change nothing, except that one stored
    without `knowledge_ns` is given it.

    Errors: InputError FEATURE_NAME; FEATURE_TIME for one that was known before the time it is of; FEATURE_KNOWLEDGE for
    one of a time that the language model which made it may remember; FEATURE_CHANGED for one that is stored with
    another value or knowledge of the same times: a known value is never changed.
    """
    for one in values:
        check_feature_name(one.feature)
        if isinf(one.value):
            raise InputError(f"{one.feature} of {iso(one.time_ns)} is infinite", status=422, remedy="leave it empty")
        if one.known_ns < one.time_ns:
            raise unprocessable(
                "FEATURE_TIME",
                f"{one.feature} of {iso(one.time_ns)} was known before, at {iso(one.known_ns)}",
                "give as time when it was made, of a forecast too, and as known_at when it could be read",
            )
        if one.knowledge_ns is not None and one.time_ns < one.knowledge_ns:
            raise unprocessable(
                "FEATURE_KNOWLEDGE",
                f"{one.feature} is of {iso(one.time_ns)}, and its model knows the world up to {iso(one.knowledge_ns)}",
                "leave out what the model may remember",
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
            known = [None if one.knowledge_ns is None else to_datetime(one.knowledge_ns) for one in part]
            added += len(await tx.fetch("feature_values.add", *columns, [one.source for one in part], known))
            await tx.execute("feature_values.date", *columns[:4], known)
            other = await tx.fetchrow("feature_values.changed", *columns, known)
            if other is not None and other["value"] == other["given"]:
                raise conflict(
                    "FEATURE_CHANGED",
                    f"the model that made {other['feature']} of {iso(to_ns(other['time']))} is stored as one that "
                    f"knows the world up to {iso(to_ns(other['label_end']))}",
                    "give that time, or remove the column first ('fks data features NAME --remove')",
                )
            if other is not None:
                raise conflict(
                    "FEATURE_CHANGED",
                    f"{other['feature']} of {iso(to_ns(other['time']))} is {other['value']:g}, known from "
                    f"{iso(to_ns(other['known_at']))} on, not {other['given']:g}",
                    "give a correction the later known_at at which it came, or remove the column first "
                    "('fks data features NAME --remove')",
                )
    return added
