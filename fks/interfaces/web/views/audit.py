"""Audit: each change and login, with its author."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the newest rows, narrowed by the query."""
    asked = visit.request.query_params
    before, chosen = asked.get("before", ""), {name: asked.get(name, "")[:128] for name in ("actor", "action")}
    params = {name: text or None for name, text in chosen.items()}
    number = before if before.isdigit() and len(before) < 19 else None
    found = await visit.read_all(audit=("/audit", {**params, "before": number, "limit": 100}))
    return {**found, "chosen": chosen}
