"""`fks demo`: one backtest on the shipped sample with its report, and what to do next. Needs no server."""

from __future__ import annotations

import time

import click

from fks.interfaces.cli.base import as_json, emit, settings_of
from fks.model.errors import FksError

SPEC = {"strategy": "sma_cross", "symbol": "BTC/USDT", "timeframe": "1h"}
#: command -> what it does
NEXT = {
    "fks up": "everything, with paper money on a local exchange; pages and charts on /app/",
    "fks strategies new breakout": "a strategy file of your own, with tests; then: fks backtest run breakout",
    "fks optimize run sma_cross --tape sample --timeframe 1h -p fast=5:25:5 -p slow=30:90:20": (
        "search its parameters: an edge or luck? Judged on bars that did not choose them"
    ),
}


@click.command()
@as_json
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Run a backtest on the shipped sample, write its HTML report, and say what to do next. Starts no server."""
    from fks.interfaces.cli.backtest import load_bars, show, write_report
    from fks.interfaces.cli.catalogue import catalogue_of
    from fks.research.backtest.report import document_of
    from fks.research.jobs.backtest import parse_spec, run_spec, with_costs

    settings, began = settings_of(ctx), time.perf_counter()
    result, source = run_spec(
        parse_spec(with_costs(SPEC, settings.costs, settings.collar_pct)),
        lambda request: load_bars(ctx, request, "sample"),
        catalogue=catalogue_of(ctx),
        limits=settings.risk,
    )
    document = document_of(result, source=source)
    seconds = time.perf_counter() - began
    if not as_json:
        show(document, seconds=seconds)
    report = write_report(ctx, result, document, None)
    if report is None:
        raise FksError("the report could not be written", remedy="use a folder that you may write: fks --home DIR demo")
    emit(
        {"report": str(report), "next": [{"command": name, "does": text} for name, text in NEXT.items()]}
        | {"backtest": document},
        as_json=as_json,
        schema="fks.demo/1",
    )
    if not as_json:
        click.echo(f"report: {report}\n\nnext:")
        for name, text in NEXT.items():
            click.echo(f"  {click.style(name, fg='cyan')}\n      {text}")
