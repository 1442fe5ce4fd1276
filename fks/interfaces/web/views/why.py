"""Story of one decision: bar, strategy values, signal, checks, order, its events and fills."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the stories of an order or a signal."""
    what = visit.request.path_params["what"]
    found = await visit.read_all(why=("/why", {"what": what}), listed="/assets")
    return {**found, "what": what, "places": places_by_symbol(found["listed"].items)}
