"""`fks webhooks`: senders of signals without a token (TradingView), through the gateway."""

from __future__ import annotations

import json
from typing import Any

import click

from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.shown import at

_SIZINGS = click.Choice(["payload", "quantity", "notional", "risk"])


@click.group()
def webhooks() -> None:
    """Make, edit, rotate, test, list and remove webhooks: what TradingView and others may send without a token."""


def _show(made: dict[str, Any], **_: Any) -> None:
    click.echo(json.dumps(made["message"], indent=1))
    click.echo("paste this into the alert; URL: https://YOUR-HOST/webhook/tradingview", err=True)
    click.echo(f"webhook {made['name']}: the secret is shown once, keep it safe", err=True)


@webhooks.command()
@click.argument("name")
@click.option("--account", required=True, help="Account that it trades.")
@click.option("--symbol", "symbols", required=True, multiple=True, help="Symbol that it may trade; repeat it for more.")
@click.option(
    "--sizing",
    type=_SIZINGS,
    default="payload",
    show_default=True,
    help="payload: the message's quantity, up to --size; else each order is --size in base, in quote, or in quote lost "
    "at the stop-loss.",
)
@click.option("--size", required=True, help="See --sizing.")
@click.option("--quota", "quota_per_hour", type=int, default=60, show_default=True, help="Messages in an hour.")
@click.option("--confidence-min", default="0.6", show_default=True, help="Lowest confidence, where a message has one.")
@click.option("--tradingview-only", is_flag=True, help="Take messages from TradingView's four addresses alone.")
@gateway_result("fks.webhook/1", _show)
def add(gateway: GatewaySession, **body: Any) -> Any:
    """Make a webhook and show its secret, this once, with the message to paste into the alert."""
    return gateway.post("/webhooks", body)


@webhooks.command()
@click.argument("name")
@click.option("--symbol", "symbols", multiple=True, help="Symbols that it may trade from now on; repeat it for more.")
@click.option("--sizing", type=_SIZINGS, help="Needs --size.")
@click.option("--size", help="See 'fks webhooks add'.")
@click.option("--quota", "quota_per_hour", type=int, help="Messages in an hour.")
@click.option("--confidence-min", help="Lowest confidence, where a message has one.")
@click.option("--tradingview-only/--any-address", default=None, help="TradingView's four addresses alone, or any.")
@gateway_result(
    "fks.webhook-changed/1",
    lambda changed, name, **_: (
        f"webhook {name}: {' '.join(changed['symbols'])}, {changed['sizing']} {changed['size']}, "
        f"{changed['quota_per_hour']} an hour"
    ),
)
def edit(gateway: GatewaySession, name: str, symbols: tuple[str, ...], **body: Any) -> Any:
    """Change what a webhook's sender may do; its secret and its account stay."""
    return gateway.post(path_of("webhooks", name), {**body, "symbols": symbols or None})


@webhooks.command()
@click.argument("name")
@gateway_result("fks.webhook/1", _show)
def rotate(gateway: GatewaySession, name: str) -> Any:
    """Give a webhook another secret and show it, this once; the old one is refused at once."""
    return gateway.post(path_of("webhooks", name, "rotate"))


@webhooks.command()
@click.argument("name")
@click.option("--message", metavar="JSON", help="Message to try; default a sample.")
@gateway_result(
    "fks.webhook-test/1",
    "would place: {0[signal][side]} {0[signal][size]} {0[signal][symbol]} {0[signal][type]}; nothing was sent",
)
def test(gateway: GatewaySession, name: str, message: str | None) -> Any:
    """Show the signal that a message would become. Nothing is sent or counted."""
    try:
        body = json.loads(message) if message else {}
    except ValueError:
        raise click.UsageError("--message is no JSON") from None
    return gateway.post(path_of("webhooks", name, "test"), body)


@webhooks.command("list")
@gateway_result(
    "fks.webhooks/1",
    {
        "NAME": "name",
        "ACCOUNT": "account",
        "SYMBOLS": lambda i: " ".join(i["symbols"]),
        "SIZING": "sizing",
        "SIZE": "size",
        "USED": lambda i: f"{i['used']}/{i['quota_per_hour']}",
        "LAST USED": at("last_used_at", "never"),
    },
    empty="no webhooks",
)
def list_(gateway: GatewaySession) -> Any:
    """List webhooks, without their secrets."""
    return gateway.get("/webhooks")["items"]


@webhooks.command()
@click.argument("name")
@gateway_result("fks.webhook-removed/1", "webhook {name} is removed")
def remove(gateway: GatewaySession, name: str) -> Any:
    """Remove a webhook; its secret is refused at once."""
    return gateway.delete(path_of("webhooks", name))
