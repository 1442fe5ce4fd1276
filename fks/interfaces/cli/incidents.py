"""`fks incidents` and `fks reconcile`: incidents for a person to explain, and an immediate comparison with the
venues."""

from __future__ import annotations

import time
from typing import Any

import click

from fks.interfaces.cli.base import Columns, named
from fks.interfaces.cli.client import GatewaySession, gateway_result
from fks.interfaces.cli.shown import at, time_of

_PATIENCE_S = 60.0


@click.group(invoke_without_command=True)
@click.pass_context
def incidents(ctx: click.Context) -> None:
    """List incidents, and close them: while one is open, entries on its subject are denied."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


def _end(item: dict[str, Any]) -> str:
    return "" if item["is_open"] else f"{time_of(item['closed_at'])} {item['closed_by'] or 'fks'}: {item['resolution']}"


_INCIDENT: Columns = {
    "ID": "id",
    "OPENED": at("opened_at"),
    **named("account", "kind", "subject"),
    "WHAT": "detail",
    "CLOSED": _end,
}


@incidents.command("list")
@click.option("--all", "is_all", is_flag=True, help="Those that are closed, too.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@gateway_result(
    "fks.incidents/1", _INCIDENT, empty=lambda is_all, **_: "no incidents" if is_all else "no open incidents"
)
def list_(gateway: GatewaySession, is_all: bool, limit: int) -> Any:
    """List open incidents, newest first."""
    return gateway.pages("/incidents", limit, open=not is_all)


@incidents.command()
@click.argument("id", type=click.IntRange(min=1))
@click.option(
    "--as",
    "resolution",
    type=click.Choice(["adopted", "explained", "booked"]),
    required=True,
    help="adopted: the difference is ours, the order is recorded; explained: known, and stays, or not our order; "
    "booked: what explains it was booked.",
)
@click.option("--reason", required=True, help="Why; kept with the incident.")
@gateway_result("fks.incident/1", "incident {id} is closed: {0[resolution]}")
def close(gateway: GatewaySession, id: int, **body: str) -> Any:
    """Close an incident: the entries that it denied are allowed again."""
    return gateway.post(f"/incidents/{id}/close", body)


def _result(name: str) -> Any:
    return lambda item: "" if item["finished_at"] is None else item["result"][name]


def _beside(item: dict[str, Any]) -> str:
    found = {} if item["finished_at"] is None else item["result"]["external_positions"]
    return ", ".join(f"{quantity} {symbol}" for symbol, quantity in found.items())


_COMPARED: Columns = {
    "VENUE": "venue",
    "STATE": _result("state"),
    "SECONDS": _result("seconds"),
    "FILLS BOOKED": _result("fills_booked"),
    "NOT OURS": _result("external_fills_booked"),
    "OPEN": _result("orders_open"),
    "UNKNOWN": _result("orders_unknown"),
    "HELD BESIDE OURS": _beside,
    "ERROR": lambda i: "no answer of the order manager yet" if i["finished_at"] is None else i["error"],
}


@click.command()
@click.option("--venue", help="Only this venue (default: all).")
@gateway_result(
    "fks.reconcile/1",
    _COMPARED,
    empty="the order manager has no venue",
    failed=lambda items: any(item["finished_at"] is None or item["error"] is not None for item in items),
)
def reconcile(gateway: GatewaySession, venue: str | None) -> Any:
    """Compare the journal with the venues now: open orders, executions, balances; and show the result.

    Exit code 1 when a venue could not be compared within a minute.
    """
    items = gateway.post("/reconcile", {"venue": venue})["items"]
    deadline = time.monotonic() + _PATIENCE_S
    while any(item["finished_at"] is None for item in items) and time.monotonic() < deadline:
        time.sleep(0.5)
        items = [gateway.get(f"/reconcile/{item['id']}") for item in items]
    return items
