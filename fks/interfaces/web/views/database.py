"""Database: how it answers, its disk, and the age of the newest backup."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.visits import Visit

CHECKS = ("database", "backup", "disk", "redis")


async def load(visit: Visit) -> dict[str, Any]:
    """Return the last deep checks of what keeps the data, and the schedules that keep it."""
    found = await visit.read_all(
        **{name: f"/monitor/api/health/{name}/" for name in CHECKS},
        schedules="/schedules",
        size="/database",
    )
    checks = [(name, found[name]) for name in CHECKS]
    kept = [row for row in found["schedules"].items if row["action"] in ("backup", "retention")]
    return {**found, "checks": checks, "kept": kept}
