"""Strategies: the catalogue and the running instances."""

from __future__ import annotations

import asyncio
from typing import Any

from fks.api.exact import ExactJson
from fks.api.query import Gate, Reader
from fks.api.routing import Router
from fks.api.views import StrategiesView

router = Router(tags=["strategies"])


@router.get("/strategies", response_model=StrategiesView)
async def strategies(gate: Gate, who: Reader) -> ExactJson:
    """Return the catalogue (name, parameters, origin) and every running instance."""
    # loading the catalogue imports the strategies' libraries: in a thread, and only on request
    catalogue = await asyncio.to_thread(_catalogue, gate.deps.paths.strategies)
    instances = [dict(row) for row in await gate.db.fetch("gateway.instances")]
    return ExactJson({"catalogue": catalogue, "instances": instances})


def _catalogue(folder: Any) -> list[dict[str, Any]]:
    from fks.strategies.registry import load_catalogue

    return [
        {
            "name": entry.name,
            "origin": entry.origin,
            "summary": entry.summary,
            "error": entry.error or None,
            "params": None if entry.kind is None else entry.kind.model_json_schema().get("properties", {}),
        }
        for entry in load_catalogue(folder).entries.values()
    ]
