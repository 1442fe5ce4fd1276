"""`fks accounts`: list, create and change accounts."""

from __future__ import annotations

from typing import Any, get_args

import click

from fks.interfaces.cli.client import GatewaySession, gateway_result
from fks.model.account import PaymentKind, VenueName


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
    metavar="|".join((*get_args(VenueName), "EXCHANGE", "ninja:NAME")),
    default="paper",
    show_default=True,
    help="Where its orders go; EXCHANGE is one of venues.exchanges, ninja:NAME the account of a table "
    "[ninja.accounts.NAME].",
)
@click.option("--broker", default="", help="Name of the broker that holds the account.")
@click.option("--currency", default="USDT", show_default=True)
@click.option("--initial-balance", default="0", show_default=True)
@click.option("--mode", type=click.Choice(["paper", "live"]), default="paper", show_default=True)
@gateway_result("fks.account/1", "account {0[id]} {0[name]}: {0[mode]} at {0[venue]}")
def create(gateway: GatewaySession, **body: str) -> Any:
    """Make an account."""
    return gateway.post("/accounts", body)


@accounts.command()
@click.argument("name")
@click.option("--kind", type=click.Choice([kind.value for kind in PaymentKind]), required=True)
@click.option("--asset", required=True, help="What was paid: USD, BTC.")
@click.option("--amount", required=True, help="Negative if the account paid.")
@click.option("--time", required=True, help="When the venue booked it: 2026-05-01T00:00:00Z.")
@click.option("--symbol", default="", help="What it was paid for.")
@click.option("--reference", help="The venue's own id of it; default: made of the other values.")
@gateway_result("fks.account.payment/1", "{0[account]}: {0[kind]} {0[amount]} {0[asset]} at {0[time]}, {0[reference]}")
def pay(gateway: GatewaySession, name: str, **body: str | None) -> Any:
    """Record a dividend, funding, interest or swap that account NAME was paid, or paid. A repeat changes nothing."""
    given = {key: value for key, value in body.items() if value is not None}
    return gateway.post("/accounts/payments", {"account": name, **given})


@accounts.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@gateway_result(
    "fks.account.payments/1",
    {
        "TIME": "time",
        "KIND": "kind",
        "AMOUNT": "amount",
        "ASSET": "asset",
        "FOR": "symbol",
        "REFERENCE": "reference",
        "BY": "source",
    },
    empty="no payments",
)
def payments(gateway: GatewaySession, name: str, limit: int) -> Any:
    """List the income of account NAME that persons recorded."""
    return gateway.get("/accounts/payments", account=name, limit=limit)["items"]


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
