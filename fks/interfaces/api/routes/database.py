"""Size of the database and of its tables."""

from __future__ import annotations

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Admin, Gate
from fks.interfaces.api.routing import Router

router = Router(tags=["system"])
TABLES_MAX = 50


@router.get("/database")
async def database(gate: Gate, caller: Admin) -> ExactJson:
    """Return what `fks db status` shows: version, bytes, connections, the schema's revision and the largest tables."""
    row = await gate.db.fetchrow("store.overview")
    assert row is not None
    found = dict(row)
    found["uptime_s"] = round(found.pop("uptime").total_seconds(), 1)
    tables = [dict(one) for one in await gate.db.fetch("store.sizes")]
    revision = await gate.db.fetchval("store.revision")
    return ExactJson({"revision": revision, **found, "tables": tables[:TABLES_MAX]})
