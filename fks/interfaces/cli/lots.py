"""`fks lots`: holdings and disposals lot by lot, and the disposals of a year as a file."""

from __future__ import annotations

import csv
import sys
from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, table
from fks.interfaces.cli.client import gateway_of
from fks.interfaces.cli.shown import money_of

#: of an export, in this order; docs/lots.md describes them
COLUMNS = (
    "number",
    "pool",
    "asset",
    "kind",
    "acquired_at",
    "disposed_at",
    "realized_at",
    "quantity",
    "proceeds",
    "cost",
    "gain",
    "currency",
    "method",
    "note",
    "disposal_id",
    "lot_id",
)
_PAGE = 10_000
_account = click.option("--account", help="Lots of this account alone. Without it, accounts share their lots.")
_currency = click.option("--currency", help="Of costs and proceeds. Default: the accounts' own.")
_method = click.option("--method", type=click.Choice(["fifo", "average"]), default="fifo", show_default=True)


@click.group()
def lots() -> None:
    """List lots, and export a year of disposals for a tax return."""


@lots.command("list")
@_account
@_method
@_currency
@as_json
@click.pass_context
def list_(ctx: click.Context, /, as_json: bool, **query: str | None) -> None:
    """List the lots that are held, with the time and cost of their acquisition.

    A lot below zero is a short: more was sold than FKS knows to have been held.
    """
    found = _all(ctx, "/lots", **query)
    emit(found, as_json=as_json, schema="fks.lots/1")
    if not as_json:
        columns: Columns = {
            "POOL": "pool",
            "ASSET": "asset",
            "ACQUIRED": lambda item: (item["acquired_at"] or "")[:19].replace("T", " "),
            "QUANTITY": "quantity",
            f"COST {found['currency']}": lambda item: money_of(item["cost"]),
            "FROM": "kind",
            "NOTE": "note",
        }
        table(found["items"], columns, empty="nothing is held")
    _notes(found)


@lots.command()
@click.option("--year", type=click.IntRange(1970, 9998), required=True, help="In which gains were realised, UTC.")
@_method
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@_account
@_currency
@as_json
@click.pass_context
def export(ctx: click.Context, /, year: int, form: str, as_json: bool, **query: str | None) -> None:
    """Write the disposals of a year, oldest first, with proceeds, cost and gain.

    fks lots export --year 2026 > 2026.csv. It is no tax advice: the law that you are taxed by decides which rule
    applies, and which rows are taxable.
    """
    found = _all(ctx, "/lots/disposals", **query, year=year)
    if as_json or form == "json":
        emit({"year": year, **found}, as_json=True, schema="fks.lots_export/1")
    else:
        writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for item in found["items"]:
            writer.writerow(item | {"number": item["seq"], "currency": found["currency"], "method": query["method"]})
    _notes(found)


def _all(ctx: click.Context, path: str, **query: object) -> dict[str, Any]:
    """Return all rows of a list, oldest first, with the rest of its answer."""
    with gateway_of(ctx) as gateway:
        found: dict[str, Any] = gateway.get(path, **query, limit=_PAGE)
        while found["next"] is not None:
            page = gateway.get(path, **query, before=found["next"], limit=_PAGE)
            found["items"] += page["items"]
            found["next"] = page["next"]
    found["items"].reverse()
    del found["next"]
    return found


def _notes(found: dict[str, Any]) -> None:
    """Print what a reader must know beside the rows."""
    notes = [item["note"] for item in found["items"]]
    for note, text in (
        ("cost unknown", "of deposits, or of holdings before FKS"),
        ("no rate", f"no stored bars give a value in {found['currency']} for the time of the trade"),
        ("short", "more was sold than FKS knows to have been held"),
    ):
        if count := notes.count(note):
            click.echo(f"note: {note} ({text}): rows: {count}", err=True)
    if found["unknown_symbols"]:
        click.echo(f"note: left out, their assets are not known: {', '.join(found['unknown_symbols'])}", err=True)
    click.echo(f"note: {found['notice']}", err=True)
