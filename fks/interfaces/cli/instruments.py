"""`fks instruments`: futures contracts, from the specifications and the exchange calendar that FKS ships."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, result, table
from fks.model.errors import InputError
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.model.futures import Contract, ContractSpec

_on = click.option("--on", "day", metavar="DATE", help="Trade date, as 2026-03-20. Default: the present one.")


@click.group()
def instruments() -> None:
    """Show futures contracts: specifications, front month, expiry and roll."""


_PRODUCT: Columns = {
    "ROOT": "root",
    "PRODUCT": "name",
    "EXCHANGE": "exchange",
    "TICK": lambda row: f"{row['tick']:f}",
    "POINT USD": lambda row: f"{row['point_value']:f}",
    "TICK USD": lambda row: f"{row['tick_value']:f}",
    "MONTHS": lambda row: " ".join(row["months"]),
    "FRONT": lambda row: row["front"]["name"],
    "CODE": lambda row: row["front"]["code"],
    "ROLLS ON": lambda row: row["front"]["roll_date"],
    "LAST DAY": lambda row: row["front"]["last_trading_day"],
}


def _show_products(found: dict[str, Any], **_: Any) -> None:
    table(found["items"], _PRODUCT)
    oldest = min(row["source_date"] for row in found["items"])
    click.echo(f"trade date {found['on']}; specifications read on {oldest}: check them against the exchange's pages")


@instruments.command()
@click.argument("roots", nargs=-1)
@_on
@result("fks.instruments.futures/1", _show_products)
def futures(_: click.Context, roots: tuple[str, ...], day: str | None) -> Any:
    """List the products that FKS knows, or ROOTS of them (ES NQ), with their front months.

    Front month and roll follow the exchange calendar; see docs/futures.md. With --json: every figure with its source.
    """
    from fks.model.futures import SPECS, spec_of

    on = _day(day)
    items = [_product(spec_of(root), on) for root in roots or tuple(SPECS)]
    return {"on": on.isoformat(), "items": items}


@instruments.command()
@click.argument("name")
@_on
@as_json
def contract(name: str, day: str | None, as_json: bool) -> None:
    """Show one contract by NAME: "ES 03-25", ESH25 or ESH5.

    Exit code 2 for one that is expired or past its roll date when --on is left out: entries in it are refused.
    """
    from fks.clock import RealClock
    from fks.model.futures import Contract, check_entry

    on = _day(day)
    found = Contract.parse(name, on)
    row = _contract(found) | {"on": on.isoformat(), "state": str(found.listing(on))}
    emit(row, as_json=as_json, schema="fks.instruments.contract/1")
    if not as_json:
        table(((key.replace("_", " "), _text(value)) for key, value in row.items()), ("FIELD", "VALUE"))
    if day is None:
        check_entry(found, RealClock().now_ns())


def _day(text: str | None) -> date:
    """Return the trade date that was asked for, else the present one. Errors: InputError."""
    from fks.clock import RealClock
    from fks.model.futures import trade_date

    if text is None:
        return trade_date(RealClock().now_ns())
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no date", remedy="write it as 2026-03-20") from None


def _product(spec: ContractSpec, on: date) -> dict[str, Any]:
    from fks.model.futures import front_month

    root, number = spec.full_size
    return {
        **json_fields(
            spec, "root", "name", "exchange", "currency", "tick", "point_value", "tick_value", "months", "front_months"
        ),
        "last_day_rule": spec.last_day,
        "micro_of": root if spec.is_micro else None,
        "micros_per_contract": number,
        **json_fields(spec, "calendar", "source", "source_date"),
        "front": _contract(front_month(spec.root, on)),
    }


def _contract(found: Contract) -> dict[str, Any]:
    from fks.model.timeframe import iso

    return {
        **json_fields(found, "name", "code", "short_code", "roll_date", "first_notice", "last_trading_day"),
        "expires": iso(found.expires_ns),
    }


def _text(value: object) -> str:
    return "none" if value is None else str(value)
