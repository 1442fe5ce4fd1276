"""Parts of the running system that a call needs: without one of them it is refused before anything is changed.

The gateway calls no actor: it commits rows, which a part takes up, and some of its calls are worthless until that has
happened. Those name the part here. Orders do not: they are committed and wait for the order manager (`valid_until`).
"""

from __future__ import annotations

from typing import Final

from fks.interfaces.api.gateway import Replica
from fks.model.errors import Problem
from fks.model.health import LOST_AFTER_S

ORDER_MANAGER: Final = "orders"
RETRY_S: Final = 5
_DEAD: Final = frozenset({"dead", "stopped", "failed"})


async def need(gate: Replica, part: str) -> None:
    """Errors: Problem 503 PART_DOWN naming the part when its last beat is too old, or it is known to be dead."""
    rows = await gate.db.fetch("monitor.components")
    row = next((row for row in rows if row["name"] == part), None)
    if row is None or (row["state"] not in _DEAD and row["heartbeat_age_ms"] < LOST_AFTER_S * 1000):
        return
    age_s = row["heartbeat_age_ms"] / 1000
    raise Problem(
        503,
        "PART_DOWN",
        f"{part} is needed for this and is down: its last beat was {age_s:.0f} s ago; nothing was changed",
        remedy="it is restarted by itself: try again in a moment, and see 'fks status'",
        headers={"Retry-After": str(RETRY_S)},
        part=part,
    )
