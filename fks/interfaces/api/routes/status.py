"""The state of the whole system, and of the kill switch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.query import Gate, Reader
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import KillView
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso
from fks.system.monitor.status import assemble, kill_view
from fks.system.monitor.tree import shape_of

router = Router(tags=["status"])


@router.get("/api/status")
async def status(gate: Gate, caller: Reader) -> ExactJson:
    """Return components, feeds, venues, the kill switch and the local exchange, as `fks status --json` shows them."""
    found = await assemble(gate.db, gate.deps.node())
    if found["sim"] and not caller.may("admin"):
        found["sim"] = {key: value for key, value in found["sim"].items() if key not in ("api_key", "api_secret")}
    return ExactJson({**found, "tree": shape_of(found["components"])})


@router.get("/kill", response_model=KillView)
async def kill(gate: Gate, caller: Reader) -> ExactJson:
    """Return the kill switch: the journal's rows and the guardian's own file. It is engaged by `fks kill`, not here."""
    rows = [dict(row) for row in await gate.db.fetch("monitor.kills")]
    return ExactJson({**kill_view(rows), "kills": rows, "guardian": _guardian_says(gate.deps.paths.kill_file)})


def _guardian_says(path: Path) -> dict[str, Any]:
    """Return the newest kill in the guardian's own fsynced files: they are right even when the rows lag behind."""
    from fks.trading.guardian.journal import read_kills

    records = read_kills(path)
    if not records:
        return {"engaged": False}
    record = records[0]
    return {
        "engaged": True,
        **json_fields(record, "kill_id", "scope", "reason", "by"),
        "since": iso(record.engaged_ns),
        "done": record.is_done,
        "scopes": [one.scope for one in records],
    }
