"""`fks positions`: open positions and their profit."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import money_of, price_of, time_of


@click.command()
@click.argument("symbol", required=False)
@click.option("--exchange", help="What is held of SYMBOL there alone, where several exchanges have it.")
@click.option("--all", "every", is_flag=True, help="Also flat ones, for their realised profit.")
@as_json
@click.pass_context
def positions(ctx: click.Context, symbol: str | None, exchange: str | None, every: bool, as_json: bool) -> None:
    """Show positions per strategy instance, valued at the newest price; SYMBOL shows one with its sum."""
    from urllib.parse import quote

    if exchange and symbol is None:
        raise click.UsageError("--exchange says which SYMBOL is meant: name one")
    with gateway_of(ctx) as gateway:
        if symbol is None:
            answer = {"items": gateway.get("/positions", all=every)["items"]}
        else:
            answer = gateway.get(f"/positions/{quote(symbol)}", exchange=exchange)
    emit(answer if symbol else answer["items"], as_json=as_json, schema="fks.positions/1")
    if not as_json:
        rows = [
            (
                i["account"],
                i["symbol"],
                i["instance"] or "-",
                i["quantity"],
                price_of(i["average_price"]),
                price_of(i["mark_price"]),
                "unknown" if i["average_price"] is None else money_of(i["unrealized_pnl"]),
                money_of(i["realized_pnl"]),
                money_of(i["fees"]) + (f" +{i['fees_unvalued']} unvalued" if i["fees_unvalued"] else ""),
                time_of(i["updated_at"]),
            )
            for i in answer["items"]
        ]
        headers = (
            "ACCOUNT",
            "SYMBOL",
            "FROM",
            "QUANTITY",
            "AVERAGE",
            "MARK",
            "OPEN PNL",
            "REALISED",
            "FEES",
            "UPDATED",
        )
        table(rows, headers, empty="no positions")
