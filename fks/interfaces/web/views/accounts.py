"""Accounts: equity over time, what each holds, its limits, its fees, and the rules of its prop firm."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.visits import Visit

DAYS = (1, 7, 30, 365)


async def load(visit: Visit) -> dict[str, Any]:
    """Return the accounts with their equity, and the history of the chosen one."""
    found = await visit.read_all(accounts="/accounts", equity="/equity", limits="/limits")
    by_name = {row["account"]: row for row in found["equity"].items}
    names = [row["name"] for row in found["accounts"].items]
    wanted = visit.request.query_params.get("account")
    chosen = wanted if wanted in names else next(iter(by_name), names[0] if names else None)
    asked = visit.request.query_params.get("days", "")
    days = int(asked) if asked in {str(number) for number in DAYS} else 30
    history = {}
    if chosen is not None:
        history = await visit.read_all(points=(f"/equity/{quote(chosen, safe='')}", {"days": days}))
    own = next((row for row in found["limits"].items if row["account"] == chosen), None)
    return {**found, "by_name": by_name, "chosen": chosen, "days": days, "spans": DAYS, "own": own, **history}
