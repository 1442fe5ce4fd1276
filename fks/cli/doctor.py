"""`fks doctor`: checks this machine and the running system, and prints remedies."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import fields, home_of, result
from fks.model.health import DEGRADED, DOWN, HEALTHY

_WORDS = {HEALTHY: "ok", DEGRADED: "warn", DOWN: "fail"}
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_SUMMARIES = {"ok": "all is well", "warn": "usable, with remarks", "fail": "something has to be fixed"}


def _show(found: dict[str, Any]) -> None:
    for check in found["checks"]:
        mark, colour = _MARKS[check["state"]]
        click.echo(f"{click.style(mark, fg=colour)} {check['name']:<16} {check['detail']}")
        if check["remedy"] and check["state"] != "ok":
            click.echo(f"  {'':<16} {click.style('→ ' + check['remedy'], fg=colour)}")
    click.echo(click.style(_SUMMARIES[found["state"]], fg=_MARKS[found["state"]][1], bold=True))


@click.command()
@result("fks.doctor/1", _show, failed=lambda found: found["state"] == "fail")
def doctor(ctx: click.Context) -> Any:
    """Check this machine and the running system; name what to fix. Exit 1 when anything fails."""
    import asyncio

    from fks.cli.checkup import examine
    from fks.config.paths import Paths

    paths = Paths.of(home_of(ctx) or ".fks")
    checks = asyncio.run(examine(paths))
    rows = [{"name": c.name, "state": _WORDS[c.status]} | fields(c, "detail", "remedy") for c in checks]
    worst = max((row["state"] for row in rows), key=list(_MARKS).index, default="ok")
    return {"state": worst, "home": str(paths.home), "checks": rows}
