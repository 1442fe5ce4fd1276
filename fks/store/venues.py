"""Persons' decisions about venues (`venues`), the venues of instruments (`venue_routes`), and the passes of plug-ins
(`venue_passes`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fks.model.errors import conflict
from fks.model.venue import VenueRoute, VenueRule
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database, Querier

reads(VenueRule)


class VenueStore(SqlStore[Querier], queries="venues"):
    """Reads, and the change of routes. Takes a database or a transaction."""

    async def rules(self) -> list[VenueRule]:
        """Return persons' decisions about venues."""

    async def page(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return every venue that the order manager has or had (or the one of a name), with the decisions about it."""

    @query(name="passes")
    async def pass_rows(self) -> list[dict[str, Any]]:
        """Return the passes of the cases of plug-ins, and the certificates of exchanges, the newest first."""

    async def passes(self) -> set[tuple[str, str, str]]:
        """Return exchange, version and digest of each plug-in whose cases passed."""
        return {(row["exchange"], row["version"], row["digest"]) for row in await self.pass_rows() if row["digest"]}

    async def certificates(self) -> dict[str, dict[str, Any]]:
        """Return the last certificate by exchange: `at`, `release` of FKS, `environment`, and the `cases` passed."""
        names = {"at": "passed_at", "release": "version", "environment": "environment", "cases": "cases"}
        rows = [row for row in await self.pass_rows() if not row["digest"]]
        return {row["exchange"]: {name: row[of] for name, of in names.items()} for row in reversed(rows)}

    async def note_pass(
        self, exchange: str, version: str, digest: str, cases: Sequence[str], environment: str = "sim"
    ) -> None:
        """Note that cases passed now: those of a plug-in at its stand-in, or those of a certificate (`digest` is "")
        at an exchange of this environment."""

    async def ready(self) -> set[tuple[str, int]]:
        """Return venue and account of each session that takes entries."""

    @query(name="routes")
    async def route_rows(self) -> list[dict[str, Any]]:
        """Return the routes with their versions."""

    async def routes(self) -> list[VenueRoute]:
        """Return the routes."""
        return [VenueRoute(row["pattern"], tuple(row["venues"])) for row in await self.route_rows()]

    async def put_route(self, pattern: str, version: int, venues: Sequence[str], by: str) -> dict[str, Any] | None:
        """Set the venues of a pattern that is at `version` (0: there is none yet); None when it is not."""

    async def drop_route(self, pattern: str) -> bool:
        """Remove a pattern; return whether it was there."""


async def change_venue(
    db: Database,
    name: str,
    version: int,
    *,
    sets_enabled: bool,
    is_enabled: bool | None,
    is_default: bool | None,
    priority: int | None,
    by: str,
) -> None:
    """Change the decisions about a venue that is at `version` (0: there are none yet). `is_enabled` counts with
    `sets_enabled` alone; None then is what the settings say. A new default takes it from another venue.

    Errors: InputError VENUE_CHANGED (409) when it is at another version.
    """
    async with db.transaction() as tx:
        await tx.execute("venues.lock")
        if is_default:
            await tx.execute("venues.drop_default", name, by)
        at = await tx.fetchval("venues.change", name, version, sets_enabled, is_enabled, is_default, priority, by)
        if at is None:
            raise conflict("VENUE_CHANGED", f"venue {name} is not at version {version}", "read it again")
