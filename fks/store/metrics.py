"""Metric snapshots in PostgreSQL, for the time that Redis is away. Redis is where they are kept else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fks.store.base import SqlStore
from fks.store.db import Database

#: Name of the row with the merged text of all actors; no component has brackets in its name.
TEXT: Final = "(merged)"


class MetricStore(SqlStore[Database], queries="metrics"):
    """Reads and writes metric_snapshots."""

    async def save(self, component: str, body: str) -> None:
        """Keep the newest snapshot of a component. Errors: OutageError."""

    async def young(self, age_max_s: float) -> Mapping[str, bytes]:
        """Return the snapshots that are not older, by component. Errors: OutageError."""
        rows = await self._db.fetch("metrics.young", age_max_s, retry=False)
        return {row["component"]: row["body"].encode() for row in rows}

    async def text(self, age_max_s: float) -> bytes | None:
        """Return the merged text, or None when it is older. Errors: OutageError."""
        body = await self._db.fetchval("metrics.one", TEXT, age_max_s, retry=False)
        return None if body is None else str(body).encode()
