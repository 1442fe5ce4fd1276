"""Dashboard: the state of the system, money and risk on one page."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the newest of everything that a trader looks at first."""
    found = await visit.read_all(
        status="/api/status",
        equity="/equity",
        positions="/positions",
        orders=("/orders", {"open": "true", "limit": 50}),
        signals=("/signals", {"state": "pending", "limit": 50}),
        alerts="/alerts",
        listed="/assets",
    )
    return {**found, "places": places_by_symbol(found["listed"].items)}
