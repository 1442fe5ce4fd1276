"""`fks incidents` and `fks reconcile`: incidents for a person to explain, and an immediate comparison with the
venues."""

from __future__ import annotations

import time
from typing import Any

import click

from fks.cli.base import FAILED, OK, as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of

_PATIENCE_S = 60.0


@click.group(invoke_without_command=True)
@click.pass_context
def incidents(ctx: click.Context) -> None:
    """List incidents, and close them: while one is open, entries on its subject are denied."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@incidents.command("list")
@click.option("--all", "is_all", is_flag=True, help="Those that are closed, too.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def list_(ctx: click.Context, is_all: bool = False, limit: int = 50, as_json: bool = False) -> None:
    """List open incidents, newest first."""
    with gateway_of(ctx) as gateway:
        items = gateway.pages("/incidents", limit, open=not is_all)
    emit(items, as_json=as_json, schema="fks.incidents/1")
    if not as_json:
        rows = [
            (i["id"], time_of(i["opened_at"]), i["account"], i["kind"], i["subject"], i["detail"], _end(i))
            for i in items
        ]
        headers = ("ID", "OPENED", "ACCOUNT", "KIND", "SUBJECT", "WHAT", "CLOSED")
        table(rows, headers, empty="no incidents" if is_all else "no open incidents")


def _end(item: dict[str, Any]) -> str:
    return "" if item["is_open"] else f"{time_of(item['closed_at'])} {item['closed_by'] or 'fks'}: {item['resolution']}"


@incidents.command()
@click.argument("id", type=click.IntRange(min=1))
@click.option(
    "--as",
    "resolution",
    type=click.Choice(["adopted", "explained", "booked"]),
    required=True,
    help="adopted: the difference is ours; explained: known, and stays; booked: what explains it was booked.",
)
@click.option("--reason", required=True, help="Why; kept with the incident.")
@as_json
@click.pass_context
def close(ctx: click.Context, id: int, resolution: str, reason: str, as_json: bool) -> None:
    """Close an incident: the entries that it denied are allowed again."""
    with gateway_of(ctx) as gateway:
        answer = gateway.post(f"/incidents/{id}/close", {"resolution": resolution, "reason": reason})
    emit(answer, as_json=as_json, schema="fks.incident/1")
    if not as_json:
        click.echo(f"incident {id} is closed: {answer['resolution']}")


@click.command()
@click.option("--venue", help="Only this venue (default: all).")
@as_json
@click.pass_context
def reconcile(ctx: click.Context, venue: str | None, as_json: bool) -> int:
    """Compare the journal with the venues now: open orders, executions, balances; and show the result.

    Exit code 1 when a venue could not be compared within a minute.
    """
    with gateway_of(ctx) as gateway:
        items = gateway.post("/reconcile", {"venue": venue})["items"]
        deadline = time.monotonic() + _PATIENCE_S
        while any(item["finished_at"] is None for item in items) and time.monotonic() < deadline:
            time.sleep(0.5)
            items = [gateway.get(f"/reconcile/{item['id']}") for item in items]
    emit(items, as_json=as_json, schema="fks.reconcile/1")
    if not as_json:
        headers = (
            "VENUE",
            "STATE",
            "SECONDS",
            "FILLS BOOKED",
            "NOT OURS",
            "OPEN",
            "UNKNOWN",
            "HELD BESIDE OURS",
            "ERROR",
        )
        table([_row(item) for item in items], headers, empty="the order manager has no venue")
    is_done = all(item["finished_at"] is not None and item["error"] is None for item in items)
    return OK if is_done else FAILED


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    if item["finished_at"] is None:
        return (item["venue"], "", "", "", "", "", "", "", "no answer of the order manager yet")
    found = item["result"]
    beside = ", ".join(f"{quantity} {symbol}" for symbol, quantity in found["external_positions"].items())
    return (
        item["venue"],
        found["state"],
        found["seconds"],
        found["fills_booked"],
        found["external_fills_booked"],
        found["orders_open"],
        found["orders_unknown"],
        beside,
        item["error"],
    )
