"""`fks audit`: the append-only record of changes, through the gateway with this node's own token."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.group()
def audit() -> None:
    """Show changes: author, action, address."""


@audit.command("list")
@click.option("--actor", metavar="A", help="Of this token's name, or user:NAME.")
@click.option("--action", metavar="TEXT", help="Whose action has this text: /tokens, login.")
@click.option("--since", metavar="TIME", help="From this time on, ISO 8601.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many rows.")
@as_json
@click.pass_context
def list_(
    ctx: click.Context, actor: str | None, action: str | None, since: str | None, limit: int, as_json: bool
) -> None:
    """List the audit, newest first: `requested` before a change, `answered` with its status, `noted` for logins."""
    with gateway_of(ctx) as gateway:
        items = gateway.pages("/audit", limit, actor=actor, action=action, since=since)
    emit(items, as_json=as_json, schema="fks.audit/1")
    if not as_json:
        rows = [
            (
                time_of(i["at"]),
                i["actor"],
                i["phase"],
                i["action"],
                i["object"],
                "" if i["status"] is None else str(i["status"]),
                i["address"],
            )
            for i in items
        ]
        table(rows, ("AT", "ACTOR", "PHASE", "ACTION", "OBJECT", "STATUS", "ADDRESS"), empty="nothing was changed")
