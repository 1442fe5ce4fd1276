"""NinjaTrader: the link of each group, its accounts, and the signals that were sent to it."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the links, and the newest signals of their venues."""
    found = await visit.read_all(links="/ninja/links", signals=("/signals", {"limit": 200}), accounts="/accounts")
    venues = {row["name"]: row["venue"] for row in found["accounts"].items}
    ours = [row for row in found["signals"].items if "ninja" in str(venues.get(row["account"], row["venue"]))]
    return {**found, "ours": ours[:30]}
