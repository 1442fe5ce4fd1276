"""`fks cluster check`: whether a cluster can work, before it runs and while it does."""

from __future__ import annotations

import click

from fks.cli.base import FAILED, OK, as_json, emit, paths_of, table


@click.group()
def cluster() -> None:
    """Check a cluster before and while it runs."""


@cluster.command()
@click.option("--file", "-f", metavar="FILE", default="cluster.yaml", show_default=True, help="What `ray up` is given.")
@as_json
@click.pass_context
def check(ctx: click.Context, file: str, as_json: bool) -> int:
    """Check cluster.yaml, tokens, the wheel and resources; on a running system every node. Exit 1 when one fails."""
    import asyncio
    from pathlib import Path

    from fks.cli.cluster_check import examine
    from fks.model.health import DOWN, HEALTHY, UNKNOWN

    checks = asyncio.run(examine(paths_of(ctx), Path(file)))
    words = {HEALTHY: ("ok", "green"), DOWN: ("bad", "red"), UNKNOWN: ("skipped", "bright_black")}
    is_bad = any(found.status == DOWN for found in checks)
    if as_json:
        items = [{"name": c.name, "state": words[c.status][0], "detail": c.detail, "remedy": c.remedy} for c in checks]
        emit({"state": "bad" if is_bad else "ok", "checks": items}, as_json=True, schema="fks.cluster-check/1")
    else:
        table(
            [
                (click.style(word, fg=colour), c.name, c.detail, c.remedy if c.status == DOWN else "")
                for c in checks
                for word, colour in [words[c.status]]
            ],
            ("", "check", "found", "what to do"),
        )
    return FAILED if is_bad else OK
