"""`fks optimize`: search parameters here or as a durable job, and bring them to an instance and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.backtest import in_ledger, keep_page, load_bars, market_options, spec_of, wants_report
from fks.interfaces.cli.base import as_json, emit, named, options, result, settings_of, table
from fks.interfaces.cli.catalogue import catalogue_of, params_text
from fks.interfaces.cli.data.store import with_store
from fks.interfaces.cli.jobs import JobCommands, queue_options
from fks.interfaces.cli.shown import at
from fks.model.json_fields import json_fields
from fks.research.search.objectives import OBJECTIVES

if TYPE_CHECKING:
    from fks.research.search import Search, SearchTask

SCHEMA = "fks.optimization/1"


@click.group()
def optimize() -> None:
    """Search parameters of a strategy, judged on bars that did not choose them; promote what holds."""


_search_options = options(
    click.option(
        "--param",
        "-p",
        "ranges",
        multiple=True,
        required=True,
        metavar="NAME=RANGE",
        help="LOW:HIGH[:STEP], LOW:HIGH:log or A,B,C; NAME alone: all that its field allows. Repeatable.",
    ),
    click.option(
        "--method",
        type=click.Choice(["grid", "random", "tpe", "cmaes", "nsga2"]),
        default="grid",
        show_default=True,
    ),
    click.option("--trials", type=click.IntRange(1), help="Budget; a grid takes all combinations."),
    click.option("--seed", type=click.IntRange(0), default=1, show_default=True),
    click.option("--batch", type=click.IntRange(1), help="Trials a guided search proposes at once (default 8)."),
    click.option("--prune", is_flag=True, help="End trials early that are below the median of the earlier ones."),
    click.option(
        "--objective",
        "objectives",
        multiple=True,
        type=click.Choice(list(OBJECTIVES)),
        help="Greater is better (default sharpe); several with nsga2.",
    ),
    click.option("--min-trades", type=click.IntRange(0), default=1, show_default=True),
    click.option(
        "--validation",
        type=click.Choice(["none", "holdout", "walk_forward", "k_fold", "combinatorial"]),
        default="holdout",
        show_default=True,
        help="How parameters are judged on bars that did not choose them.",
    ),
    click.option("--folds", type=click.IntRange(2), help="Of walk_forward, k_fold, combinatorial (default 5)."),
    click.option("--anchored", is_flag=True, help="walk_forward: search on all bars before each test."),
    click.option("--test-share", type=float, help="holdout: share of the bars held back (default 0.25)."),
    click.option("--purge", type=click.IntRange(0), help="Bars left out before each test (default 0)."),
    click.option("--embargo", type=click.IntRange(0), help="Bars left out after each test (default 1 %)."),
    click.option("--workers", type=click.IntRange(1), help="Processes at once (default: one per core)."),
)
"""Options of a search, shared by `run` and `submit`."""


def _spec(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec that the options name. Errors: click.BadParameter."""
    space: dict[str, Any] = {}
    for text in options["ranges"]:
        name, equals, given = text.partition("=")
        if name.strip() in space or not name.strip():
            raise click.BadParameter(f"{text!r}: a parameter is searched once", param_hint="--param")
        space[name.strip()] = given.strip() if equals else None
    plan = {name: options[name] for name in ("method", "trials", "seed", "batch") if options[name] is not None}
    chosen = {"folds": options["folds"], "test_share": options["test_share"]}
    bars = {"purge": options["purge"], "embargo": options["embargo"]}
    validation = {name: value for name, value in {**chosen, **bars}.items() if value is not None}
    return {
        **spec_of(dict(options)),
        "space": space,
        "plan": {**plan, "prune": options["prune"]},
        "objectives": list(options["objectives"] or ("sharpe",)),
        "validation": {"kind": options["validation"], "anchored": options["anchored"], **validation},
        "trades_min": options["min_trades"],
        **({} if options["workers"] is None else {"workers": options["workers"]}),
    }


@optimize.command()
@market_options
@_search_options
@click.option(
    "--tape", metavar="sample|FILE", help="Run on the shipped sample or an .fksbars file, not on stored data."
)
@click.option("--report", metavar="FILE", help="Write the HTML report there (default: under FKS_HOME/reports).")
@click.option("--no-report", is_flag=True, help="Write no report; so does --json without --report.")
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    /,
    tape: str | None,
    report: str | None,
    no_report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the parameters of strategy NAME here, on stored data (where nothing is stored: on the shipped sample)."""
    from fks.interfaces.cli.base import CommandDenied
    from fks.research.backtest import TapeRefused
    from fks.research.jobs.backtest import load_joined, with_costs
    from fks.research.jobs.optimization import (
        check_strategy_of,
        document_of_search,
        parse_optimization,
        searched,
        task_for,
    )
    from fks.research.jobs.research_ledger import record_search
    from fks.research.search import Search

    with_report = wants_report(report, no_report=no_report, as_json=as_json)
    spec = parse_optimization(with_costs(_spec(options), settings_of(ctx).costs, settings_of(ctx).collar_pct))
    catalogue = catalogue_of(ctx)
    space = searched(spec, catalogue)  # errors of the request are reported before any data is loaded
    loaded = load_joined(space.inputs(), spec.request(space), lambda request: load_bars(ctx, request, tape))
    began = time.perf_counter()
    try:
        task = task_for(spec, loaded, catalogue, settings_of(ctx).risk)
        driver = Search(task)
        _play(task, driver, spec.workers or settings_of(ctx).research.places, check_strategy_of, is_quiet=as_json)
        document = document_of_search(driver, source=loaded.source)
    except TapeRefused as error:
        raise CommandDenied(error.message, remedy=error.remedy) from None
    document = in_ledger(ctx, tape, lambda runs: record_search(runs, document)) or {**document, "ledger": None}
    emit(document, as_json=as_json, schema=SCHEMA)
    if not as_json:
        show(document, seconds=time.perf_counter() - began)
    if with_report:
        _write_report(ctx, document, report, as_json)


def _write_report(ctx: click.Context, document: dict[str, Any], report: str | None, as_json: bool) -> None:
    from fks.research.backtest.page import search_page

    name = f"{document['strategy']}-{document['symbol']}-{document['timeframe']}-{document['inputs_hash'][:10]}.html"
    written = keep_page(ctx, search_page(document), name, report, kind="searches")
    if written is not None:
        click.echo(f"report: {written}", err=as_json)


def _play(
    task: SearchTask,
    driver: Search,
    workers: int,
    check: Callable[[SearchTask, Mapping[str, Any]], None],
    *,
    is_quiet: bool,
) -> None:
    """Run a search in `workers` processes, with a progress bar on a terminal."""
    from contextlib import ExitStack

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fks.research.jobs.pool import Processes
    from fks.research.search import serial

    with ExitStack() as stack:
        evaluate_all = serial if workers == 1 else stack.enter_context(Processes(workers))
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}"),
        )
        bar = stack.enter_context(Progress(*columns, transient=True, console=Console(stderr=True), disable=is_quiet))
        shown = bar.add_task("", total=driver.total, best="")
        is_first = True
        while asked := driver.ask():
            if is_first:
                check(task, asked[0][1].params)
                is_first = False
            for trial in evaluate_all(task, asked):
                driver.record(trial)
                best = driver.best()
                text = "" if best is None or best.values is None else f"best {best.values[0]:.2f}"
                bar.update(shown, advance=1, total=driver.total, best=text)


_jobs = JobCommands(
    optimize,
    kind="optimization",
    job="search",
    jobs="searches",
    path="/optimizations",
    schema_of=lambda found: SCHEMA,
    show_result=lambda found: show(found),
)
_jobs.add({"METHOD": lambda item: item["spec"]["plan"]["method"]})


@optimize.command()
@market_options
@_search_options
@queue_options
@click.option("--wait", is_flag=True, help="Show the progress, wait for the end, and show the result.")
@as_json
@click.pass_context
def submit(ctx: click.Context, /, wait: bool, priority: int, again: bool, as_json: bool, **options: Any) -> None:
    """Queue a search on the running system; it survives restarts of any part."""
    _jobs.submit(ctx, _spec(options), wait=wait, priority=priority, again=again, as_json=as_json)


@optimize.command()
@click.argument("id", type=click.UUID)
@click.option("--watch", "-w", is_flag=True, help="Show the progress until it has ended.")
@as_json
@click.pass_context
def status(ctx: click.Context, id: object, watch: bool, as_json: bool) -> None:
    """Show how far a submitted search is: trials, rate, time left."""
    _jobs.status(ctx, id, as_json=as_json, watch=watch)


@optimize.command("result")
@click.argument("id", type=click.UUID)
@click.option("--report", metavar="FILE", help="Write the HTML report there.")
@as_json
@click.pass_context
def result_(ctx: click.Context, id: object, report: str | None, as_json: bool) -> None:
    """Show the result of a submitted search. Exit 1 when there is none."""
    job = _jobs.result(ctx, id, as_json=as_json)
    if report is not None:
        _write_report(ctx, job["result"], report, as_json)


# ── instances ────────────────────────────────────────────────────────────────────────────────────
_instance = click.option(
    "--instance", required=True, metavar="X", help="A strategy instance: fks strategies instances."
)


def _promoted(done: dict[str, Any], instance: str, **_: Any) -> None:
    text = params_text(done["params"])
    click.echo(f"{instance} ({done['mode']}) runs version {done['version']} from the next bar on: {text}")
    click.echo(f"undo: fks optimize rollback --instance {instance}")


@optimize.command()
@click.argument("id", type=click.UUID)
@_instance
@click.option("--despite-findings", is_flag=True, help="Promote although the search names reasons against it.")
@result("fks.promotion/1", _promoted)
def promote(ctx: click.Context, id: Any, instance: str, despite_findings: bool) -> Any:
    """Give the best parameters of search ID to an instance as its next version; an instance on paper first.

    Only parameters change. A live instance takes them a day after one on a paper account did. 'rollback' undoes it.
    """
    from fks.research.jobs.promotion import promote

    catalogue = catalogue_of(ctx)
    return with_store(
        ctx, lambda db: promote(db, catalogue, id, instance, by="optimize", despite_findings=despite_findings)
    )


@optimize.command()
@_instance
@result(
    "fks.promotion/1",
    "{instance} runs version {0[version]} from the next bar on, with the parameters of {0[back_to]}",
)
def rollback(ctx: click.Context, instance: str) -> Any:
    """Give an instance the parameters back that the ones in force replaced, as its next version."""
    from fks.research.jobs.promotion import rollback

    catalogue = catalogue_of(ctx)
    return with_store(ctx, lambda db: rollback(db, catalogue, instance, by="optimize"))


def _came_from(provenance: Any) -> str:
    if not provenance:
        return ""
    if "rolled_back_to" in provenance:
        return f"rolled back to {provenance['rolled_back_to']}"
    if "challenger" in provenance:
        return f"challenger {provenance['challenger']}"
    return f"search {provenance['optimization']}, deflated Sharpe {provenance['deflated_sharpe']:.2f}"


@optimize.command()
@click.argument("instance")
@result(
    "fks.versions/1",
    {
        "VERSION": "version",
        "SINCE": at("created_at"),
        "BY": "by",
        "PARAMETERS": lambda row: _params_of(row["params"]),
        "FROM": lambda row: _came_from(row["provenance"]),
    },
    empty=lambda instance: f"no versions of {instance}",
)
def versions(ctx: click.Context, instance: str) -> Any:
    """List the versions of an instance's parameters with where they came from, newest first."""
    from fks.store.strategies import StrategyStore

    return [
        json_fields(one, "version", "created_ns", "params", "provenance", by=one.changed_by)
        for one in with_store(ctx, lambda db: StrategyStore(db).versions(instance))
    ]


@optimize.command()
@click.argument("symbol", required=False)
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@result(
    "fks.ledger/1",
    {
        "RAN AT": at("ran_at"),
        **named("kind", "strategy", "symbol", "timeframe"),
        "BARS": lambda row: f"{row['from'][:10]} to {row['to'][:10]}",
        "TRIALS": "trials",
        "BEST SHARPE": lambda row: f"{row['sharpe_best']:.2f}",
        "FINGERPRINT": lambda row: row["inputs_hash"][:10],
    },
    empty="no searches or backtests on stored bars yet",
)
def ledger(ctx: click.Context, symbol: str | None, limit: int) -> Any:
    """List the searches and backtests that were run on stored bars (of SYMBOL), newest first.

    A search is deflated by the trials of all of them on its symbol whose bars overlap its own in time.
    """
    from fks.model.instrument import folded
    from fks.model.timeframe import iso
    from fks.store.research_runs import ResearchRunStore

    name = None if symbol is None else folded(symbol)
    return [
        {
            "ran_at": iso(ran_ns),
            **json_fields(run, "kind", "strategy", "exchange", "symbol", "timeframe"),
            "from": iso(run.start_ns),
            "to": iso(run.end_ns),
            "trials": run.trials,
            "sharpe_best": round(run.sharpe_best, 4),
            "sharpe_mean": round(run.sharpe_mean, 4),
            "inputs_hash": run.fingerprint,
        }
        for run, ran_ns in with_store(ctx, lambda db: ResearchRunStore(db).list(name, limit=limit))
    ]


# ── output ───────────────────────────────────────────────────────────────────────────────────────
def show(document: dict[str, Any], *, seconds: float | None = None) -> None:
    """Print a search's result for people: best parameters, tests on held-back bars, what speaks for chance."""
    trials, best, overfitting = document["trials"], document["best"], document["overfitting"]
    plan, objective = document["plan"], document["objectives"][0]
    took = "" if seconds is None else f", {seconds:.1f} s"
    ranges = " ".join(f"{name}={_range_of(one)}" for name, one in document["space"].items())
    click.echo(f"{click.style(document['strategy'], bold=True)} {ranges}")
    click.echo(
        f"{document['symbol']} {document['timeframe']}, {document['from']} to {document['to']} "
        f"({document['bars']} bars, {document['source']})"
    )
    extra = [f"{trials[name]} {name}" for name in ("pruned", "failed", "invalid") if trials[name]]
    several = f" in {document['searches']} searches" if document["searches"] > 1 else ""
    click.echo(f"{plan['method']}: {trials['total']} trials{several}{''.join(f', {text}' for text in extra)}{took}\n")
    table(
        [
            (
                number,
                _params_of(one["params"]),
                f"{one['values'][0]:.2f}",
                *(_metric(one["metrics"], name) for name in ("return_pct", "max_drawdown_pct", "trades")),
            )
            for number, one in enumerate(document["leaders"][:5], 1)
        ],
        ("", "BEST WHERE CHOSEN", objective.upper(), "RETURN %", "DRAWDOWN %", "TRADES"),
    )
    if len(document["front"]) > 1:
        click.echo(
            f"\nfront of {' and '.join(document['objectives'])}: {len(document['front'])} trials (--json has them)"
        )
    _show_tests(document, objective)
    click.echo("")
    rows = [
        ("Sharpe ratio of the best, yearly", _number(overfitting["sharpe"])),
        (
            f"expected of the best of {overfitting['trials']} without skill",
            _number(overfitting["sharpe_without_skill"]),
        ),
        ("deflated Sharpe ratio (pass: 0.95)", _number(overfitting["deflated_sharpe"])),
    ]
    if overfitting.get("hold_sharpe") is not None:  # a result of an older version has neither
        rows.append(("Sharpe ratio of buying and holding there", _number(overfitting["hold_sharpe"])))
        rows.append(("deflated, above buying and holding", _number(overfitting["deflated_sharpe_above_hold"])))
    ledger = document.get("ledger")
    if ledger:
        ever = f"deflated by all {ledger['trials']} trials on {document['symbol']} so far"
        rows.append((ever, f"{_number(ledger['deflated_sharpe'])} (earlier runs: {ledger['earlier_runs']})"))
        if ledger["held_back_runs"] is not None:
            rows.append(("earlier runs that used the bars held back here", str(ledger["held_back_runs"])))
    crossed = overfitting["cross_validation"]
    if crossed is not None:
        rows.append(("probability of overfitting", _number(crossed["pbo"])))
    near = document["stability"]
    if near is not None and near["mean"] is not None:
        rows.append((f"{objective} of its {near['neighbours']} neighbours, mean", _number(near["mean"])))
    paths = (document["out_of_sample"] or {}).get("paths", ())
    if len(paths) > 1:
        middle, most = paths[(len(paths) - 1) // 2], paths[-1]
        values = ", ".join(_number(path["value"]) for path in (paths[0], middle, most))
        rows.append((f"{objective} on {len(paths)} held-back paths: least, median, most", values))
    runs = document["monte_carlo"]
    if runs is not None:
        where = "held-back" if runs["of"] == "out_of_sample" else "its own"
        for method, how in (("bootstrap", "drawn again"), ("blocks", "drawn again in blocks")):
            if method in runs:  # a result of an older version has no blocks
                fall = runs[method]["drawdown_pct"]
                rows.append((f"drawdown, {where} trades {how}: median, 95 %", f"{fall[2]:.2f} %, {fall[4]:.2f} %"))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"  {label:<{width}}  {text}")
    click.echo(f"\nparameters: {_params_of(best['all_params'])}")
    for finding in document["findings"]:
        click.echo(click.style(f"against them: {finding}", fg="yellow"))
    if not document["findings"]:
        click.echo(click.style("nothing found that speaks against them", fg="green"))
    click.echo(f"fingerprint: {document['inputs_hash'][:16]}")


def _show_tests(document: dict[str, Any], objective: str) -> None:
    """Print how each fold's winner did on its test."""
    outside = document["out_of_sample"]
    if outside is None:
        return
    click.echo("")
    table(
        [
            (
                f"{fold['test'][0]['from'][:10]} to {fold['test'][-1]['to'][:10]}",
                "" if fold["winner"] is None else _params_of(fold["winner"]["params"]),
                _number(fold.get("value_train")),
                _number(fold.get("value_test")),
                "" if "test_metrics" not in fold else _metric(fold["test_metrics"], "return_pct"),
                "" if "test_metrics" not in fold else _metric(fold["test_metrics"], "trades"),
            )
            for fold in document["folds"]
        ],
        ("HELD BACK", "WINNER BEFORE", f"{objective.upper()} WHERE CHOSEN", "HELD BACK", "RETURN %", "TRADES"),
    )


def _range_of(one: dict[str, Any]) -> str:
    if "choices" in one:
        return ",".join(str(value) for value in one["choices"])
    step = f":{one['step']}" if "step" in one else ""
    return f"{one['low']}:{one['high']}{step}{':log' if one.get('log') else ''}"


def _params_of(params: Mapping[str, Any]) -> str:
    return params_text({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()})


def _metric(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(name)
    return "–" if value is None else f"{value:.0f}" if name == "trades" else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
