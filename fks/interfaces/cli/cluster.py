"""`fks cluster check`: whether a cluster can work, before it runs and while it does."""

from __future__ import annotations

from typing import Any

import click

from fks.interfaces.cli.base import Columns, paths_of, result
from fks.model.json_fields import json_fields

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red", "skipped": "bright_black"}
_CHECK: Columns = {
    "": lambda c: click.style(c["state"], fg=_COLOURS[c["state"]]),
    "check": "name",
    "found": "detail",
    "what to do": lambda c: c["remedy"] if c["state"] in ("warn", "bad") else "",
}


@click.group()
def cluster() -> None:
    """Check a cluster before and while it runs."""


@cluster.command()
@click.option("--file", "-f", metavar="FILE", default="cluster.yaml", show_default=True, help="What `ray up` is given.")
@click.argument("machines", nargs=-1, metavar="[MACHINE]...")
@result("fks.cluster-check/1", _CHECK, items="checks", failed=lambda found: found["state"] == "bad")
def check(ctx: click.Context, file: str, machines: tuple[str, ...]) -> Any:
    """Check cluster.yaml, its machines over ssh (or each MACHINE), and the nodes that run. Exit 1 when one fails."""
    import asyncio
    from pathlib import Path

    from fks.interfaces.cli.cluster_check import examine
    from fks.model.health import DEGRADED, DOWN, HEALTHY, UNKNOWN

    checks = asyncio.run(examine(paths_of(ctx), Path(file), machines))
    words = {HEALTHY: "ok", DEGRADED: "warn", DOWN: "bad", UNKNOWN: "skipped"}
    state = "bad" if any(found.status == DOWN for found in checks) else "ok"
    rows = [{"name": c.name, "state": words[c.status]} | json_fields(c, "detail", "remedy") for c in checks]
    return {"state": state, "checks": rows}
