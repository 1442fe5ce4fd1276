"""Rows of the tree: its history, its restart windows, every component's last beat, pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from fks.model.errors import OutageError
from fks.model.timeframe import to_datetime
from fks.store.base import SqlStore, query
from fks.store.db import Database

#: key of a child's `component_health.detail` with the reason of its escalation, until a person has ended that
ESCALATION = "escalation"
#: Children that orders depend on: while one of them is escalated, entries are denied (ESCALATED).
MONEY = ("guardian", "orders")
_COSTS_A_LINE = (OutageError, asyncpg.PostgresError)


@dataclass(frozen=True, slots=True)
class HealthRow:
    """One component's line in `component_health`. Times in ns UTC."""

    name: str
    kind: str  # keeper | service | serve | actor
    state: str
    pid: int | None
    node: str
    restarts: int
    since_ns: int | None
    beat_ns: int | None
    epoch: int = 0
    version: str = ""
    config_version: int = 0
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WantedTree:
    """The rows that the tree depends on: the enabled strategy instances with a worker of their own, the exchanges with
    a symbol to collect, whether challengers decide, and the worker nodes of the cluster. `workers`: the number of the
    strategy worker of each instance, for the balance between them. `has_deployments`: language models are to be
    served. `has_mt5`: an account trades at MetaTrader 5."""

    isolated: tuple[str, ...]
    exchanges: tuple[str, ...]
    has_challengers: bool
    worker_nodes: int
    workers: tuple[int, ...] = ()
    has_deployments: bool = False
    has_mt5: bool = False


class TreeJournal(SqlStore[Database], queries="supervision"):
    """The supervisor's access to its rows. A database that is away costs a line of history, never a restart."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self._written: dict[str, HealthRow] = {}  # rows as stored, but for their beats

    async def note(
        self,
        child: str,
        event: str,
        reason: str,
        *,
        pid: int | None,
        epoch: int,
        node: str = "",
        payload: Mapping[str, object] | None = None,
        age_s: float = 0.0,
    ) -> bool:
        """Append to the tree's history what happened `age_s` ago, waiting a second at most; return whether it was
        written.

        `payload`: facts beyond the reason, e.g. exit code, signal, last log lines
        (`fks.system.supervision.exits.Exit`).
        """
        facts = _clean(dict(payload or {}))
        try:
            async with asyncio.timeout(1.0):
                await self._db.execute(
                    "supervision.note_event", child, event, _clean(reason)[:500], pid, epoch, facts, node, age_s
                )
        except (*_COSTS_A_LINE, TimeoutError):
            return False
        return True

    async def wanted(self) -> WantedTree:
        """Return what the tree depends on. Errors: OutageError."""

    async def lives(self, within_s: float) -> dict[str, list[tuple[str, float]]]:
        """Return the starts and deaths of each child in the last `within_s` as (event, age in s), oldest first.

        Errors: OutageError.
        """
        lives: dict[str, list[tuple[str, float]]] = {}
        for row in await self._db.fetch("supervision.lives", within_s, retry=False):
            lives.setdefault(row["child"], []).append((row["event"], float(row["age_s"])))
        return lives

    @query(retry=False)
    async def escalations(self) -> dict[str, str]:
        """Return each escalated child with the reason, unless a person has ended the escalation. Errors:
        OutageError."""

    @query(retry=False)
    async def restart_counts(self) -> dict[str, int]:
        """Return how often each child was ever restarted. Errors: OutageError."""

    @query(retry=False)
    async def proven_end(self, child: str) -> int | None:
        """Return the epoch of the last process of a child that was seen to end, if it is proven gone. Errors:
        OutageError.

        Where no epoch was raised since, no process of the child is left anywhere.
        """

    @query(retry=False)
    async def actors(self) -> list[str]:
        """Return the names of the actors that have a row: those of this tree, and of the one before. Errors:
        OutageError."""

    async def page(self, event: str, message: str, component: str) -> bool:
        """Page a person; return whether it was stored."""
        try:
            await self._db.execute(
                "alerting.raise", None, "page", event, _clean(message), component, {}, None, None, None
            )
        except _COSTS_A_LINE:
            return False
        return True

    async def write_health(self, rows: Sequence[HealthRow]) -> None:
        """Write the last beat of many components: of those that changed the whole row, in one statement. Errors:
        OutageError."""
        settled = {row.name: replace(row, beat_ns=None) for row in rows}
        changed = [row for row in rows if self._written.get(row.name) != settled[row.name]]
        known, self._written = self._written, {}  # after an error the stored rows are unknown
        if changed:
            await self._write_whole(changed)
        steady = [row for row in rows if known.get(row.name) == settled[row.name]]
        if not steady or await self._touch(steady) == len(steady):
            self._written = settled

    async def _touch(self, rows: Sequence[HealthRow]) -> int:
        """Update the beats of unchanged rows; return their number."""
        beats = [to_datetime(row.beat_ns) if row.beat_ns else None for row in rows]
        names, epochs = [row.name for row in rows], [row.epoch for row in rows]
        return int(await self._db.fetchval("supervision.touch_health", names, beats, epochs, retry=False))

    async def _write_whole(self, rows: Sequence[HealthRow]) -> None:
        table = [
            (
                row.name,
                row.kind,
                row.state,
                row.pid,
                row.node,
                row.restarts,
                to_datetime(row.since_ns) if row.since_ns else None,
                to_datetime(row.beat_ns) if row.beat_ns else None,
                row.epoch,
                row.version,
                row.config_version,
                _clean(row.detail),
            )
            for row in rows
        ]
        await self._db.execute("supervision.upsert_health", *(list(column) for column in zip(*table, strict=True)))

    @query("forget_components")
    async def forget_others(self, names: Sequence[str]) -> None:
        """Drop the actor rows of components that this tree does not have. Errors: OutageError."""


def _clean(value: Any) -> Any:
    """Return `value` without the character NUL, which PostgreSQL cannot keep: one such text must not cost all rows."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
