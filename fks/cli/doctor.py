"""`fks doctor`: checks this machine and the running system, and prints remedies."""

from __future__ import annotations

import click

from fks.cli.base import FAILED, OK, as_json, emit, home_of
from fks.model.health import DEGRADED, DOWN, HEALTHY, level

#: Status of a check → its word, mark, colour, and the summary when it is the worst.
_SHOWN = {
    HEALTHY: ("ok", "✓", "green", "all is well"),
    DEGRADED: ("warn", "!", "yellow", "usable, with remarks"),
    DOWN: ("fail", "✗", "red", "something has to be fixed"),
}


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
    statuses = {check.status for check in checks}
    worst = level(statuses <= {HEALTHY}, DOWN not in statuses)
    if as_json:
        rows = [{"name": c.name, "state": _SHOWN[c.status][0], "detail": c.detail, "remedy": c.remedy} for c in checks]
        emit({"state": _SHOWN[worst][0], "home": str(paths.home), "checks": rows}, as_json=True, schema="fks.doctor/1")
    else:
        for check in checks:
            _, mark, colour, _ = _SHOWN[check.status]
            click.echo(f"{click.style(mark, fg=colour)} {check.name:<16} {check.detail}")
            if check.remedy and check.status != HEALTHY:
                click.echo(f"  {'':<16} {click.style('→ ' + check.remedy, fg=colour)}")
        _, _, colour, summary = _SHOWN[worst]
        click.echo(click.style(summary, fg=colour, bold=True))
    return FAILED if worst == DOWN else OK
