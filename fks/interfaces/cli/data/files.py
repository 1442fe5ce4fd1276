"""`fks data import` and `fks data export`: bars out of files into the store, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import USAGE, Columns, as_json, emit, named, paths_of, settings_of, table
from fks.interfaces.cli.catalogue import rule_options
from fks.interfaces.cli.data.record import record
from fks.interfaces.cli.data.store import progress, with_store
from fks.model.errors import InputError, invalid
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso

if TYPE_CHECKING:
    from fks.market.files.bars import ImportOptions
    from fks.market.files.load import Imported
    from fks.store.db import Database


# ── import ───────────────────────────────────────────────────────────────────────────────────────
@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--exchange", default="", help="Where the bars are from; plain tables do not say it themselves.")
@click.option("--symbol", default="", help="Default: what the file or its name says.")
@click.option("--timeframe", default="", help="Default: what the file's name or the step between its rows says.")
@click.option("--timezone", "zone", metavar="ZONE", help="Of stamps that name none: UTC, America/New_York.")
@click.option(
    "--stamps", type=click.Choice(["open", "end"]), help="What a stamp means. Default: the form's own; else open."
)
@click.option(
    "--date-order",
    type=click.Choice(["day-month", "month-day"]),
    help="Of dates such as 05/04/2024; no order is assumed.",
)
@click.option("--columns", default="", metavar="NAMES", help="What the columns are: time,open,high,low,close,volume,-")
@click.option(
    "--calendar",
    default="",
    help="When the market trades: 24/7, XNYS, CMES, … Default: the exchange's; CMES for futures; else by the bars.",
)
@rule_options
@click.option("--larger", is_flag=True, help="Also store the larger bars that the file's bars make whole.")
@click.option("--replace", is_flag=True, help="Replace stored bars that differ; without it such a file is refused.")
@click.option("--dry-run", is_flag=True, help="Read, check and compare; store nothing.")
@as_json
@click.pass_context
def import_(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    larger: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> int:
    """Import bars from FILES: csv, txt or parquet, also in a zip or gz.

    Binance's public archives (also trades and aggTrades, which become bars), Kraken's downloads, NinjaTrader's export,
    files of 'fks data export' and plain tables with open, high, low, close and volume are detected. A file is stored
    completely or not at all; a wrong one is refused with one message that names row and column, and the others go on.
    Safe to repeat. See docs/import-data.md.
    """
    from fks.market.files.bars import ImportOptions
    from fks.model.instrument import GivenRules

    stamps, date_order = how.pop("stamps"), how.pop("date_order") or ""
    rules = GivenRules.parse(**{name: how.pop(name) for name in ("lot", "tick", "largest")})
    is_end = None if stamps is None else stamps == "end"
    options = ImportOptions(**how, is_end=is_end, date_order=date_order, rules=rules)
    rows = _imported(ctx, files, options, is_dry=dry_run, replaces=replace, with_larger=larger)
    emit(rows, as_json=as_json, schema="fks.data.import/1")
    if not as_json:
        _print(rows)
    return USAGE if any("error" in row for row in rows) else 0


def _imported(
    ctx: click.Context,
    files: tuple[Path, ...],
    options: ImportOptions,
    *,
    is_dry: bool,
    replaces: bool,
    with_larger: bool,
) -> list[dict[str, Any]]:
    from fks.clock import RealClock
    from fks.market.files.bars import read_bars
    from fks.market.files.load import import_file

    clock = RealClock()

    async def work(db: Database | None) -> list[dict[str, Any]]:
        rows = []
        for path in files:
            begin = time.monotonic()
            try:
                read = read_bars(path, options, now_ns=clock.now_ns())
                done = await import_file(db, read, is_dry=is_dry, replaces=replaces, with_larger=with_larger)
                rows.append(
                    _row(done) | {"calendar": done.file.calendar, "seconds": round(time.monotonic() - begin, 2)}
                )
            except InputError as error:  # only this file is refused
                rows.append({"file": str(path), "error": error.message, "remedy": error.remedy, "code": error.code})
        return rows

    if is_dry and settings_of(ctx).database.url is None and not paths_of(ctx).pgdata.exists():
        import asyncio

        return asyncio.run(work(None))  # nothing is stored yet, and a dry run creates no store
    return with_store(ctx, work, create=True)


def _row(done: Imported) -> dict[str, Any]:
    file = done.file
    return {
        "file": str(file.path),
        **json_fields(file, "form", "stamps", "exchange"),
        "symbol": file.bars.symbol,
        "timeframe": file.bars.timeframe,
        "bars": len(file.bars),
        "oldest": iso(int(file.bars.time_ns[0])),
        "newest": iso(int(file.bars.time_ns[-1])),
        **json_fields(file, "missing", "gaps", "gap_longest"),
        "stored": [
            {"timeframe": name, "new": merged.inserted, "changed": merged.changed, "same": merged.unchanged}
            for name, merged in done.merged.items()
        ],
        "is_dry": done.is_dry,
        "differing": done.differing,
        "doubted": list(file.suspect_texts),
        "notes": list(file.notes),
        "sha256": file.sha256,
    }


_STORED: Columns = {
    "FILE": lambda row: Path(row["file"]).name,
    **named("form", "exchange", "symbol", "timeframe", "oldest", "newest", "new", "changed", "same"),
}


def _print(rows: list[dict[str, Any]]) -> None:
    good = [row for row in rows if "error" not in row]
    if shown := [{**row, **stored} for row in good for stored in row["stored"]]:
        table(shown, _STORED)
    for row in good:
        for note in _notes(row):
            click.echo(f"{Path(row['file']).name}: {note}")
    for row in rows:
        if "error" in row:
            text = f"{row['error']}; {row['remedy']}" if row["remedy"] else row["error"]
            click.echo(f"{click.style('refused:', fg='red')} {text}", err=True)
    if good and good[0]["is_dry"]:
        click.echo("dry run: nothing was stored")


def _notes(row: dict[str, Any]) -> list[str]:
    found = [f"stamps: {row['stamps']}", *row["notes"]]
    if row["missing"]:
        found.append(
            f"{row['missing']} bars missing in {row['gaps']} gaps, the longest {row['gap_longest']} (of a market open "
            f"{row['calendar']})"
        )
    if row["differing"] and row["is_dry"]:
        found.append(f"would be refused without --replace: {row['differing']}")
    found += [f"stored as it stands: {text}" for text in row["doubted"][:5]]
    more = len(row["doubted"]) - 5
    return [*found, f"{more} more: see --json"] if more > 0 else found


# ── export ───────────────────────────────────────────────────────────────────────────────────────
@click.command()
@click.argument("symbol")
@click.argument("timeframe")
@click.option(
    "--exchange", default="", help="Default: the one whose bars are stored; of several the one that is collected."
)
@click.option(
    "--from", "start", metavar="TIME", help="First bar: 2026-03-01, 2026-03-01T12:00Z or 30d (ago). Default: all."
)
@click.option("--to", "end", metavar="TIME", help="End, not included.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write: .parquet (default), .csv or .csv.gz.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@as_json
@click.pass_context
def export(
    ctx: click.Context, /, symbol: str, timeframe: str, exchange: str, out: Path | None, as_json: bool, **how: Any
) -> None:
    """Write the stored bars of SYMBOL and TIMEFRAME into a file; 'fks data import' reads it back bit for bit."""
    from fks.interfaces.cli.events import moment
    from fks.market.files.export import export_bars
    from fks.model.timeframe import check_timeframe, to_ns

    check_timeframe(timeframe)
    begin, stop = (None if found is None else to_ns(found) for found in (moment(how["start"]), moment(how["end"])))
    if begin is not None and stop is not None and begin >= stop:
        raise InputError(f"--from {how['start']} is not before --to {how['end']}", remedy="exchange them")

    async def work(db: Database) -> Any:
        where, name = await _stored_series(db, symbol, exchange)
        path = out or Path(f"{where}-{name.replace('/', '').replace(' ', '_')}-{timeframe}.parquet")
        with progress(f"{name} {timeframe}", is_shown=not as_json) as report:
            return await export_bars(
                db,
                path,
                exchange=where,
                symbol=name,
                timeframe=timeframe,
                from_ns=begin or 0,
                to_ns=stop,
                replaces=how["force"],
                progress=report,
            )

    done = with_store(ctx, work)
    row = {
        "file": str(done.path),
        **json_fields(done, "exchange", "symbol", "timeframe", "bars"),
        "oldest": iso(done.first_ns),
        "newest": iso(done.last_ns),
        "bytes": done.size,
    }
    emit(row, as_json=as_json, schema="fks.data.export/1")
    if not as_json:
        click.echo(f"{row['file']}: {row['bars']} bars, {row['oldest']} to {row['newest']}, {done.size / 1e6:.1f} MB")


async def _stored_series(db: Database, symbol: str, exchange: str) -> tuple[str, str]:
    """Return (exchange, symbol) of the stored series, for any spelling of the symbol."""
    from fks.market.files.symbols import alphanumeric
    from fks.store.gaps import GapStore
    from fks.store.reading import ReadingStore

    prefix, _, rest = symbol.rpartition(":")
    named = exchange or prefix
    series = [
        one for one in await GapStore(db).series() if one.candles and alphanumeric(one.symbol) == alphanumeric(rest)
    ]
    stored = {(one.exchange, one.symbol) for one in series}
    found = [place for place in stored if named in ("", place[0])]
    if not found:
        raise invalid(
            "NO_DATA",
            f"no bars of {rest} are stored{f' of {named}' if named else ''}",
            f"there are {', '.join(':'.join(place) for place in sorted(stored))}"
            if stored
            else "see 'fks data status'",
        )
    if len(found) == 1:
        return found[0]
    listed = await ReadingStore(db).find(symbol, exchange or None)
    return listed.exchange, listed.symbol


COMMANDS: tuple[click.Command, ...] = (import_, export, record)
