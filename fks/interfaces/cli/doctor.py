"""`fks doctor`: checks this machine and the running system, and prints remedies."""

from __future__ import annotations

from typing import Any

import click

from fks.interfaces.cli.base import home_of, result
from fks.model.health import DEGRADED, DOWN, HEALTHY
from fks.model.json_fields import json_fields

_WORDS = {HEALTHY: "ok", DEGRADED: "warn", DOWN: "fail"}
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_SUMMARIES = {"ok": "all is well", "warn": "usable, with remarks", "fail": "something has to be fixed"}


def show_checks(found: dict[str, Any], **_: Any) -> None:
    """Print the document of `checks_of`."""
    for check in found["checks"]:
        mark, colour = _MARKS[check["state"]]
        click.echo(f"{click.style(mark, fg=colour)} {check['name']:<16} {check['detail']}")
        if check["remedy"] and check["state"] != "ok":
            click.echo(f"  {'':<16} {click.style('→ ' + check['remedy'], fg=colour)}")
    click.echo(click.style(_SUMMARIES[found["state"]], fg=_MARKS[found["state"]][1], bold=True))


def checks_of(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the document of checks: each with name, state (ok, warn, fail), detail and remedy."""
    worst = max((row["state"] for row in rows), key=list(_MARKS).index, default="ok")
    return {"state": worst, **more, "checks": rows}


@click.command()
@result("fks.doctor/1", show_checks, failed=lambda found: found["state"] == "fail")
def doctor(ctx: click.Context) -> Any:
    """Check this machine and the running system; name what to fix. Exit 1 when anything fails."""
    import asyncio

    from fks.config.paths import Paths
    from fks.interfaces.cli.checkup import examine

    paths = Paths.of(home_of(ctx) or ".fks")
    checks = asyncio.run(examine(paths))
    rows = [{"name": c.name, "state": _WORDS[c.status]} | json_fields(c, "detail", "remedy") for c in checks]
    return checks_of(rows, home=str(paths.home))
