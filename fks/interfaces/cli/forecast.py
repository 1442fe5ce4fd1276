"""`fks forecast`: train models on stored bars, evaluate, promote and roll back versions, and fill their predictions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

import click

from fks.interfaces.cli.base import Columns, named, paths_of, result
from fks.interfaces.cli.catalogue import in_database
from fks.interfaces.cli.shown import at

if TYPE_CHECKING:
    from fks.store.db import Database
    from fks.store.forecasts import OnDrift

_STEPS = 1000  # of the progress bar


@click.group()
def forecast() -> None:
    """Train models of returns, judged on bars that trained nothing, and give their predictions to strategies."""


def _figure(one: Mapping[str, float | None], form: str) -> str:
    if one["value"] is None:
        return "not measured"
    return f"{one['value']:{form}} ({one['low']:{form}} to {one['high']:{form}})"


def _show(found: Mapping[str, Any], **_: Any) -> None:
    """Print a version with its evaluation and checks."""
    click.echo(
        f"{click.style(found['model'], bold=True)} version {found['version']}, {found['stage']}: "
        f"{' '.join(found['symbols'])} {found['timeframe']}, trained on labels up to {found['label_end']}"
    )
    libraries = " ".join(f"{name} {version}" for name, version in found["libraries"].items())
    code, licence = (found["code_hash"] or "not kept")[:12], found["licence"] or "not stated"
    click.echo(f"  code {code}, {libraries}, licence {licence}")
    metrics = found["metrics"]
    if not metrics:
        click.echo(f"  deployed, not evaluated here; file {found['artifact_hash']}")
        return
    click.echo(f"  tested on {metrics['rows']:,} rows from {metrics['from']} to {metrics['to']}")
    for name, value in metrics["skill"].items():
        click.echo(f"  skill against {name:<9}{_figure(value, '+.4f')}")
    for name in metrics["mase"]:
        mase, pinball = metrics["mase"][name], metrics["pinball"][name]
        click.echo(f"  {name:<9} MASE {_figure(mase, '.4f')}, pinball {_figure(pinball, '.3g')}")
    click.echo(f"  hit rate {_figure(metrics['hit_rate'], '.3f')}")
    for level, value in metrics["coverage"].items():
        click.echo(f"  coverage of the {float(level):.0%} interval {_figure(value, '.3f')}")
    click.echo(f"  {'it beats every baseline' if metrics['beats_naive'] else 'it ' + metrics['finding']}")
    if (drift := found["drift"]) is not None:
        compared = f"{min(drift['rows'], drift['rows_needed'])} of {drift['rows_needed']} predictions"
        click.echo(f"  drift of {compared}: {'; '.join(drift['findings'].values()) or 'none'}")
    for name, reason in found["checks"].items():
        click.echo(f"  check {name}: {'passed' if reason is None else 'FAILED, ' + reason}")


@forecast.command()
@click.argument("model")
@click.option("--symbol", "-s", "symbols", multiple=True, help="BTCUSDT, BTC/USDT or BTC-USDT; repeatable.")
@click.option("--timeframe", "-t", default=None, help="Of the bars (default 1h).")
@click.option("--horizon", type=click.IntRange(1), help="Bars that the label looks ahead (default 1).")
@click.option("--label", type=click.Choice(["return", "direction", "triple_barrier"]), help="Default return.")
@click.option("--from", "start", help="First bar, ISO 8601 (default: all that is stored).")
@click.option("--to", "end", help="Exclusive.")
@click.option("--folds", type=click.IntRange(2), help="Test windows of the walk-forward (default 5).")
@click.option("--trainer", help="Name of an installed trainer (default lightgbm).")
@click.option("--spec", "file", type=click.File(), help="JSON with all fields of docs/forecasts.md; options win.")
@result("fks.forecast/1", _show)
def train(ctx: click.Context, model: str, file: TextIO | None, **given: Any) -> Any:
    """Train MODEL on stored bars and keep it as a candidate version, with its evaluation and checks for leakage.

    Ended and started again, it goes on behind the last fold that was trained. The same spec, bars and libraries give
    the same version.
    """
    from rich.console import Console
    from rich.progress import Progress

    from fks.research.jobs.forecast import run_forecast

    spec: dict[str, Any] = json.load(file) if file is not None else {}
    names = {"start": "from", "end": "to"}
    spec |= {names.get(key, key): value for key, value in given.items() if value not in (None, ())}
    spec["name"] = model
    if not spec.get("symbols"):
        raise click.UsageError("give --symbol, or the field symbols of --spec")
    models = paths_of(ctx).models
    with Progress(transient=True, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("folds and checks", total=_STEPS)

        async def work(db: Database) -> dict[str, Any]:
            return await run_forecast(
                spec, db, models, by="cli", advance=lambda share: bar.update(task, completed=_STEPS * share)
            )

        return in_database(ctx, work)


@forecast.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(1), required=False)
@result("fks.forecast/1", _show)
def evaluate(ctx: click.Context, model: str, version: int | None) -> Any:
    """Show the evaluation of a version of MODEL (default: the newest), on bars that trained nothing."""
    from fks.store.forecasts import ForecastStore

    async def work(db: Database) -> dict[str, Any]:
        return (await ForecastStore(db).find(model, version)).shown()

    return in_database(ctx, work)


def _show_predicted(found: Mapping[str, Any], **_: Any) -> None:
    if "job" in found:
        click.echo(f"job {found['job']} fills forecast:{found['model']} by version {found['version']}")
    else:
        click.echo(f"{found['rows']:,} bars predicted by version {found['version']}, {found['new']:,} rows are new")


_VERSIONS: Columns = {
    **named("model", "version", "stage", "timeframe"),
    "SYMBOLS": lambda row: " ".join(row["symbols"]),
    "TRAINED TO": at("label_end"),
    "SKILL": lambda row: _figure(row["metrics"]["skill"]["naive"], "+.4f") if row["metrics"] else "not evaluated",
    "DRIFT": lambda row: "" if row["drift"] is None else " ".join(row["drift"]["findings"]) or "none",
    "CHECKS": lambda row: (
        " ".join(name for name, why in row["checks"].items() if why is not None) or ("passed" if row["checks"] else "")
    ),
    "ARTIFACT": lambda row: row["artifact_hash"][:12],
}


@forecast.command("list")
@click.argument("model", required=False)
@result("fks.forecasts/1", _VERSIONS, empty="no model was trained: fks forecast train MODEL --symbol BTCUSDT")
def list_(ctx: click.Context, model: str | None) -> Any:
    """List the versions of MODEL, or of all models, newest first."""
    from fks.store.forecasts import ForecastStore

    async def work(db: Database) -> list[dict[str, Any]]:
        return [one.shown() for one in await ForecastStore(db).versions(model)]

    return in_database(ctx, work)


@forecast.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(1), required=False)
@result("fks.forecast.predicted/1", _show_predicted)
def predict(ctx: click.Context, model: str, version: int | None) -> Any:
    """Fill the column forecast:MODEL for backtests: each stored bar is predicted by the fold trained before it. Of a
    model that is deployed a job fills it, which asks its process.

    VERSION: default the newest; of a model that is deployed the live one alone. A bar that has a prediction keeps it.
    """
    from fks.research.jobs.forecast import backfill
    from fks.research.jobs.predictions import submit_history
    from fks.store.forecasts import ForecastStore

    models = paths_of(ctx).models

    async def work(db: Database) -> dict[str, Any]:
        store = ForecastStore(db)
        live = [one.version for one in await store.versions(model) if one.is_deployed and one.stage == "live"]
        found = await store.find(model, version or next(iter(live), None))
        return await (submit_history(db, found, by="cli") if found.is_deployed else backfill(db, models, found))

    return in_database(ctx, work)


@forecast.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(1), required=False)
@result("fks.forecast/1", "{0[model]} version {0[version]} is {0[stage]} from the next bar on")
def promote(ctx: click.Context, model: str, version: int | None) -> Any:
    """Move a version of MODEL (default: the newest) from candidate to shadow, or from shadow to live.

    A check that failed blocks it; to go live it predicts in shadow for a day first.
    """
    from fks.clock import RealClock
    from fks.store.forecasts import promote

    async def work(db: Database) -> dict[str, Any]:
        return (await promote(db, model, version, now_ns=RealClock().now_ns(), by="cli")).shown()

    return in_database(ctx, work)


@forecast.command("on-drift")
@click.argument("model")
@click.argument("action", type=click.Choice(["alert", "demote"]))
@result("fks.forecast/1", "{0[model]}: when its live version drifts, {0[on_drift]}")
def on_drift(ctx: click.Context, model: str, action: OnDrift) -> Any:
    """Set what follows when the live version of MODEL drifts: an alert alone, or that it is moved to shadow, too."""
    from fks.store.forecasts import set_on_drift

    async def work(db: Database) -> dict[str, Any]:
        return (await set_on_drift(db, model, action, by="cli")).shown()

    return in_database(ctx, work)


@forecast.command()
@click.argument("model")
@result(
    "fks.forecast.rollback/1",
    lambda found, **_: (
        f"{found['model']} has no live version from the next bar on"
        if found["version"] is None
        else f"{found['model']} version {found['version']} is live again from the next bar on"
    ),
)
def rollback(ctx: click.Context, model: str) -> Any:
    """Retire the live version of MODEL, and make the one that it replaced live again."""
    from fks.store.forecasts import rollback

    async def work(db: Database) -> dict[str, Any]:
        back = await rollback(db, model, by="cli")
        return {"model": model, "version": None if back is None else back.version}

    return in_database(ctx, work)
