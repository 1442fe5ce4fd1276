"""`fks accounts`: list, create and change accounts."""

from __future__ import annotations

from typing import Any, get_args

import click

from fks.cli.client import GatewaySession, gateway_result
from fks.model.account import VenueName


@click.group()
def accounts() -> None:
    """List, create and change accounts."""


def _tied(item: dict[str, Any]) -> str:
    where = f"{item['environment']} {item['uid']}" if item.get("environment") else "-"
    return where if item["is_enabled"] else f"{where} (disabled)"


@accounts.command("list")
@gateway_result(
    "fks.accounts/1",
    {
        "ID": "id",
        "NAME": "name",
        "TYPE": "account_type",
        "VENUE": "venue",
        "MODE": "mode",
        "TIED TO": _tied,
        "STARTED WITH": "initial_balance",
        "IN": "currency",
        "FREE": lambda i: ", ".join(f"{b['free']} {b['currency']}" for b in i["balances"]),
    },
    empty="no accounts",
)
def list_(gateway: GatewaySession) -> Any:
    """List accounts with their balances."""
    return gateway.get("/accounts")["items"]


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
@gateway_result("fks.account/1", "account {0[id]} {0[name]}: {0[mode]} at {0[venue]}")
def create(gateway: GatewaySession, **body: str) -> Any:
    """Make an account."""
    return gateway.post("/accounts", body)


@accounts.command("set")
@click.argument("name")
@click.option("--mode", type=click.Choice(["paper", "live"]), help="Only before the account's first session.")
@click.option("--enable/--disable", "is_enabled", default=None, help="Whether its venue's session may be its own.")
@gateway_result(
    "fks.account/1",
    lambda made, **_: (
        f"account {made['id']} {made['name']}: {made['mode']} at {made['venue']}, "
        f"{'enabled' if made['is_enabled'] else 'disabled'}; fks restart orders takes it up"
    ),
)
def set_(gateway: GatewaySession, **body: Any) -> Any:
    """Change an account; 'fks restart orders' applies it."""
    return gateway.post("/accounts/change", body)
