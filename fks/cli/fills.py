"""`fks fills`: the executions, newest first."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.command()
@click.option("--symbol", help="Only this symbol, in any spelling.")
@click.option("--exchange", help="Only this exchange.")
@click.option("--instance", help="Only this strategy instance.")
@click.option("--order", help="Only this client order id.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def fills(
    ctx: click.Context,
    symbol: str | None,
    exchange: str | None,
    instance: str | None,
    order: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List fills, newest first.

    Those that a person booked (FROM: by hand) are part of no position.
    """
    with gateway_of(ctx) as gateway:
        items = gateway.pages("/fills", limit, symbol=symbol, exchange=exchange, instance=instance, order=order)
    emit(items, as_json=as_json, schema="fks.fills/1")
    if not as_json:
        rows = [
            (
                time_of(i["time"]),
                i["symbol"],
                i["side"],
                i["quantity"],
                i["price"],
                f"{i['fee']} {i['fee_currency']}",
                i["realized_pnl"],
                "by hand" if i["source"] == "manual" else i["instance"],
                i["client_order_id"],
            )
            for i in items
        ]
        headers = ("TIME", "SYMBOL", "SIDE", "QUANTITY", "PRICE", "FEE", "PNL", "FROM", "CLIENT ORDER ID")
        table(rows, headers, empty="no fills yet")
