"""`fks indicators`: each indicator's inputs, parameters, outputs and warm-up length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, table

if TYPE_CHECKING:
    from fks.indicators import Indicator


@click.group()
def indicators() -> None:
    """List and show indicators: TA-Lib's, and others."""


@indicators.command("list")
@click.option("--group", help="Only a group whose name contains this: overlap, momentum, pattern.")
@as_json
def list_(group: str | None, as_json: bool) -> None:
    """List every indicator with its inputs and outputs."""
    from fks.indicators.registry import GROUPS, INDICATORS

    wanted = [name for name in GROUPS if group is None or group.lower() in name.lower()]
    found = sorted((row for row in INDICATORS.values() if row.group in wanted), key=lambda row: row.name)
    emit([_described(row) for row in found], as_json=as_json, schema="fks.indicators/1")
    if as_json:
        return
    for name in wanted:
        click.echo(click.style(name, bold=True))
        table(
            (
                (row.name, " ".join(row.params), " ".join(row.columns), " ".join(row.outputs), row.summary)
                for row in found
                if row.group == name
            ),
            ("NAME", "PARAMETERS", "READS", "RETURNS", "WHAT"),
        )
        click.echo()


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
        "name": row.name,
        "group": row.group,
        "summary": row.summary,
        "talib": row.talib or None,
        "columns": list(row.columns),
        "outputs": list(row.outputs),
        "warmup": row.warmup,
        "params": {
            name: {
                "default": param.default,
                "least": param.least,
                "most": param.most,
                "type": "int" if isinstance(param.default, int) else "float",
            }
            for name, param in row.params.items()
        },
    }
