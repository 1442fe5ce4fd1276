"""`fks backtest`: run one here, or submit it as a durable job and watch it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import Denied, as_json, emit, settings_of, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of
from fks.cli.strategies import catalogue_of, params_of
from fks.model.errors import FksError, InputError, OutageError

if TYPE_CHECKING:
    from fks.jobs.backtest import Loaded, Request

_BLOCKS = "▁▂▃▄▅▆▇█"


@click.group()
def backtest() -> None:
    """Run backtests here, or submit them as durable jobs."""


def _what(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a backtest, shared by `run` and `submit`."""
    for option in reversed(
        (
            click.argument("name"),
            click.option("--symbol", default="BTC/USDT", show_default=True, help="In any spelling."),
            click.option("--exchange", help="Whose bars (default: the one that is collected, or has bars)."),
            click.option("--timeframe", default="1m", show_default=True),
            click.option(
                "--from", "start", metavar="TIME", help="First decided bar: 2026-03-01 or 2026-03-01T12:00 (UTC)."
            ),
            click.option("--to", "end", metavar="TIME", help="End, not included."),
            click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; repeatable."),
            click.option("--stop-loss", type=float, metavar="PCT", help="Same as --set sl_pct=PCT."),
            click.option("--take-profit", type=float, metavar="PCT", help="Same as --set tp_pct=PCT."),
            click.option(
                "--sizing", type=click.Choice(["notional", "quantity"]), default="notional", show_default=True
            ),
            click.option(
                "--size", default="1000", show_default=True, help="Quote per entry (notional) or base (quantity)."
            ),
            click.option(
                "--allow-gaps", is_flag=True, help="Go on although bars are missing; the fingerprint says so."
            ),
            click.option(
                "--limits/--no-limits",
                default=True,
                show_default=True,
                help="Hold entries to the [risk] limits, as live does.",
            ),
        )
    ):
        command = option(command)
    return command


def _spec(options: dict[str, Any]) -> dict[str, Any]:
    params = params_of(options["pairs"])
    for option, field in (("stop_loss", "sl_pct"), ("take_profit", "tp_pct")):
        if options[option] is not None:
            params[field] = options[option]
    wanted = ("symbol", "timeframe", "sizing", "size", "allow_gaps", "limits")
    times = {"from": options["start"], "to": options["end"], "exchange": options["exchange"]}
    return {
        "strategy": options["name"],
        "params": params,
        **{name: options[name] for name in wanted},
        **{name: text for name, text in times.items() if text is not None},
    }


@backtest.command()
@_what
@click.option("--cash", default="10000", show_default=True, help="Quote at the start.")
@click.option("--fee-rate", help="Fraction of each fill (default: the setting costs.fee_rate).")
@click.option("--allow-short", is_flag=True, help="Let it go short; fees are then taken in quote, as derivatives do.")
@click.option(
    "--tape", metavar="sample|FILE", help="Run on the shipped sample or an .fksbars file, not on stored data."
)
@click.option(
    "--expect", metavar="HASH|FILE", help="Exit 1 unless the fingerprint, or the fills of an earlier --json, match."
)
@as_json
@click.pass_context
def run(
    ctx: click.Context,
    /,
    cash: str,
    fee_rate: str | None,
    allow_short: bool,
    tape: str | None,
    expect: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run strategy NAME here, on stored data (or, while FKS is down, on the shipped sample)."""
    from fks.backtest import TapeRefused
    from fks.backtest.report import document_of
    from fks.jobs.backtest import parse_spec, run_spec

    costs = settings_of(ctx).costs
    fees = {"fee_rate": fee_rate or costs.fee_rate, "fee_in": "quote" if allow_short else costs.fee_in}
    spec = parse_spec({**_spec(options), "cash": cash, "allow_short": allow_short, **fees})
    catalogue = catalogue_of(ctx)
    catalogue.make(spec.strategy, spec.params)  # errors of the request are reported before any data is loaded
    began = time.perf_counter()
    try:
        result, source = run_spec(
            spec, lambda request: _load(ctx, request, tape), catalogue=catalogue, limits=settings_of(ctx).risk
        )
    except TapeRefused as error:
        raise Denied(error.message, remedy=error.remedy) from None
    document = document_of(result, source=source)
    if as_json:
        emit(document, as_json=True, schema="fks.backtest/1")
    else:
        show(document, seconds=time.perf_counter() - began)
    if expect is not None:
        _compare(document, expect)


def _load(ctx: click.Context, request: Request, tape: str | None) -> Loaded:
    """Return the bars: of a tape when one is named, else of the running database, else of the shipped sample."""
    from fks.jobs.bars import load_stored, load_tape, read_tape

    if tape is None:
        url = _database_url(ctx)
        if url is not None:
            from fks.store.columns import ColumnCache
            from fks.store.db import Database

            async def stored() -> Loaded:
                db = await Database.connect(url, settings_of(ctx).database, application="backtest", retry_s=2.0)
                try:
                    return await load_stored(db, request, ColumnCache.of(db, settings_of(ctx)))
                finally:
                    await db.close()

            return asyncio.run(stored())
        click.echo(
            "note: FKS is not running, so this runs on the shipped sample (BTCUSDT, 1m, March to May 2026)", err=True
        )
    found, name = read_tape(tape or "sample")
    return load_tape(found, name, request)


def _database_url(ctx: click.Context) -> str | None:
    from fks.config.endpoints import load_node
    from fks.config.paths import Paths

    settings = settings_of(ctx)
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    try:
        return load_node(Paths.of(settings.home)).database_url
    except OutageError:
        return None


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


def show(document: dict[str, Any], *, seconds: float | None = None) -> None:
    """Print a result for people: run, equity line, statistics, missing data, fingerprints."""
    s, gaps = document["statistics"], document["gaps"]
    params = " ".join(f"{name}={value}" for name, value in document["params"].items() if value is not None)
    took = "" if seconds is None else f", {seconds:.2f} s"
    click.echo(f"{click.style(document['strategy'], bold=True)} {params}")
    click.echo(
        f"{document['symbol']} {document['timeframe']}, {document['from']} to {document['to']} "
        f"({s['bars']} bars, {document['source']}{took})\n"
    )
    click.echo(f"{click.style(sparkline([value for _, value in document['equity']]), fg=_colour(s['net_profit']))}")
    click.echo(f"equity {document['cash']} → {s['final_equity']:.2f}\n")
    rows = (
        ("return", _pct(s["return_pct"]), "buy and hold", _pct(s["buy_and_hold_pct"])),
        ("net profit", _number(s["net_profit"]), "fees", _number(s["fees"])),
        ("max drawdown", _pct(s["max_drawdown_pct"]), "sharpe (daily, 365)", _number(s["sharpe"])),
        ("trades", s["trades"], "won", _pct(s["win_rate_pct"])),
        ("average trade", _number(s["average_trade"]), "profit factor", _number(s["profit_factor"])),
        ("best trade", _number(s["best_trade"]), "worst trade", _number(s["worst_trade"])),
        ("time in market", _pct(s["exposure_pct"]), "fills", document["fills_count"]),
    )
    width = max(len(str(row[1])) for row in rows)
    for left, value, right, other in rows:
        click.echo(f"  {left:<16}{value!s:>{width}}    {right:<20}{other!s:>12}")
    if document["denied"]:
        click.echo("  denied: " + ", ".join(f"{count} × {code}" for code, count in document["denied"].items()))
    missing = gaps["bars_expected"] - gaps["bars_present"]
    longest = f", the longest {gaps['longest_gap_bars']} after {gaps['longest_gap_after']}" if missing else ""
    click.echo(f"\nbars missing: {missing} of {gaps['bars_expected']} ({gaps['gap_pct']:.2f} %){longest}")
    click.echo(f"fingerprints: inputs {document['inputs_hash'][:16]}, fills {document['fills_hash'][:16]}")


def _colour(value: float) -> str:
    return "green" if value >= 0 else "red"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _pct(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"


# ── as a durable job ─────────────────────────────────────────────────────────────────────────────
@backtest.command()
@_what
@click.option("--wait", is_flag=True, help="Wait for the end and show the result.")
@as_json
@click.pass_context
def submit(ctx: click.Context, /, wait: bool, as_json: bool, **options: Any) -> None:
    """Queue a backtest on the running system; it survives restarts of any part."""
    with gateway_of(ctx) as gateway:
        job = gateway.post("/backtests", _spec(options))
        while wait and job["state"] in ("queued", "running"):
            time.sleep(0.3)
            job = gateway.get(f"/backtests/{job['id']}")
    _show_job(job, as_json, with_result=wait)


@backtest.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@as_json
@click.pass_context
def list_(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List submitted backtests, newest first."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/backtests", limit=limit)["items"]
    emit(items, as_json=as_json, schema="fks.jobs/1")
    if not as_json:
        table(
            (
                (
                    time_of(i["created_at"]),
                    i["id"],
                    i["spec"]["strategy"],
                    i["spec"]["symbol"],
                    i["spec"]["timeframe"],
                    i["state"],
                    f"{100 * i['progress']:.0f} %",
                    i["error"],
                )
                for i in items
            ),
            ("SUBMITTED", "ID", "STRATEGY", "SYMBOL", "TF", "STATE", "DONE", "ERROR"),
            empty="no backtests yet",
        )


@backtest.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def status(ctx: click.Context, id: object, as_json: bool) -> None:
    """Show how far a submitted backtest is."""
    with gateway_of(ctx) as gateway:
        job = gateway.get(f"/backtests/{id}")
    _show_job({**job, "result": None}, as_json, with_result=False)


@backtest.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def result(ctx: click.Context, id: object, as_json: bool) -> None:
    """Show the result of a submitted backtest. Exit 1 when there is none."""
    with gateway_of(ctx) as gateway:
        job = gateway.get(f"/backtests/{id}")
    if job["state"] != "done":
        raise FksError(
            f"backtest {id} is {job['state']}{': ' + job['error'] if job['error'] else ''}",
            remedy="see 'fks backtest status'" if job["state"] in ("queued", "running") else "submit it again",
        )
    _show_job(job, as_json, with_result=True)


@backtest.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_context
def cancel(ctx: click.Context, id: object, as_json: bool) -> None:
    """End a queued backtest, or ask a running one to end."""
    with gateway_of(ctx) as gateway:
        job = gateway.delete(f"/backtests/{id}")
    _show_job({**job, "result": None}, as_json, with_result=False)


def _show_job(job: dict[str, Any], as_json: bool, *, with_result: bool) -> None:
    if as_json:
        found = job["result"] if with_result and job["result"] else job
        emit(found, as_json=True, schema="fks.backtest/1" if found is not job else "fks.job/1")
    elif with_result and job["result"]:
        show(job["result"])
    else:
        click.echo(f"backtest {job['id']}: {job['state']}, {100 * job['progress']:.0f} %{_because(job)}")
    if job["state"] == "failed":
        raise FksError(f"backtest {job['id']} failed: {job['error']}")


def _because(job: dict[str, Any]) -> str:
    return " (cancel asked for)" if job["is_cancel_requested"] and job["state"] == "running" else ""
