"""Machines of the cluster: each keeper writes its own row once a second, and any process reads them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fks.model.errors import InputError
from fks.model.health import SILENT_AFTER_S
from fks.store.base import SqlStore, query
from fks.store.db import Database

PAGE_S = 15.0  # after this silence a person is paged


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One machine. `clock_skew_ms`: its clock less the database's. `age_s`: since its keeper's last beat; 0 when
    written.

    `detail`: agreed (setting → hash), ray, python, session, home, resources, clock_error_ms, redis, waits_for,
    http (`fks.config.machine_http.report`); of a head keys and gcs_port, of a standby behind_s (age of the head's last
    renewal).
    """

    name: str
    role: str  # single | head | standby | worker
    state: str
    address: str = ""
    ray_node_id: str = ""
    version: str = ""
    config_hash: str = ""
    clock_skew_ms: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    age_s: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Return whether its keeper sent a beat lately."""
        return self.age_s <= SILENT_AFTER_S


def living_head(rows: Sequence[NodeRow]) -> NodeRow | None:
    """Return the head whose keeper sent a beat lately."""
    return next((row for row in rows if row.role in ("head", "single") and row.is_alive), None)


_COLUMNS = ("name", "role", "address", "ray_node_id", "state", "version", "config_hash", "clock_skew_ms", "detail")


class NodeStore(SqlStore[Database], queries="nodes"):
    """Rows of the machines. Errors of all: OutageError when PostgreSQL is away."""

    async def clock_skew_ms(self, now_ns: Callable[[], int]) -> tuple[float, float]:
        """Return how far our clock is ahead of the database's and how wrong that may be (half the round trip), in
        ms."""
        start = time.monotonic()
        before_ms = now_ns() / 1e6
        theirs: float = await self._db.fetchval("nodes.clock", retry=False)
        half_ms = (time.monotonic() - start) * 500.0
        return before_ms + half_ms - theirs, half_ms

    @query(binds=tuple(f"row.{name}" for name in _COLUMNS))
    async def beat(self, row: NodeRow) -> None:
        """Write our row."""

    @query(retry=False)
    async def all(self) -> list[NodeRow]:
        """Return every machine, heads first."""

    async def page_silent(self) -> list[str]:
        """Page for every machine that fell silent and was not paged for yet; return their names."""
        rows = await self._db.fetch("nodes.page_silent", PAGE_S, retry=False)
        return [str(row["component"]) for row in rows]

    async def forget_silent(self, after_s: float) -> list[str]:
        """Drop every machine that is still silent `after_s` seconds after its page; return their names."""
        rows = await self._db.fetch("nodes.forget_silent", after_s, retry=False)
        return [str(row["name"]) for row in rows]

    async def forget(self, name: str) -> bool:
        """Drop a machine that is gone for good, and its components; return whether there was one.

        Errors: InputError when it still sends beats.
        """
        row = next((row for row in await self.all() if row.name == name), None)
        if row is None:
            return False
        if row.is_alive:
            raise InputError(f"machine {name} still speaks", remedy="stop it there first: 'fks node stop'")
        await self.leave(name)
        return True

    async def leave(self, name: str) -> None:
        """Remove a machine that leaves in order, and what its keeper looked after."""
        await self._db.execute("nodes.forget_components", name, retry=True)
        await self._db.execute("nodes.leave", name, retry=True)  # last: by its row a person can forget the rest
