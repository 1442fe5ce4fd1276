"""`fks backtest`: run one here, or submit it as a durable job and watch it."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
import tomllib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.interfaces.cli.base import Columns, CommandDenied, as_json, emit, options, paths_of, settings_of, table
from fks.interfaces.cli.catalogue import (
    SIZE_HELP,
    SIZING_HELP,
    SizingType,
    catalogue_of,
    params_of,
    params_text,
    rule_options,
)
from fks.interfaces.cli.client import gateway_of
from fks.interfaces.cli.jobs import JobCommands, queue_options
from fks.model.errors import FksError, InputError, OutageError, invalid, not_found

if TYPE_CHECKING:
    from fks.research.backtest.page import ReportPage
    from fks.research.backtest.result import Result
    from fks.research.jobs.backtest import BarsRequest, LoadedBars
    from fks.store.db import Database
    from fks.store.research_runs import ResearchRunStore

T = TypeVar("T")
_BLOCKS = "▁▂▃▄▅▆▇█"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WIDE = 84  # columns of the summary side by side
SAMPLE_NOTE = "note: nothing is stored here, so this runs on the shipped sample (BTCUSDT, 1m, March to May 2026)"
_RUNS_SHOWN = 20  # newest runs of a portfolio
REPORTS_MAX = 200  # kept in FKS_HOME/reports/backtests; the oldest go first


@click.group()
def backtest() -> None:
    """Run backtests here, or submit them as durable jobs."""


def _text_or_file(_ctx: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Return the text of an option; of @FILE the file's."""
    if text is None or not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{text[1:]} cannot be read: {error}") from None


market_options = options(
    click.argument("name"),
    click.option("--symbol", default="BTC/USDT", show_default=True, help="In any spelling."),
    click.option("--exchange", help="Whose bars (default: the one that is collected, or has bars)."),
    click.option("--timeframe", default="1m", show_default=True, help="Of the bars; vol1000: volume bars of 1000."),
    click.option("--from", "start", metavar="TIME", help="First decided bar: 2026-03-01 or 2026-03-01T12:00 (UTC)."),
    click.option("--to", "end", metavar="TIME", help="End, not included."),
    click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; repeatable."),
    click.option("--stop-loss", type=float, metavar="PCT", help="Same as --set sl_pct=PCT."),
    click.option("--trailing-stop", type=float, metavar="PCT", help="Same as --set trail_pct=PCT."),
    click.option("--take-profit", type=float, metavar="PCT", help="Same as --set tp_pct=PCT."),
    click.option("--sizing", type=SizingType(), default="notional", show_default=True, help=SIZING_HELP),
    click.option("--size", default="1000", show_default=True, help=SIZE_HELP),
    click.option("--cash", default="10000", show_default=True, help="Quote at the start."),
    click.option("--fee-rate", help="Fraction of each fill (default: the setting costs.fee_rate)."),
    click.option(
        "--fee-rate-maker",
        help="Fraction of the fills of limit orders that rested, below 0: a rebate (default: --fee-rate, else the "
        "setting).",
    ),
    click.option(
        "--slippage",
        metavar="TEXT",
        help="Of market and stop orders: none, '2 ticks', '5 bps' or '0.1 range' (default: costs.slippage).",
    ),
    click.option(
        "--commission",
        metavar="TEXT",
        help="In quote for each contract or share, beside --fee-rate: '2.25 each', '0.005 each min 1' for an "
        "order; behind commas tiers of a month's volume (default: costs.commission).",
    ),
    click.option(
        "--collar",
        "collar_pct",
        metavar="PCT",
        help="Market entries with SL or TP expire that far from the close, 0: never (default: "
        "risk.slippage_max_pct with venue.entry_protection = venue, else 0).",
    ),
    click.option(
        "--margin",
        metavar="TEXT|@FILE",
        callback=_text_or_file,
        help="Margin of a position: '0.1' of its value (ten times leverage) or '22000 each' contract; behind a "
        "slash the maintenance margin: '0.1/0.05'; or reg-t. Then, each after a semicolon or on a line of FILE: "
        "'above 50000 0.2/0.1' (a bracket), 'short 0.3', 'overnight 15m 22000/20000 each', 'fee 0.01' of what is "
        "closed by force (default: its value in full).",
    ),
    click.option(
        "--borrow",
        default="none",
        metavar="TEXT",
        help="Yearly rate of short positions, '0.03', and behind a slash that of cash below 0: '0.03/0.0583' "
        "(default: none).",
    ),
    click.option(
        "--funding",
        type=click.Choice(["stored", "none"]),
        default="stored",
        show_default=True,
        help="Of a perpetual: pay the stored funding rates, or run without them on purpose.",
    ),
    rule_options,
    click.option(
        "--allow-short", is_flag=True, help="Let it go short; fees are then taken in quote, as derivatives do."
    ),
    click.option("--allow-gaps", is_flag=True, help="Go on although bars are missing; the fingerprint says so."),
    click.option(
        "--limits/--no-limits",
        default=False,
        show_default=True,
        help="Hold entries to the [risk] limits of the settings, as live does.",
    ),
    click.option(
        "--limits-currency",
        metavar="TEXT",
        help="The account's currency, in which these limits are; converted at the last stored close before the "
        "first bar (default: the quote currency).",
    ),
    click.option(
        "--finer/--no-finer",
        default=True,
        show_default=True,
        help="Let stored minutes decide the order of prices within a bar; else the worse reading counts.",
    ),
)
"""Options of a backtest, shared by `run` and `submit`."""

_tapes_option = click.option(
    "--tape",
    "tapes",
    multiple=True,
    metavar="sample|FILE",
    help="Run on these tapes, each of one symbol, not on stored data; repeatable.",
)
_report_options = options(
    click.option("--report", metavar="FILE", help="Write the HTML report there (default: under FKS_HOME/reports)."),
    click.option("--no-report", is_flag=True, help="Write no report; so does --json without --report."),
)
_submit_options = options(
    click.option("--submit", is_flag=True, help="Queue it on the running system instead."),
    click.option(
        "--wait", is_flag=True, help="With --submit: show the progress, wait for the end, and show the result."
    ),
)


_expect_option = click.option(
    "--expect", metavar="HASH|FILE", help="Exit 1 unless the fingerprint, or the fills of an earlier --json, match."
)


def spec_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the spec that the options of `market_options` name."""
    params = params_of(options["pairs"])
    for option, field in (("stop_loss", "sl_pct"), ("trailing_stop", "trail_pct"), ("take_profit", "tp_pct")):
        if options[option] is not None:
            params[field] = options[option]
    is_coarse = {} if options.get("finer", True) else {"finer": False}
    funding = {"funding": "none"} if options.get("funding") == "none" else {}
    borrow = {"borrow": options["borrow"]} if options.get("borrow", "none") != "none" else {}
    wanted = ("symbol", "timeframe", "sizing", "size", "cash", "allow_gaps", "allow_short", "limits")
    given = ("fee_rate", "fee_rate_maker", "slippage", "commission", "collar_pct", "margin", "limits_currency")
    rules = ("lot", "tick", "largest")
    costs = {name: options[name] for name in (*given, *rules) if options[name] is not None}
    times = {"from": options["start"], "to": options["end"], "exchange": options["exchange"]}
    return {
        "strategy": options["name"],
        "params": params,
        **{name: options[name] for name in wanted},
        **costs,
        **is_coarse,
        **funding,
        **borrow,
        **{name: text for name, text in times.items() if text is not None},
    }


@backtest.command()
@market_options
@click.option(
    "--tape",
    metavar="sample|FILE",
    help="Run on the shipped sample, an .fksbars file, or for volume bars a file of trades, not on stored data.",
)
@_expect_option
@click.option("--report", metavar="FILE", help="Write the HTML report there (default: under FKS_HOME/reports).")
@click.option("--no-report", is_flag=True, help="Write no report; so does --json without --report.")
@click.option("--trades", metavar="FILE", help="Write the closed trades to a .csv (exact) or .parquet file.")
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    /,
    tape: str | None,
    expect: str | None,
    report: str | None,
    no_report: bool,
    trades: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run strategy NAME here, on stored data (where nothing is stored: on the shipped sample)."""
    from fks.research.backtest import TapeRefused
    from fks.research.backtest.frames import trades_path, write_trades
    from fks.research.backtest.report import document_of
    from fks.research.jobs.backtest import parse_spec, run_spec, with_costs
    from fks.research.jobs.research_ledger import record_backtest

    with_report = wants_report(report, no_report=no_report, as_json=as_json)
    if trades is not None:
        trades_path(trades)
    spec = parse_spec(with_costs(spec_of(options), settings_of(ctx).costs, settings_of(ctx).collar_pct))
    catalogue = catalogue_of(ctx)
    catalogue.make(spec.strategy, spec.params)  # errors of the request are reported before any data is loaded
    began = time.perf_counter()
    try:
        result, source = run_spec(
            spec, lambda request: load_bars(ctx, request, tape), catalogue=catalogue, limits=settings_of(ctx).risk
        )
    except TapeRefused as error:
        raise CommandDenied(error.message, remedy=error.remedy) from None
    document = document_of(result, source=source)
    seconds = time.perf_counter() - began
    document = in_ledger(ctx, tape, lambda runs: record_backtest(runs, document)) or document
    if as_json:
        emit(document, as_json=True, schema="fks.backtest/1")
    else:
        show(document, seconds=seconds)
    if trades is not None:
        click.echo(f"trades: {write_trades(result, trades)}", err=as_json)
    if with_report:
        written = write_report(ctx, result, document, report)
        if written is not None:
            click.echo(f"report: {written}", err=as_json)
    if expect is not None:
        _compare(document, expect)


# ── several members on one account ───────────────────────────────────────────────────────────────
@backtest.command()
@click.argument("file", type=click.Path(path_type=Path))
@_tapes_option
@_report_options
@_submit_options
@queue_options
@as_json
@click.pass_context
def account(
    ctx: click.Context,
    /,
    file: Path,
    tapes: tuple[str, ...],
    report: str | None,
    no_report: bool,
    submit: bool,
    as_json: bool,
    **queue: Any,
) -> None:
    """Run the members that a TOML or JSON FILE names on one account (docs/backtest-account.md)."""
    from fks.research.backtest import TapeRefused
    from fks.research.backtest.account_report import account_document_of
    from fks.research.backtest.page import account_page
    from fks.research.jobs.account import parse_account, run_account_spec
    from fks.research.jobs.backtest import with_costs

    with_report = wants_report(report, no_report=no_report, as_json=as_json)
    wanted = _spec_file(file, "docs/backtest-account.md")
    if submit:
        _jobs.submit(ctx, wanted, as_json=as_json, **queue)
        return
    spec = parse_account(with_costs(wanted, settings_of(ctx).costs, settings_of(ctx).collar_pct))
    if not tapes and _database_url(ctx) is None:
        click.echo(SAMPLE_NOTE, err=True)
        tapes = ("sample",)
    began = time.perf_counter()
    try:
        result, sources = run_account_spec(
            spec, _loader(ctx, tapes), catalogue=catalogue_of(ctx), limits=settings_of(ctx).risk
        )
    except TapeRefused as error:
        raise CommandDenied(error.message, remedy=error.remedy) from None
    document = account_document_of(result, sources=sources)
    if as_json:
        emit(document, as_json=True, schema="fks.account_backtest/1")
    else:
        show_account(document, seconds=time.perf_counter() - began)
    if with_report:
        written = keep_page(ctx, account_page(document), f"account-{result.inputs_hash[:10]}.html", report)
        if written is not None:
            click.echo(f"report: {written}", err=as_json)


# ── a portfolio that is rebalanced ───────────────────────────────────────────────────────────────
@backtest.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "start", metavar="TIME", help="First bar, instead of the file's: 2026-03-01 (UTC).")
@click.option("--to", "end", metavar="TIME", help="End, not included, instead of the file's.")
@_tapes_option
@_report_options
@_submit_options
@queue_options
@as_json
@click.pass_context
def portfolio(
    ctx: click.Context,
    /,
    file: Path,
    start: str | None,
    end: str | None,
    tapes: tuple[str, ...],
    report: str | None,
    no_report: bool,
    submit: bool,
    as_json: bool,
    **queue: Any,
) -> None:
    """Rebalance the portfolio that a TOML or JSON FILE describes (docs/backtest-portfolio.md)."""
    from fks.research.backtest import TapeRefused
    from fks.research.backtest.page import portfolio_page
    from fks.research.backtest.rebalance import portfolio_document_of
    from fks.research.jobs.backtest import with_costs
    from fks.research.jobs.portfolio_backtest import parse_portfolio, run_portfolio_spec

    with_report = wants_report(report, no_report=no_report, as_json=as_json)
    wanted = _spec_file(file, "docs/backtest-portfolio.md")
    wanted |= {name: text for name, text in (("from", start), ("to", end)) if text is not None}
    if submit:
        _jobs.submit(ctx, wanted, as_json=as_json, **queue)
        return
    spec = parse_portfolio(with_costs(wanted, settings_of(ctx).costs))
    if not tapes and _database_url(ctx) is None:
        click.echo(SAMPLE_NOTE, err=True)
        tapes = ("sample",)
    began = time.perf_counter()
    try:
        result, sources = run_portfolio_spec(spec, _loader(ctx, tapes))
    except TapeRefused as error:
        raise CommandDenied(error.message, remedy=error.remedy) from None
    document = portfolio_document_of(result, sources=sources)
    if as_json:
        emit(document, as_json=True, schema="fks.portfolio_backtest/1")
    else:
        show_portfolio(document, seconds=time.perf_counter() - began)
    if with_report:
        written = keep_page(ctx, portfolio_page(document), f"portfolio-{result.inputs_hash[:10]}.html", report)
        if written is not None:
            click.echo(f"report: {written}", err=as_json)


_RUNS: Columns = {
    "RUN": "run",
    "START": "started_at",
    "STATE": lambda run: run["state"] if run["reason"] is None else f"{run['state']}: {run['reason']}",
    "CAPITAL": lambda run: _number(float(run["capital"])),
    "TRADED": lambda run: _number(float(run["turnover"])),
    "ORDERS": "orders",
    "DRIFT LEFT": lambda run: _pct(100 * float(run["drift_left"])),
}


def show_portfolio(document: dict[str, Any], *, seconds: float | None = None) -> None:
    """Print the result of a portfolio for people: equity, figures, the newest runs, fingerprints."""
    s = document["statistics"]
    took = "" if seconds is None else f", {seconds:.2f} s"
    trigger, allocation = document["trigger"]["trigger"], document["allocation"]
    by = "" if allocation is None else f", weights by {allocation['method']}"
    click.echo(f"{click.style('portfolio', bold=True)} of {len(document['instruments'])} instruments by {trigger}{by}")
    click.echo(f"{document['timeframe']}, {document['from']} to {document['to']} ({s['fills']} fills{took})\n")
    columns = shutil.get_terminal_size((100, 24)).columns
    _show_equity({**document, "equity": [row[:2] for row in document["equity"]]}, columns)
    pairs = (
        ("return", _signed(s["return_pct"])),
        ("net profit", _number(s["net_profit"])),
        ("max drawdown", _pct(s["max_drawdown_pct"])),
        ("sharpe", _number(s["sharpe"])),
        ("runs", f"{s['runs']:,}"),
        ("of them partial", f"{s['runs_partial']:,}"),
        ("turnover", _times(s["turnover"])),
        ("fees", _number(s["fees"])),
        ("mean drift", _pct(s["drift_mean_pct"])),
        ("invested", _pct(s["invested_pct"])),
    )
    _show_pairs(pairs)
    table(document["runs"][-_RUNS_SHOWN:], _RUNS, empty="no run")
    if refused := sum(row["applied_at"] is None for row in document["allocations"]):
        text = f"{refused} of {len(document['allocations'])} allocations changed a weight by more than change_max"
        click.echo(click.style(f"\n{text}", fg="yellow"))
    click.echo(f"\nfingerprints: inputs {document['inputs_hash'][:16]}, fills {document['fills_hash'][:16]}")


def _spec_file(file: Path, page: str) -> dict[str, Any]:
    """Return what a spec file says. Errors: InputError ACCOUNT_FILE naming the file and the line."""
    import orjson

    try:
        data = file.expanduser().read_bytes()
        found = orjson.loads(data) if file.suffix == ".json" else tomllib.loads(data.decode())
    except (OSError, ValueError) as error:  # both decoders raise a ValueError
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise invalid(
            "ACCOUNT_FILE", f"{file} cannot be read: {why}", "give a TOML file, or JSON named *.json"
        ) from None
    if not isinstance(found, dict):
        raise invalid("ACCOUNT_FILE", f"{file} is no table", f"see {page}")
    return found


def _loader(ctx: click.Context, tapes: tuple[str, ...]) -> Callable[[BarsRequest], LoadedBars]:
    """Return the function that loads bars: of the tape with the symbol, else of the running database.

    Errors of the returned function: InputError SYMBOL_UNKNOWN when no tape has the symbol; those of `load_bars`.
    """
    from fks.model.instrument import folded
    from fks.research.jobs.bars import load_tape, read_tape

    found = {folded(tape.symbol): (tape, name) for tape, name in map(read_tape, tapes)}

    def load(request: BarsRequest) -> LoadedBars:
        if not found:
            return load_bars(ctx, request, None)
        if folded(request.symbol) not in found:
            raise not_found(
                "SYMBOL_UNKNOWN",
                f"no tape given has {request.symbol}: there are {' '.join(sorted(found))}",
                "name a tape of it with --tape, or start FKS and load data (fks data sync)",
            )
        return load_tape(*found[folded(request.symbol)], request)

    return load


def _flow_pairs(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return rebates, dividends, funding, borrow and interest of a result that has some."""
    names = ("rebates", "dividends", "funding", "borrow_cost", "interest_cost")
    return [(name.replace("_", " "), _number(float(document[name]))) for name in names if name in document]


def _refused(member: dict[str, Any]) -> list[str]:
    """Return how many entries were denied, by code, and how many expired beyond their collar."""
    denied = [f"{count} × {code}" for code, count in member["denied"].items()]
    return denied + ([f"{member['expired']} expired"] if member.get("expired") else [])


_MEMBERS: Columns = {
    "MEMBER": "name",
    "TRADES": lambda member: f"{member['statistics']['trades']:,}",
    "WON": lambda member: _pct(member["statistics"]["win_rate_pct"]),
    "NET PROFIT": lambda member: _number(member["statistics"]["net_profit"]),
    "FEES": lambda member: _number(member["statistics"]["fees"]),
    "DRAWDOWN": lambda member: _pct(member["statistics"]["max_drawdown_pct"]),
    "DENIED, EXPIRED": lambda member: ", ".join(_refused(member)) or "–",
}


def show_account(document: dict[str, Any], *, seconds: float | None = None) -> None:
    """Print the result of an account for people: equity, figures, members, correlations, denials, fingerprints."""
    s, members = document["statistics"], document["members"]
    for member in members:
        if none := member.get("no_trades"):
            click.echo(click.style(f"{member['name']}: {none}", fg="yellow"))
    took = "" if seconds is None else f", {seconds:.2f} s"
    click.echo(f"{click.style('account', bold=True)} of {len(members)} members, {document['currency']}")
    click.echo(f"{document['from']} to {document['to']} ({document['fills_count']} fills{took})\n")
    columns = shutil.get_terminal_size((100, 24)).columns
    _show_equity({**document, "equity": [row[:2] for row in document["equity"]]}, columns)
    pairs = (
        ("return", _signed(s["return_pct"])),
        ("net profit", _number(s["net_profit"])),
        ("max drawdown", _pct(s["max_drawdown_pct"])),
        ("sharpe", _number(s["sharpe"])),
        ("trades", f"{s['trades']:,}"),
        ("won", _pct(s["win_rate_pct"])),
        ("most exposure", _pct(s["max_exposure_pct"])),
        ("fees", _number(s["fees"])),
        *_flow_pairs(document),
    )
    _show_pairs(pairs)
    table(members, _MEMBERS)
    found = document["correlations"]
    if len(found["symbols"]) > 1:
        click.echo(f"\ncorrelation of returns of {found['interval']}:")
        rows = [[a, *("–" if v is None else f"{v:+.2f}" for v in row.values())] for a, row in found["symbols"].items()]
        table(rows, ["", *found["symbols"]])
    if len(members) > 1:
        click.echo("\ncorrelation of daily profits:")
        rows = [
            [member["name"], *("–" if v is None else f"{v:+.2f}" for v in row)]
            for member, row in zip(members, found["members"], strict=True)
        ]
        table(rows, ["", *(member["name"] for member in members)])
    click.echo(f"\nfingerprints: inputs {document['inputs_hash'][:16]}, fills {document['fills_hash'][:16]}")


def write_report(ctx: click.Context, result: Result, document: dict[str, Any], report: str | None) -> Path | None:
    """Write the report of a backtest and return its path, as `keep_page`."""
    from fks.research.backtest.page import report_page

    page = report_page(result, document=document)
    name = f"{result.strategy}-{result.bars.symbol}-{result.bars.timeframe}-{result.inputs_hash[:10]}.html"
    return keep_page(ctx, page, name, report)


def wants_report(report: str | None, *, no_report: bool, as_json: bool) -> bool:
    """Return whether a report is written. Errors: InputError for options that exclude each other."""
    if report is not None and no_report:
        raise InputError("--report and --no-report exclude each other", remedy="give one of them")
    return report is not None or not (no_report or as_json)


def keep_page(
    ctx: click.Context, page: ReportPage, name: str, report: str | None, *, kind: str = "backtests"
) -> Path | None:
    """Write a page to the file asked for, or under FKS_HOME/reports, where the oldest beyond REPORTS_MAX are removed;
    return its path.

    Errors: OSError for a file that was asked for. The default one is a convenience: a warning is printed.
    """
    if report is not None:
        return page.save(report).absolute()
    folder = paths_of(ctx).home / "reports" / kind
    try:
        file = page.save(folder / re.sub(r"[^\w.-]+", "_", name))
        for old in sorted(folder.glob("*.html"), key=lambda path: path.stat().st_mtime, reverse=True)[REPORTS_MAX:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        click.echo(f"note: no report was written: {error.strerror}: {error.filename}", err=True)
        return None
    return file


def load_bars(ctx: click.Context, request: BarsRequest, tape: str | None) -> LoadedBars:
    """Return the bars: of a tape when one is named, else of the database, else of the shipped sample."""
    from fks.clock import RealClock
    from fks.model.timeframe import volume_of
    from fks.research.jobs.bars import load_stored, load_tape, load_trades, read_tape

    if tape is None:
        url = _database_url(ctx)
        if url is not None:
            from fks.store.columns import ColumnCache

            return asyncio.run(
                _with_database(ctx, url, lambda db: load_stored(db, request, ColumnCache.of(db, settings_of(ctx))))
            )
        click.echo(SAMPLE_NOTE, err=True)
    if tape is not None and volume_of(request.timeframe) is not None and not tape.endswith((".fksbars", "sample")):
        return load_trades(Path(tape).expanduser(), request, now_ns=RealClock().now_ns())
    found, name = read_tape(tape or "sample")
    return load_tape(found, name, request)


async def _with_database(ctx: click.Context, url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    from fks.interfaces.cli.store import on_database

    return await on_database(url, work, settings_of(ctx).database, application="backtest", retry_s=2.0)


def in_ledger(ctx: click.Context, tape: str | None, work: Callable[[ResearchRunStore], Awaitable[T]]) -> T | None:
    """Return what `work` makes of the ledger of research; None, with a note, where it cannot be reached. Runs on tapes
    are not in it: there is no database that would have others of their market."""
    url = _database_url(ctx) if tape is None else None
    if url is None:
        return None
    from fks.store.research_runs import ResearchRunStore

    try:
        return asyncio.run(_with_database(ctx, url, lambda db: work(ResearchRunStore(db))))
    except Exception as error:  # of any kind: the result of an hour must not be lost with a row of the ledger
        reason = error.message if isinstance(error, FksError) else f"{type(error).__name__}: {error}"
        click.echo(f"note: this run is not in the ledger of research: {reason}", err=True)
        return None


def _database_url(ctx: click.Context) -> str | None:
    """Return the URL of the database: the running one, or this home's own, started until the command ends; None when
    this home has none, or an empty one."""
    from fks.config.endpoints import load_node
    from fks.config.paths import Paths
    from fks.interfaces.cli.store import opened_store
    from fks.store import migrate
    from fks.system.servers.embedded import PostgresServer

    settings = settings_of(ctx)
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    paths = Paths.of(settings.home)
    try:
        return load_node(paths).database_url
    except OutageError:
        if not PostgresServer.has_data(paths):
            return None
    key = f"{__name__}.url"
    if key not in ctx.meta:
        url = ctx.with_resource(opened_store(ctx))[0]
        ctx.meta[key] = url if asyncio.run(migrate.usable(url)) else None
    found: str | None = ctx.meta[key]
    return found


def _compare(document: dict[str, Any], expect: str) -> None:
    """Fail unless the result is the expected one. Errors: FksError (exit 1) with the first differing fill."""
    file = Path(expect)
    if file.is_file():
        import orjson

        try:
            fills = orjson.loads(file.read_bytes())["fills"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise InputError(
                f"{expect} is no result of 'fks backtest run --json'", remedy="give such a file, or a hash"
            ) from None
        for number, (old, new) in enumerate(zip(fills, document["fills"], strict=False)):
            if old != new:
                raise FksError(f"fill {number} differs: expected {_fill(old)}, got {_fill(new)}")
        if len(fills) != len(document["fills"]):
            raise FksError(f"expected {len(fills)} fills, got {len(document['fills'])}")
        return
    wanted = expect.lower()
    hashes = (document["inputs_hash"], document["fills_hash"])
    if len(wanted) < 8 or not any(found.startswith(wanted) for found in hashes):
        raise FksError(
            f"fingerprints are {hashes[0]} (inputs) and {hashes[1]} (fills), expected {expect}",
            remedy="give the earlier --json file as --expect to see the first differing fill",
        )


def _fill(fill: dict[str, str]) -> str:
    return (
        f"{fill['time']} {fill['side']} {fill['quantity']} at {fill['price']}, fee {fill['fee']} {fill['fee_currency']}"
    )


def sparkline(values: list[float], width: int = 60) -> str:
    """Return values as a line of block characters, evenly chosen."""
    if not values:
        return ""
    count = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]
    low, high = min(chosen), max(chosen)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(7, int((value - low) / span * 8))] for value in chosen)


def chart(values: list[float], width: int, height: int) -> list[str]:
    """Return values as `height` lines of block characters, the lowest value at the bottom of the lowest line."""
    if not values:
        return []
    count = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]
    low, span = min(chosen), (max(chosen) - min(chosen)) or 1.0
    filled = [1 + round((value - low) / span * (8 * height - 1)) for value in chosen]
    return [
        "".join(" " if (part := min(8, eighths - 8 * row)) <= 0 else _BLOCKS[part - 1] for eighths in filled)
        for row in reversed(range(height))
    ]


def show(document: dict[str, Any], *, seconds: float | None = None) -> None:
    """Print a result for people: run, equity, metrics, months, denials, missing data, fingerprints."""
    s, gaps = document["statistics"], document["gaps"]
    if none := document.get("no_trades"):
        click.echo(click.style(none, fg="yellow"))
    params = params_text(document["params"])
    took = "" if seconds is None else f", {seconds:.2f} s"
    click.echo(f"{click.style(document['strategy'], bold=True)} {params}")
    click.echo(
        f"{document['symbol']} {document['timeframe']}, {document['from']} to {document['to']} "
        f"({s['bars']} bars, {document['source']}{took})\n"
    )
    columns = shutil.get_terminal_size((100, 24)).columns
    _show_equity(document, columns)
    _show_metrics(s, document.get("metrics", {}), columns)
    _show_months(document.get("months", []), s)
    if not document["limits"]:
        click.echo("  risk limits: off (--limits: those of the settings)")
    if splits := document.get("splits"):
        listed = ", ".join(f"{one['ratio']} on {one['from'][:10]}" for one in splits)
        click.echo(f"  splits: {listed}; prices and quantities are in shares of the end")
    if document["denied"]:
        click.echo("  denied: " + ", ".join(f"{count} × {code}" for code, count in document["denied"].items()))
    if document["slippage"] != "none":
        click.echo(f"  slippage: {_number(float(document.get('slippage_cost', 'nan')))}, in the prices of the fills")
    for name, text in _flow_pairs(document):
        click.echo(f"  {name}: {text}")
    if document.get("funding_left_out"):
        click.echo(click.style("  funding: left out (--funding none)", fg="yellow"))
    if delisted := document.get("delisted"):
        click.echo(f"  delisted on {delisted}: closed at the last close")
    if document.get("liquidations"):
        text = (
            f"  liquidated: {document['liquidations']} times, the equity fell to the margin {document['margin']} keeps"
        )
        if fees := document.get("liquidation_fees"):
            text += f"; liquidation fees {_number(float(fees))}"
        click.echo(click.style(text, fg="yellow"))
    if document.get("expired"):
        click.echo(f"  expired: {document['expired']} entries, {document['collar_pct']} % from the close or further")
    if document.get("unclear_bars"):
        click.echo(f"  unclear: {document['unclear_bars']} bars reached two prices in an unknown order")
    for finding in document.get("findings", ()):  # a result of an older version has none
        if finding == none:
            continue
        click.echo(click.style(f"  {finding}", fg="yellow"))
    missing = gaps["bars_expected"] - gaps["bars_present"]
    longest = f", the longest {gaps['longest_gap_bars']} after {gaps['longest_gap_after']}" if missing else ""
    hours = "" if gaps["calendar"] == "24/7" else f" by the calendar {gaps['calendar']}"
    click.echo(f"\nbars missing: {missing} of {gaps['bars_expected']} ({gaps['gap_pct']:.2f} %){hours}{longest}")
    click.echo(f"fingerprints: inputs {document['inputs_hash'][:16]}, fills {document['fills_hash'][:16]}")


def _show_equity(document: dict[str, Any], columns: int) -> None:
    values = [value for _, value in document["equity"]]
    if not values:
        return
    labels = [_number(max(values)), "", "", _number(min(values))]
    margin = max(map(len, labels))
    lines = chart(values, max(20, min(columns, 110) - margin - 5), len(labels))
    colour = _colour(document["statistics"]["net_profit"])
    for label, line in zip(labels, lines, strict=True):
        click.echo(f"  {click.style(f'{label:>{margin}}', dim=True)} {click.style(line, fg=colour)}")
    start, end = float(document["cash"]), document["statistics"]["final_equity"]
    click.echo(f"  {'equity':>{margin}} {start:,.2f} → {end:,.2f}\n")


def _show_metrics(s: dict[str, Any], m: dict[str, Any], columns: int) -> None:
    """Print three columns of metrics, or one below the other where the terminal is narrow. A result of an earlier
    version has no extended metrics."""
    get = m.get
    groups = (
        (
            ("return", _signed(s["return_pct"])),
            ("buy and hold", _signed(s["buy_and_hold_pct"])),
            ("a year (CAGR)", _signed(get("cagr_pct"))),
            ("net profit", _number(s["net_profit"])),
            ("fees", _number(s["fees"])),
            ("time in market", _pct(s["exposure_pct"])),
            ("turnover", _times(get("turnover"))),
        ),
        (
            ("max drawdown", _pct(s["max_drawdown_pct"])),
            ("longest drawdown", _duration(get("max_drawdown_s"))),
            ("volatility a year", _pct(get("volatility_pct"))),
            ("sharpe", _number(get("sharpe", s["sharpe"]))),
            ("sortino", _number(get("sortino"))),
            ("calmar", _number(get("calmar"))),
            ("VaR 95 %, a day" if get("period", "day") == "day" else "VaR 95 %", _signed(get("var_95_pct"))),
        ),
        (
            ("trades", f"{s['trades']:,}"),
            ("won", _pct(s["win_rate_pct"])),
            ("profit factor", _number(s["profit_factor"])),
            ("average trade", _number(s["average_trade"])),
            ("best trade", _number(s["best_trade"])),
            ("worst trade", _number(s["worst_trade"])),
            ("average holding", _duration(get("average_holding_s"))),
        ),
    )
    cells = [[_cell(label, value) for label, value in group] for group in groups]
    if columns >= _WIDE:
        for row in zip(*cells, strict=True):
            click.echo("  " + "   ".join(row))
    else:
        for group in cells:
            click.echo("\n".join(f"  {cell}" for cell in group) + "\n")


def _show_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    for at in range(0, len(pairs), 2):
        click.echo("  " + "   ".join(_cell(label, value) for label, value in pairs[at : at + 2]))
    click.echo("")


def _cell(label: str, value: str) -> str:
    shown = f"{value:>{max(0, 26 - len(label))}}"
    if label in ("return", "net profit", "buy and hold", "a year (CAGR)") and value != "–":
        shown = click.style(shown, fg="red" if value.startswith("-") else "green")
    return f"{click.style(label, dim=True)}{shown}"


def _show_months(months: list[dict[str, Any]], s: dict[str, Any]) -> None:
    """Print the monthly returns, a line for each year; nothing for a run within one month."""
    if len(months) < 2:
        return
    click.echo("")
    for year in sorted({row["year"] for row in months}):
        rows = [row for row in months if row["year"] == year and row["return_pct"] is not None]
        whole = 100.0
        for row in rows:
            whole *= 1.0 + row["return_pct"] / 100.0
        parts = [f"{_MONTHS[row['month'] - 1]} {_gain(row['return_pct'])}" for row in rows]
        click.echo(f"  {year}  {'  '.join(parts)}  year {click.style(f'{whole - 100.0:+.1f}', bold=True)} %")


def _gain(value: float) -> str:
    return click.style(f"{value:+.1f}", fg=_colour(value))


def _colour(value: float) -> str:
    return "green" if value >= 0 else "red"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _pct(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f} %"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f} ×"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:,.0f} d"


# ── several results ──────────────────────────────────────────────────────────────────────────────
@backtest.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN…")
@click.option("--report", metavar="FILE", help="Write the HTML page there (default: under FKS_HOME/reports).")
@click.option("--no-report", is_flag=True, help="Write no page; so does --json without --report.")
@as_json
@click.pass_context
def compare(ctx: click.Context, runs: tuple[str, ...], report: str | None, no_report: bool, as_json: bool) -> None:
    """Compare results: files of 'fks backtest run --json', or ids of finished backtests."""
    from fks.research.backtest.compare import compare as compared_of
    from fks.research.backtest.compare import run_of
    from fks.research.backtest.page import compare_page

    with_report = wants_report(report, no_report=no_report, as_json=as_json)
    found = [run_of(document, name) for name, document in _documents(ctx, runs)]
    compared = compared_of(found)
    if as_json:
        emit(compared, as_json=True, schema="fks.backtest_comparison/1")
    else:
        _show_comparison(compared, found)
    if with_report:
        digest = "-".join(run["inputs_hash"][:6] for run in found)[:80]
        written = keep_page(ctx, compare_page(found), f"compare-{digest}.html", report)
        if written is not None:
            click.echo(f"\nreport: {written}", err=as_json)


def _documents(ctx: click.Context, runs: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """Return a name and the document of each file or job. Equal names get a number. Errors: InputError, FksError."""
    found: list[tuple[str, dict[str, Any]]] = []
    for text in runs:
        file = Path(text).expanduser()
        document = _read_document(file) if file.is_file() else _job_document(ctx, text)
        if "members" in document or "instruments" in document:
            kind = "an account" if "members" in document else "a portfolio"
            raise InputError(
                f"{text} is the result of {kind}, which cannot be compared", remedy="compare results of single runs"
            )
        stem = file.stem if file.is_file() else f"{document.get('strategy', 'run')} {text[:8]}"
        used = sum(name == stem or name.startswith(f"{stem} (") for name, _ in found)
        found.append((f"{stem} ({used + 1})" if used else stem, document))
    return found


def _read_document(file: Path) -> dict[str, Any]:
    import orjson

    try:
        document = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise InputError(f"{file} is no result of 'fks backtest run --json'", remedy="give such a file, or a job's id")
    return document


def _job_document(ctx: click.Context, text: str) -> dict[str, Any]:
    try:
        job_id = uuid.UUID(text)
    except ValueError:
        raise InputError(
            f"{text} is neither a file nor the id of a backtest", remedy="see 'fks backtest list' for ids"
        ) from None
    with gateway_of(ctx) as gateway:
        job = gateway.get(f"/backtests/{job_id}")
    if not job["result"]:
        raise FksError(f"backtest {job_id} is {job['state']} and has no result", remedy="see 'fks backtest status'")
    document: dict[str, Any] = job["result"]
    return document


def _show_comparison(compared: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    formats: dict[str, Callable[[Any], str]] = {
        "pct": _pct, "money": _number, "ratio": _number, "count": lambda v: f"{v:,}", "time": _duration,
    }  # fmt: skip
    lines = [
        ["equity", *(sparkline([value for _, value in run["equity"]], 16) for run in runs)],
        *(
            [
                row["label"],
                *(
                    "–" if v is None else click.style(formats[row["unit"]](v), bold=at in row["best"])
                    for at, v in enumerate(row["values"])
                ),
            ]
            for row in compared["rows"]
        ),
    ]
    table(lines, ["", *compared["runs"]])
    click.echo("\ninputs that differ:")
    table(
        [
            [row["input"].removeprefix("params."), *("–" if v is None else str(v) for v in row["values"])]
            for row in compared["differences"]
        ],
        ["", *compared["runs"]],
        empty="none",
    )
    for names in compared["same_fills"]:
        click.echo(f"note: {' and '.join(names)} have the same fills")


# ── as a durable job ─────────────────────────────────────────────────────────────────────────────
_SHOWN: dict[str, Callable[[dict[str, Any]], None]] = {
    "backtest": show, "account_backtest": show_account, "portfolio_backtest": show_portfolio,
}  # fmt: skip


def _form_of(found: dict[str, Any]) -> str:
    """Return the form of a result or a spec."""
    return "account_backtest" if "members" in found else "portfolio_backtest" if "instruments" in found else "backtest"


_jobs = JobCommands(
    backtest,
    kind="backtest",
    job="backtest",
    jobs="backtests",
    path="/backtests",
    schema_of=lambda found: f"fks.{_form_of(found)}/1",
    show_result=lambda found: _SHOWN[_form_of(found)](found),
)
_jobs.add()


@backtest.command()
@market_options
@queue_options
@click.option("--wait", is_flag=True, help="Show the progress, wait for the end, and show the result.")
@_expect_option
@as_json
@click.pass_context
def submit(
    ctx: click.Context, /, wait: bool, expect: str | None, priority: int, again: bool, as_json: bool, **options: Any
) -> None:
    """Queue a backtest on the running system; it survives restarts of any part.

    It takes the options of `run` but for files of this machine: --tape, --report and --trades. --expect waits for the
    end.
    """
    wait = wait or expect is not None
    job = _jobs.submit(ctx, spec_of(options), wait=wait, priority=priority, again=again, as_json=as_json)
    if expect is not None:
        _compare(job["result"], expect)


@backtest.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def status(ctx: click.Context, id: object, as_json: bool) -> None:
    """Show how far a submitted backtest is."""
    _jobs.status(ctx, id, as_json=as_json)


@backtest.command()
@click.argument("id", type=click.UUID)
@click.option("--report", metavar="FILE", help="Run it again here and write its HTML report, if nothing changed since.")
@as_json
@click.pass_context
def result(ctx: click.Context, id: object, report: str | None, as_json: bool) -> None:
    """Show the result of a submitted backtest. Exit 1 when there is none."""
    job = _jobs.result(ctx, id, as_json=as_json)
    if report is not None:
        click.echo(f"report: {_report_of_job(ctx, job, report)}", err=as_json)


def _report_of_job(ctx: click.Context, job: dict[str, Any], report: str) -> Path | None:
    """Run a job's spec again and write the report: a stored result holds too few points for one.

    Errors: FksError when the data, the code or the limits are no longer those of the job.
    """
    from fks.research.backtest.report import document_of
    from fks.research.jobs.backtest import parse_spec, run_spec

    if (form := _form_of(job["spec"])) != "backtest":
        from fks.research.backtest.page import account_page, portfolio_page

        page = account_page if form == "account_backtest" else portfolio_page
        return page(job["result"]).save(report).absolute()
    spec, limits = parse_spec(job["spec"]), settings_of(ctx).risk
    fresh, source = run_spec(
        spec, lambda request: load_bars(ctx, request, None), catalogue=catalogue_of(ctx), limits=limits
    )
    if fresh.inputs_hash != job["result"]["inputs_hash"]:
        raise FksError(
            f"backtest {job['id']} has other inputs now than when it ran: its data, its strategy or [risk] changed",
            remedy="submit it again, or use 'fks backtest run'",
        )
    return write_report(ctx, fresh, document_of(fresh, source=source), report)
