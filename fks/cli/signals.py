"""`fks signals`: signals of strategies and persons, and their approval."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import brief, time_of

STATES = ("pending", "ready", "ordered", "denied", "expired", "declined", "nothing")


@click.group()
def signals() -> None:
    """List signals; approve or reject them."""


@signals.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--symbol", help="Only this symbol, in any spelling.")
@click.option("--exchange", help="Only this exchange.")
@click.option("--instance", help="Only this strategy instance.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def list_(
    ctx: click.Context,
    state: str | None,
    symbol: str | None,
    exchange: str | None,
    instance: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List signals, newest first."""
    with gateway_of(ctx) as gateway:
        items = gateway.pages("/signals", limit, state=state, symbol=symbol, exchange=exchange, instance=instance)
    emit(items, as_json=as_json, schema="fks.signals/1")
    if not as_json:
        headers = ("TIME", "ID", "FROM", "SYMBOL", "WANTS", "SIZE", "STATE", "BECAUSE")
        table([_row(item) for item in items], headers, empty="no signals yet")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    because = item["code"] or item["detail"] or item["reason"]
    return (
        time_of(item["created_at"]),
        item["id"],
        item["instance"] or item["source"],
        item["symbol"],
        f"{item['kind']} {item['side']}",
        item["size"],
        item["state"],
        brief(because),
    )


@signals.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def approve(ctx: click.Context, id: object, as_json: bool) -> None:
    """Approve a pending signal: the order manager takes it from here."""
    _decide(ctx, id, "approve", as_json)


@signals.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def reject(ctx: click.Context, id: object, as_json: bool) -> None:
    """Decline a pending signal."""
    _decide(ctx, id, "reject", as_json)


def _decide(ctx: click.Context, id: object, verb: str, as_json: bool) -> None:
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"/signals/{id}/{verb}")
    emit(answer, as_json=as_json, schema="fks.signal/1")
    if not as_json:
        click.echo(f"signal {id}: {answer['state']}")
