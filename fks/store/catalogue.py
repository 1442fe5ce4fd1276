"""Descriptions of users' strategies in the database, by the hash of their file: a cache that any process may fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fks.store.base import SqlStore, columns_of, query
from fks.store.db import Database


@dataclass(frozen=True, slots=True)
class Key:
    """A file (or `package:NAME`), the SHA-256 of its source, and the build of FKS that read it."""

    place: str
    sha256: str
    build: str


class CatalogueStore(SqlStore[Database], queries="catalogue"):
    """Reads and writes strategy_files. Errors: OutageError."""

    async def load(self, keys: Sequence[Key], *, slow_s: float) -> Mapping[Key, list[dict[str, Any]]]:
        """Return the descriptions that are known; those of files that took too long for `slow_s` seconds only."""
        if not keys:
            return {}
        rows = await self._db.fetch("catalogue.load", *columns_of(keys, "place", "sha256", "build"), slow_s)
        return {Key(row["place"], row["sha256"], row["build"]): row["entries"] for row in rows}

    @query(binds=("key.place", "key.sha256", "key.build", "entries", "is_final"))
    async def save(self, key: Key, entries: Sequence[Mapping[str, Any]], *, is_final: bool) -> None:
        """Keep the descriptions of a file, and forget those that nothing asked for in a long time."""
