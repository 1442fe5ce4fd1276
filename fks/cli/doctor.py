"""`fks doctor`: checks this machine and the running system, and prints remedies."""

from __future__ import annotations

import click

from fks.cli.base import FAILED, OK, as_json, emit, home_of

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command()
@as_json
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check this machine and the running system; name what to fix. Exit 1 when anything fails."""
    import asyncio

    from fks.cli.checkup import examine
    from fks.config.paths import Paths

    paths = Paths.of(home_of(ctx) or ".fks")
    checks = asyncio.run(examine(paths))
    worst = (
        "fail" if any(c.state == "fail" for c in checks) else "warn" if any(c.state == "warn" for c in checks) else "ok"
    )
    if as_json:
        rows = [{"name": c.name, "state": c.state, "detail": c.detail, "remedy": c.remedy} for c in checks]
        emit({"state": worst, "home": str(paths.home), "checks": rows}, as_json=True, schema="fks.doctor/1")
    else:
        for check in checks:
            mark, colour = _MARKS[check.state]
            click.echo(f"{click.style(mark, fg=colour)} {check.name:<16} {check.detail}")
            if check.remedy and check.state != "ok":
                click.echo(f"  {'':<16} {click.style('→ ' + check.remedy, fg=colour)}")
        summaries = {"ok": "all is well", "warn": "usable, with remarks", "fail": "something has to be fixed"}
        click.echo(click.style(summaries[worst], fg=_MARKS[worst][1], bold=True))
    return FAILED if worst == "fail" else OK
