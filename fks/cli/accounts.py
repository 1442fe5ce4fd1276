"""`fks accounts`: list and create accounts."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of


@click.group()
def accounts() -> None:
    """List and create accounts."""


@accounts.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List accounts with what they hold."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/accounts")["items"]
    emit(items, as_json=as_json, schema="fks.accounts/1")
    if not as_json:
        rows = [
            (i["id"], i["name"], i["account_type"], i["venue"], i["mode"], i["initial_balance"], i["currency"],
             ", ".join(f"{b['free']} {b['currency']}" for b in i["balances"]))
            for i in items
        ]  # fmt: skip
        table(rows, ("ID", "NAME", "TYPE", "VENUE", "MODE", "STARTED WITH", "IN", "FREE"), empty="no accounts")


@accounts.command()
@click.argument("name")
@click.option("--type", "account_type", type=click.Choice(["personal", "prop"]), default="personal", show_default=True)
@click.option("--venue", type=click.Choice(["paper", "ccxt"]), default="paper", show_default=True)
@click.option("--broker", default="", help="Who holds it.")
@click.option("--currency", default="USDT", show_default=True)
@click.option("--initial-balance", default="0", show_default=True)
@click.option("--mode", type=click.Choice(["paper", "live"]), default="paper", show_default=True)
@as_json
@click.pass_context
def create(ctx: click.Context, /, as_json: bool, **body: str) -> None:
    """Make an account."""
    with gateway_of(ctx) as gateway:
        made = gateway.post("/accounts", body)
    emit(made, as_json=as_json, schema="fks.account/1")
    if not as_json:
        click.echo(f"account {made['id']} {made['name']}: {made['mode']} at {made['venue']}")
