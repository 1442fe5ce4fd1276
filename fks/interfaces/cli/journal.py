"""`fks journal`: closed trades with reasons, excursions and costs; tags and notes of persons; export as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, named
from fks.interfaces.cli.client import GatewaySession, gateway_of, gateway_result, path_of
from fks.interfaces.cli.shown import at, money_of, price_of, time_of

#: of an export, in this order; docs/portfolio.md describes them
COLUMNS = (
    *("id", "account", "venue", "symbol", "instance", "side", "entry_time", "exit_time", "hold_s", "quantity"),
    *("entry_price", "exit_price", "realized", "fees", "profit", "slippage", "currency", "mae_pct", "mfe_pct"),
    *("executions", "entry_reason", "exit_reason", "tags", "note"),
)
_FILTERS = (
    click.option("--account", help="Trades of this account."),
    click.option("--symbol", help="Trades in this symbol."),
    click.option("--instance", help="Trades of this strategy instance."),
    click.option("--tag", help="Trades with this tag."),
    click.option("--text", help="Trades with this text in note, tags or reasons."),
    click.option("--result", type=click.Choice(["won", "lost", "even"]), help="After fees."),
    click.option("--since", metavar="TIME", help="Closed at or after this time, UTC."),
    click.option("--until", metavar="TIME", help="Closed before this time, UTC."),
)


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _amount(value: str | None) -> str:
    return "unknown" if value is None else money_of(value)


_LIST: Columns = {
    "ID": lambda i: str(i["id"])[:8],
    "CLOSED": at("exit_time"),
    **named("account", "symbol", "side"),
    "INSTANCE": lambda i: i["instance"] or "-",
    "QUANTITY": "quantity",
    "ENTRY": lambda i: price_of(i["entry_price"]),
    "EXIT": lambda i: price_of(i["exit_price"]),
    "PROFIT": lambda i: f"{_amount(i['profit'])} {i['currency']}",
    "BY": "exit_reason",
    "TAGS": lambda i: " ".join(i["tags"]),
}


@click.group()
def journal() -> None:
    """List closed trades, from flat to flat; note, tag and export them."""


@journal.command("list")
@_filtered
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most rows.")
@gateway_result("fks.journal/1", _LIST, empty="no closed trades; they are written within a minute of the exit")
def list_(gateway: GatewaySession, **query: Any) -> Any:
    """List closed trades, newest first, with their profit after fees in the account's currency."""
    return gateway.get("/journal", **query)["items"]


def _shown(i: dict[str, Any], **_: Any) -> str:
    currency = i["currency"]
    lines = [
        f"{i['id']}: {i['side']} {i['quantity']} {i['symbol']}, account {i['account']}, {i['instance'] or 'a person'}",
        f"entry {time_of(i['entry_time'])} at {price_of(i['entry_price'])}: {i['entry_reason'] or 'no reason'}",
        f"exit  {time_of(i['exit_time'])} at {price_of(i['exit_price'])}: {i['exit_reason'] or 'no reason'}",
        f"profit {_amount(i['profit'])} {currency}: realised {_amount(i['realized'])}, fees {_amount(i['fees'])}",
        f"slippage {_amount(i['slippage'])} {currency}; against it {i['mae_pct']} %, for it {i['mfe_pct']} %; "
        f"{i['executions']} executions in {i['hold_s']:.0f} s",
        f"version {i['version']}, tags: {' '.join(i['tags']) or 'none'}",
    ]
    if not i["is_complete"]:
        lines.append("a rate or bars of it are missing yet")
    if i["is_void"]:
        lines.append("it is no closed trade any more, and is kept for its note")
    return "\n".join([*lines, i["note"]] if i["note"] else lines)


def _id_of(gateway: GatewaySession, id: str) -> str:
    """Return the whole id of an entry whose first characters are given, among the newest 1000."""
    if len(id) >= 32:
        return id
    found = [i["id"] for i in gateway.get("/journal", limit=1000)["items"] if i["id"].startswith(id.lower())]
    if len(found) != 1:
        raise click.UsageError(f"{len(found)} of the newest 1000 trades have an id that begins with {id!r}")
    return str(found[0])


@journal.command()
@click.argument("id")
@gateway_result("fks.journal.entry/1", _shown)
def show(gateway: GatewaySession, id: str) -> Any:
    """Show one closed trade with its note. ID: its first characters are enough."""
    return gateway.get(path_of("journal", _id_of(gateway, id)))


def _change(gateway: GatewaySession, id: str, version: int | None, **body: object) -> Any:
    path = path_of("journal", _id_of(gateway, id))
    return gateway.patch(path, {**body, "version": gateway.get(path)["version"] if version is None else version})


_version = click.option("--version", type=int, help="Change it only if it is still at this version.")


@journal.command()
@click.argument("id")
@click.argument("text")
@_version
@gateway_result("fks.journal.entry/1", _shown)
def note(gateway: GatewaySession, id: str, text: str, version: int | None) -> Any:
    """Replace the note of a closed trade; an empty TEXT removes it."""
    return _change(gateway, id, version, note=text)


@journal.command()
@click.argument("id")
@click.argument("tags", nargs=-1)
@_version
@gateway_result("fks.journal.entry/1", _shown)
def tag(gateway: GatewaySession, id: str, tags: tuple[str, ...], version: int | None) -> Any:
    """Replace the tags of a closed trade; without TAGS it has none."""
    return _change(gateway, id, version, tags=tags)


@journal.command()
@_filtered
@as_json
@click.pass_context
def export(ctx: click.Context, /, as_json: bool, **query: Any) -> None:
    """Write all closed trades that match as CSV, newest first: fks journal export > journal.csv."""
    with gateway_of(ctx) as gateway:
        rows = gateway.pages("/journal", 10**9, **query)
    if as_json:
        emit(rows, as_json=True, schema="fks.journal/1")
        return
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        # a spreadsheet would run a text that begins so as a formula
        texts = {
            name: f"'{row[name]}" if row[name].startswith(("=", "+", "-", "@", "\t")) else row[name]
            for name in ("entry_reason", "exit_reason", "note", "instance")
        }
        writer.writerow(row | texts | {"tags": " ".join(row["tags"])})
