"""`fks indicators`: each indicator's inputs, parameters, outputs and warm-up length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, result, table
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.indicators import Indicator


@click.group()
def indicators() -> None:
    """List and show indicators: TA-Lib's, and others."""


def _show_groups(found: list[dict[str, Any]], group: str | None) -> None:
    from fks.indicators.registry import GROUPS

    columns: Columns = {
        "NAME": "name",
        "PARAMETERS": lambda row: " ".join(row["params"]),
        "READS": lambda row: " ".join(row["columns"]),
        "RETURNS": lambda row: " ".join(row["outputs"]),
        "WHAT": "summary",
    }
    for name in GROUPS:
        if group is None or group.lower() in name.lower():
            click.echo(click.style(name, bold=True))
            table((row for row in found if row["group"] == name), columns)
            click.echo()


@indicators.command("list")
@click.option("--group", help="Only a group whose name contains this: overlap, momentum, pattern.")
@result("fks.indicators/1", _show_groups)
def list_(_: click.Context, group: str | None) -> Any:
    """List every indicator with its inputs and outputs."""
    from fks.indicators.registry import INDICATORS

    rows = sorted(INDICATORS.values(), key=lambda row: row.name)
    return [_described(row) for row in rows if group is None or group.lower() in row.group.lower()]


@indicators.command()
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show one indicator: inputs, parameters with limits, outputs, warm-up."""
    from fks.indicators.registry import indicator, warmup_text

    row = indicator(name)
    shown = _described(row)
    params = {key: param.default for key, param in row.params.items()}
    shown["lookback"], shown["settled"] = row.lookback(params), row.settled(params)
    emit(shown, as_json=as_json, schema="fks.indicator/1")
    if as_json:
        return
    behind = f", TA-Lib {row.talib}" if row.talib else ""
    click.echo(f"{click.style(row.name, bold=True)} ({row.group}{behind}): {row.summary}")
    click.echo(f"reads {' '.join(row.columns)}; returns {' '.join(row.outputs)}")
    click.echo(f"with the defaults: {shown['lookback']} bars without a value; warm-up: {warmup_text(row)}\n")
    table(
        ((key, f"{p.default:g}", _limit(p.least), _limit(p.most)) for key, p in row.params.items()),
        ("PARAMETER", "DEFAULT", "LEAST", "MOST"),
        empty="no parameters",
    )


def _limit(value: float) -> str:
    return "any" if abs(value) > 1e30 else f"{value:g}"


def _described(row: Indicator) -> dict[str, Any]:
    return {
        **json_fields(row, "name", "group", "summary"),
        "talib": row.talib or None,
        "columns": list(row.columns),
        "outputs": list(row.outputs),
        "warmup": row.warmup,
        "params": {
            name: {
                **json_fields(param, "default", "least", "most"),
                "type": "int" if isinstance(param.default, int) else "float",
            }
            for name, param in row.params.items()
        },
    }
