"""`fks denials`: the profits that the limits and checks prevented, and the losses that they avoided."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of


@click.group()
def denials() -> None:
    """Value the entries that were denied, expired or declined."""


@denials.command()
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="From when on: 2h, 7d, or an ISO time.")
@click.option("--until", metavar="TIME", help="Until when, not included (default: now).")
@click.option("--instance", help="Only this strategy instance.")
@click.option("--each", is_flag=True, help="Show each entry, not only the sums.")
@as_json
@click.pass_context
def cost(ctx: click.Context, since: str, until: str | None, instance: str | None, each: bool, as_json: bool) -> None:
    """Show by code what the denied entries would have made on the stored bars.

    A positive value is a profit that was missed, a negative one a loss that was avoided. Each entry is valued alone: by
    the fill rule and the fees of a backtest, until its stop loss, take profit, or the strategy's next exit.
    """
    from fks.cli.events import moment

    start, end = moment(since), moment(until)
    with gateway_of(ctx) as gateway:
        found = gateway.get(
            "/denials/cost",
            since=None if start is None else start.isoformat(),
            until=None if end is None else end.isoformat(),
            instance=instance,
        )
    emit(found, as_json=as_json, schema="fks.denials_cost/1")
    if as_json:
        return
    if each:
        table([_entry(item) for item in found["items"]], _ENTRY, empty="no entry was denied")
        click.echo()
    headers = ("CODE", "ENTRIES", "FILLED", "WON", "STILL OPEN", "WOULD HAVE MADE", "")
    table([_sum(row) for row in found["total"]], headers, empty="no entry was denied")
    if found["is_cut"]:
        click.echo("note: these are the oldest of more entries; choose a shorter span", err=True)


_ENTRY = ("TIME", "SIGNAL", "FROM", "SYMBOL", "WANTED", "CODE", "END", "WOULD HAVE MADE")


def _entry(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        time_of(item["time"]),
        item["signal_id"],
        item["instance"] or item["source"],
        item["symbol"],
        f"{item['side']} {item['quantity'] or ''}".strip(),
        item["code"],
        item["ending"] or "no size",
        "" if item["value"] is None else f"{item['value']} {item['currency']}",
    )


def _sum(row: dict[str, Any]) -> tuple[object, ...]:
    made = f"{row['value']} {row['currency'] or ''}".strip()
    meaning = "it cost that" if float(row["value"]) > 0 else "it saved that" if float(row["value"]) < 0 else ""
    return (row["code"], row["entries"], row["filled"], row["won"], row["open"], made, meaning)
