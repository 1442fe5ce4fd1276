"""`fks ninja send`: one signal to NinjaTrader, in the form of the replaced service."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit
from fks.cli.client import gateway_of, new_key
from fks.entry.execution import ACTIONS


@click.command()
@click.argument("action", type=click.Choice(sorted(ACTIONS), case_sensitive=False))
@click.argument("instrument", metavar="INSTRUMENT")
@click.option("--price", required=True, help="Limit price.")
@click.option("--tp-points", help="Target so many points from the price; 10 on ES are 40 ticks.")
@click.option("--sl-points", help="Stop so many points from the price.")
@click.option("--quantity", help="Contracts (default: 1).")
@click.option("--account", help="Account name (default: the one of the venue ninja).")
@click.option("--valid-until", metavar="TIME", help="ISO 8601 time after which it is given up (default: in 30 s).")
@click.option("--key", help="Idempotency key; the same key again is the same signal.")
@as_json
@click.pass_context
def send(ctx: click.Context, /, key: str | None, as_json: bool, **fields: str | None) -> None:
    """Send a signal: fks ninja send buy "ES 03-27" --price 6050.25 --tp-points 20 --sl-points 10.

    It goes the way of every order: rows first, risk and the firm's rules, then the bridge. Exit code 4 when it is
    denied, with the code and what to do.
    """
    body = {name: value for name, value in fields.items() if value is not None}
    with gateway_of(ctx) as gateway:
        answer = gateway.post("/signals/send", body, key=key or new_key())
    emit(answer, as_json=as_json, schema="fks.ninja.signal/1")
    if not as_json:
        click.echo(f"signal {answer['signal_id']}: {answer['message']}")
        if answer.get("order_id"):
            click.echo(f"order {answer['order_id']}; see 'fks why {answer['signal_id']}'")
