"""`fks accounts`: list, create and change accounts."""

from __future__ import annotations

from typing import Any, get_args

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.model.account import VenueName


@click.group()
def accounts() -> None:
    """List, create and change accounts."""


@accounts.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List accounts with their balances."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/accounts")["items"]
    emit(items, as_json=as_json, schema="fks.accounts/1")
    if not as_json:
        rows = [
            (
                i["id"],
                i["name"],
                i["account_type"],
                i["venue"],
                i["mode"],
                _tied(i),
                i["initial_balance"],
                i["currency"],
                ", ".join(f"{b['free']} {b['currency']}" for b in i["balances"]),
            )
            for i in items
        ]
        table(
            rows, ("ID", "NAME", "TYPE", "VENUE", "MODE", "TIED TO", "STARTED WITH", "IN", "FREE"), empty="no accounts"
        )


def _tied(item: dict[str, Any]) -> str:
    where = f"{item['environment']} {item['uid']}" if item.get("environment") else "-"
    return where if item["is_enabled"] else f"{where} (disabled)"


@accounts.command()
@click.argument("name")
@click.option("--type", "account_type", type=click.Choice(["personal", "prop"]), default="personal", show_default=True)
@click.option(
    "--venue",
    metavar="|".join((*get_args(VenueName), "ninja:NAME")),
    default="paper",
    show_default=True,
    help="Where its orders go; ninja:NAME is the account of a table [ninja.accounts.NAME].",
)
@click.option("--broker", default="", help="Name of the broker that holds the account.")
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


@accounts.command("set")
@click.argument("name")
@click.option("--mode", type=click.Choice(["paper", "live"]), help="Only before the account's first session.")
@click.option("--enable/--disable", "is_enabled", default=None, help="Whether its venue's session may be its own.")
@as_json
@click.pass_context
def set_(ctx: click.Context, name: str, mode: str | None, is_enabled: bool | None, as_json: bool) -> None:
    """Change an account; 'fks restart orders' applies it."""
    given = {"mode": mode, "is_enabled": is_enabled}
    body: dict[str, object] = {"name": name} | {key: value for key, value in given.items() if value is not None}
    with gateway_of(ctx) as gateway:
        made = gateway.post("/accounts/change", body)
    emit(made, as_json=as_json, schema="fks.account/1")
    if not as_json:
        state = "enabled" if made["is_enabled"] else "disabled"
        click.echo(
            f"account {made['id']} {made['name']}: {made['mode']} at {made['venue']}, {state}; fks restart orders "
            "takes it up"
        )
