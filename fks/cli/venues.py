"""`fks venues`: the ways to send orders, what each can do, and the sources of the facts that it relies on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import Columns, fields, result, table

if TYPE_CHECKING:
    from fks.venues.registry import VenueListing


@click.group()
def venues() -> None:
    """List the ways to send orders."""


_COLUMNS: Columns = {
    "NAME": "name",
    "EXCHANGE": "exchange",
    "SESSION": "session",
    "TRADED": lambda row: "yes" if row["is_tradable"] else "no",
    "ORDERS": lambda row: " ".join(row["order_types"]),
    "CAN": lambda row: " ".join(row["can"]),
    "FACTS": lambda row: ", ".join(f"{count} {basis}" for basis, count in row["bases"].items()),
}


def _show(found: dict[str, Any], exchange: str | None) -> None:
    table(found["items"], _COLUMNS)
    if exchange is None:
        return
    for row in found["items"]:
        click.echo(f"\n{click.style(row['exchange'] or row['name'], bold=True)} ({row['session']})")
        table(row["facts"], {"FACT": "topic", "SOURCE": "basis", "TEXT": "text"}, empty="no facts of an exchange")


@venues.command("list")
@click.option("--exchange", help="Only one exchange, with its facts: kraken.")
@result("fks.venues/1", _show)
def list_(_: click.Context, exchange: str | None) -> Any:
    """List venues with their exchange, session, order types and capabilities.

    A venue that is not traded is held to recorded bodies only, and refused at start. The source of a fact is
    documented, recorded, stand-in (tests run it against a server of ours) or live.
    """
    from fks.venues.registry import listed_venues

    rows = [_row(item) for item in listed_venues() if exchange in (None, item.exchange)]
    return {"items": rows}


def _row(item: VenueListing) -> dict[str, Any]:
    can = item.capabilities
    able = {
        "oco": can.has_oco,
        "amend": can.can_amend,
        "replace": can.can_replace,
        "short": can.can_short,
        "bracket": can.keeps_bracket,
    }
    facts = [fields(fact, "topic", "text", "basis") for fact in item.facts]
    return {
        **fields(item, "name", "exchange", "session", "is_tradable"),
        "order_types": sorted(kind.value for kind in can.types),
        "times_in_force": sorted(kind.value for kind in can.times_in_force),
        "can": [name for name, is_able in able.items() if is_able],
        "bases": dict(Counter(str(fact["basis"]) for fact in facts)),
        "facts": facts,
    }
