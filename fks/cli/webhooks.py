"""`fks webhooks`: senders of signals without a token (TradingView), through the gateway."""

from __future__ import annotations

import json
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.group()
def webhooks() -> None:
    """Make, edit, rotate, test, list and remove webhooks: what TradingView and others may send without a token."""


@webhooks.command()
@click.argument("name")
@click.option("--account", required=True, help="Account that it trades.")
@click.option("--symbol", "symbols", required=True, multiple=True, help="Symbol that it may trade; repeat it for more.")
@click.option(
    "--sizing",
    type=click.Choice(["payload", "quantity", "notional", "risk"]),
    default="payload",
    show_default=True,
    help="payload: the message's quantity, up to --size; else each order is --size in base, in quote, or in quote lost "
    "at the stop-loss.",
)
@click.option("--size", required=True, help="See --sizing.")
@click.option("--quota", type=int, default=60, show_default=True, help="Messages in an hour.")
@click.option("--confidence-min", default="0.6", show_default=True, help="Lowest confidence, where a message has one.")
@click.option("--tradingview-only", is_flag=True, help="Take messages from TradingView's four addresses alone.")
@as_json
@click.pass_context
def add(
    ctx: click.Context,
    /,
    name: str,
    account: str,
    symbols: tuple[str, ...],
    sizing: str,
    size: str,
    quota: int,
    confidence_min: str,
    tradingview_only: bool,
    as_json: bool,
) -> None:
    """Make a webhook and show its secret, this once, with the message to paste into the alert."""
    body = {
        "name": name,
        "account": account,
        "symbols": list(symbols),
        "sizing": sizing,
        "size": size,
        "quota_per_hour": quota,
        "confidence_min": confidence_min,
        "tradingview_only": tradingview_only,
    }
    with gateway_of(ctx) as gateway:
        _show(gateway.post("/webhooks", body), as_json=as_json)


@webhooks.command()
@click.argument("name")
@click.option("--symbol", "symbols", multiple=True, help="Symbols that it may trade from now on; repeat it for more.")
@click.option("--sizing", type=click.Choice(["payload", "quantity", "notional", "risk"]), help="Needs --size.")
@click.option("--size", help="See 'fks webhooks add'.")
@click.option("--quota", type=int, help="Messages in an hour.")
@click.option("--confidence-min", help="Lowest confidence, where a message has one.")
@click.option("--tradingview-only/--any-address", default=None, help="TradingView's four addresses alone, or any.")
@as_json
@click.pass_context
def edit(
    ctx: click.Context,
    /,
    name: str,
    symbols: tuple[str, ...],
    sizing: str | None,
    size: str | None,
    quota: int | None,
    confidence_min: str | None,
    tradingview_only: bool | None,
    as_json: bool,
) -> None:
    """Change what a webhook's sender may do; its secret and its account stay."""
    given: dict[str, object] = {
        "symbols": list(symbols) or None,
        "sizing": sizing,
        "size": size,
        "quota_per_hour": quota,
        "confidence_min": confidence_min,
        "tradingview_only": tradingview_only,
    }
    with gateway_of(ctx) as gateway:
        body = {key: value for key, value in given.items() if value is not None}
        changed = gateway.post(f"/webhooks/{quote(name, safe='')}", body)
    emit(changed, as_json=as_json, schema="fks.webhook-changed/1")
    if not as_json:
        click.echo(
            f"webhook {name}: {' '.join(changed['symbols'])}, {changed['sizing']} {changed['size']}, "
            f"{changed['quota_per_hour']} an hour"
        )


@webhooks.command()
@click.argument("name")
@as_json
@click.pass_context
def rotate(ctx: click.Context, name: str, as_json: bool) -> None:
    """Give a webhook another secret and show it, this once; the old one is refused at once."""
    with gateway_of(ctx) as gateway:
        _show(gateway.post(f"/webhooks/{quote(name, safe='')}/rotate"), as_json=as_json)


@webhooks.command()
@click.argument("name")
@click.option("--message", metavar="JSON", help="Message to try; default a sample.")
@as_json
@click.pass_context
def test(ctx: click.Context, name: str, message: str | None, as_json: bool) -> None:
    """Show the signal that a message would become. Nothing is sent or counted."""
    try:
        body = json.loads(message) if message else {}
    except ValueError:
        raise click.UsageError("--message is no JSON") from None
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"/webhooks/{quote(name, safe='')}/test", body)
    emit(answer, as_json=as_json, schema="fks.webhook-test/1")
    if not as_json:
        signal = answer["signal"]
        click.echo(
            f"would place: {signal['side']} {signal['size']} {signal['symbol']} {signal['type']}; nothing was sent"
        )


@webhooks.command("list")
@as_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List webhooks, without their secrets."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/webhooks")["items"]
    emit(items, as_json=as_json, schema="fks.webhooks/1")
    if not as_json:
        rows = [
            (
                i["name"],
                i["account"],
                " ".join(i["symbols"]),
                i["sizing"],
                i["size"],
                f"{i['used']}/{i['quota_per_hour']}",
                time_of(i["last_used_at"]) or "never",
            )
            for i in items
        ]
        heads = ("NAME", "ACCOUNT", "SYMBOLS", "SIZING", "SIZE", "USED", "LAST USED")
        table(rows, heads, empty="no webhooks")


@webhooks.command()
@click.argument("name")
@as_json
@click.pass_context
def remove(ctx: click.Context, name: str, as_json: bool) -> None:
    """Remove a webhook; its secret is refused at once."""
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/webhooks/{quote(name, safe='')}")
    emit(answer, as_json=as_json, schema="fks.webhook-removed/1")
    if not as_json:
        click.echo(f"webhook {name} is removed")


def _show(made: dict[str, object], *, as_json: bool) -> None:
    emit(made, as_json=as_json, schema="fks.webhook/1")
    if not as_json:
        click.echo(json.dumps(made["message"], indent=1))
        click.echo("paste this into the alert; URL: https://YOUR-HOST/webhook/tradingview", err=True)
        click.echo(f"webhook {made['name']}: the secret is shown once, keep it safe", err=True)
