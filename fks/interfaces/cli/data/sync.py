"""`fks data init | sync | update | continuous`: history from exchanges."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import FAILED, NOT_RUNNING, as_json, result, settings_of
from fks.interfaces.cli.data.store import (
    Report,
    exchange_of,
    is_symbol,
    node_of,
    parse_series,
    progress,
    show,
    with_store,
)
from fks.model.errors import FksError, InputError, OutageError
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from fks.market.history.sync import Sync, Synced
    from fks.model.ports import Exchange
    from fks.store.db import Database

FIELDS = ("symbol", "timeframe", "exchange", "fetched", "changed", "absent", "candles", "oldest", "newest", "error")

One = Callable[["Sync", str, str, Report], Awaitable["Synced"]]
_exchange = click.option("--exchange", default="", help="Exchange to ask. Default: data.exchange.")


class SyncGroup(click.Group):
    """`fks data sync BTCUSDT 1h` beside `fks data sync init …`: a first argument that is no command is a symbol."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            return "series", self.commands["series"], args
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(
            ctx.command_path, "SYMBOL TIMEFRAME... [--from TIME] [--to TIME] [--again] [--exchange NAME]"
        )
        formatter.write_usage(ctx.command_path, "init|update|continuous|status ...", prefix="       ")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in super().list_commands(ctx) if name != "series"]


@click.group(cls=SyncGroup)
def sync() -> None:
    """Fetch missing history from an exchange, newest first.

    \b
    fks data sync BTCUSDT 1h --from 2024-01-01
    fks data sync BTC/USDT 1m 5m --from 90d
    fks data sync ETHUSDT 1d --again      # everything again: bars that the exchange changed are corrected

    Killed at any moment, the same command goes on where it was.
    """


@sync.command("series")
@click.argument("arguments", nargs=-1, required=True)
@click.option(
    "--from", "start", metavar="TIME", help="First bar: 2024-01-01, 2024-01-01T12:00Z or 90d (ago). Default: 730d."
)
@click.option("--to", "end", metavar="TIME", help="End, not included. Default: now.")
@click.option("--again", is_flag=True, help="Ask for all of it, also what is stored, and correct what differs.")
@_exchange
@as_json
@click.pass_context
def series(
    ctx: click.Context,
    arguments: tuple[str, ...],
    start: str | None,
    end: str | None,
    again: bool,
    exchange: str,
    as_json: bool,
) -> None:
    """Fetch the history of SYMBOL in these TIMEFRAMES."""
    from fks.interfaces.cli.events import moment

    began, ended = moment(start or "730d"), moment(end)
    assert began is not None
    start_ns, end_ns = to_ns(began), None if ended is None else to_ns(ended)
    symbols, timeframes = parse_series(arguments, settings_of(ctx))
    if not symbols or not timeframes:
        raise InputError(
            f"{' '.join(arguments)!r} names no {'timeframe' if symbols else 'symbol'}",
            remedy="try: fks data sync BTCUSDT 1h --from 90d",
        )
    run_syncs(
        ctx,
        symbols,
        timeframes,
        exchange,
        as_json,
        lambda sync, s, t, report: sync.sync(s, t, start_ns, end_ns, is_again=again, progress=report),
    )


@click.command()
@click.argument("arguments", metavar="[SYMBOLS|MAINS|ALTS]... [TIMEFRAMES]...", nargs=-1)
@click.option("--days", default=730, show_default=True, type=click.IntRange(1, 7300), help="How far back.")
@_exchange
@as_json
@click.pass_context
def init(ctx: click.Context, arguments: tuple[str, ...], days: int, exchange: str, as_json: bool) -> None:
    """Fetch history from the beginning: two years of 1m to 1M bars of the configured symbols, or of these."""
    from fks.market.history.sync import TIMEFRAMES_INIT

    settings = settings_of(ctx)
    symbols, timeframes = parse_series(arguments, settings)
    symbols = symbols or parse_series(settings.data.symbols, settings)[0]
    # large bars first: within a second there is something to look at
    run_syncs(
        ctx,
        symbols,
        timeframes or TIMEFRAMES_INIT[::-1],
        exchange,
        as_json,
        lambda sync, s, t, report: sync.init(s, t, days=days, progress=report),
    )


@click.command()
@click.argument("arguments", metavar="[SYMBOLS|MAINS|ALTS]... [TIMEFRAMES]...", nargs=-1)
@_exchange
@as_json
@click.pass_context
def update(ctx: click.Context, arguments: tuple[str, ...], exchange: str, as_json: bool) -> None:
    """Fetch what came after the newest stored bar: of everything that was synced, or of these."""
    from fks.market.history.sync import TIMEFRAMES_INIT

    settings = settings_of(ctx)
    symbols, timeframes = parse_series(arguments, settings)
    run_syncs(
        ctx,
        symbols,
        timeframes or ([] if not symbols else TIMEFRAMES_INIT),
        exchange,
        as_json,
        lambda sync, s, t, report: sync.update(s, t, progress=report),
    )


def run_syncs(
    ctx: click.Context, symbols: Sequence[str], timeframes: Sequence[str], exchange: str, as_json: bool, one: One
) -> None:
    """Run `one` for each symbol and timeframe (none: for each series that was synced before) and print what it did.

    A failing one does not stop the others: its row has the reason, and the exit code is that of a failure or an outage.
    Errors: the error of all of them, if it is the same.
    """
    named = {symbol.rpartition(":")[0].lower() for symbol in symbols}
    exchange = exchange or (named.pop() if len(named) == 1 else "")

    async def work(db: Database) -> list[dict[str, Any]]:
        from fks.clock import RealClock
        from fks.market.history.sync import QuietLog, Sync

        rows: list[dict[str, Any]] = []
        async with exchange_of(ctx, exchange) as source:
            driver = Sync(source, db, RealClock(), QuietLog())
            for symbol, timeframe in await _series(db, source, symbols, timeframes):
                try:
                    with progress(f"{symbol} {timeframe}", is_shown=not as_json) as report:
                        rows.append(_synced(source.name, await one(driver, symbol, timeframe, report)))
                except FksError as error:
                    failed.append(error)
                    rows.append(
                        {
                            **dict.fromkeys(FIELDS),
                            "symbol": symbol,
                            "timeframe": timeframe,
                            "exchange": source.name,
                            "error": str(error),
                        }
                    )
        return rows

    failed: list[FksError] = []
    rows = with_store(ctx, work, create=True)
    if failed and len({row["error"] for row in rows}) == 1:
        raise failed[0]
    show(rows, as_json, "fks.data.sync/1", "nothing was synced yet: 'fks data init BTCUSDT'")
    if failed:
        ctx.exit(NOT_RUNNING if any(isinstance(error, OutageError) for error in failed) else FAILED)


async def _series(
    db: Database, source: Exchange, symbols: Sequence[str], timeframes: Sequence[str]
) -> list[tuple[str, str]]:
    from fks.model.instrument import find_instrument
    from fks.store.sync import SyncStore

    if not symbols:
        rows = [
            row
            for row in await SyncStore(db).all()
            if row["exchange"] == source.name and row["sync_status"] != "failed"
        ]
        return [(row["symbol"], row["timeframe"]) for row in rows if not timeframes or row["timeframe"] in timeframes]
    listed = await source.instruments()
    return [(find_instrument(symbol, listed).symbol, timeframe) for symbol in symbols for timeframe in timeframes]


def _synced(exchange: str, done: Synced) -> dict[str, Any]:
    return {
        "symbol": done.symbol,
        "timeframe": done.timeframe,
        "exchange": exchange,
        **json_fields(done, "fetched", "changed", "absent", "candles"),
        "oldest": None if done.oldest_ns is None else iso(done.oldest_ns),
        "newest": None if done.newest_ns is None else iso(done.newest_ns),
        "error": None,
    }


@click.command()
@click.option(
    "--every", default=60.0, show_default=True, type=click.FloatRange(1, 86400), help="Seconds between two rounds."
)
@click.option("--rounds", "repeats_max", type=click.IntRange(1), help="End after so many. Default: go on until Ctrl-C.")
@click.pass_context
def continuous(ctx: click.Context, every: float, repeats_max: int | None) -> None:
    """Keep everything that was synced up to date and whole, in the foreground. A running system does so by itself."""
    from fks.config.paths import Paths
    from fks.interfaces.cli.store import is_running

    settings = settings_of(ctx)
    if is_running(Paths.of(settings.home)):
        click.echo("FKS runs: its scheduler does this each minute ('fks data status' shows how that stands)")

    async def work(db: Database) -> None:
        from fks.clock import RealClock

        clock, done = RealClock(), 0
        while True:
            start_s = time.monotonic()
            await _round(ctx, db)
            done += 1
            if repeats_max is not None and done >= repeats_max:
                return
            await clock.sleep(max(0.0, every - (time.monotonic() - start_s)))

    with_store(ctx, work, create=True)


async def _round(ctx: click.Context, db: Database) -> None:
    from fks.clock import RealClock
    from fks.market.history.gaps import GapWatch
    from fks.market.history.sync import QuietLog
    from fks.research.jobs.sync import run_sync

    settings, clock = settings_of(ctx), RealClock()
    gaps = await GapWatch(db, clock, days=settings.data.gaps_days).look()
    spec = {"exchanges": sorted({gap.exchange for gap in gaps})}
    done = await run_sync(spec, db, settings, node_of(ctx), log=QuietLog(), clock=clock, should_stop=lambda: False)
    results = [
        f"{name}: {result['error']}"
        if "error" in result
        else f"{name}: {result['synced']} syncs, {result['gaps']} gaps, {result['written']} bars, {result['absent']} "
        "not there"
        for name, result in done.items()
    ]
    click.echo(f"{iso(clock.now_ns() // 10**9 * 10**9)} {'; '.join(results) or 'nothing is missing'}")


@sync.command("status")
@click.argument("symbol", required=False)
@result(
    "fks.data.sync.status/1",
    empty=lambda symbol: f"no sync of {symbol}" if symbol else "no sync yet: 'fks data init BTCUSDT'",
)
def sync_status(ctx: click.Context, symbol: str | None) -> Any:
    """Show how syncs stand: pending, running (and how far), done, failed (and why)."""
    from fks.market.bars.aggregate import length_of
    from fks.store.sync import SyncStore

    rows = with_store(ctx, lambda db: SyncStore(db).all())
    return [
        {
            "symbol": row["symbol"],
            "timeframe": row["timeframe"],
            "exchange": row["exchange"],
            "status": row["sync_status"],
            "done_from": _iso(row["cursor"]),
            "wanted_from": _iso(row["wanted_from"]),
            "candles": row["stored"],
            "oldest": _iso(row["stored_from"]),
            "newest": _iso(row["stored_to"]),
            "last_sync_at": _iso(row["last_sync_at"]),
            "error": row["error"],
        }
        for row in sorted(rows, key=lambda row: (row["symbol"], length_of(row["timeframe"])))
        if is_symbol(symbol, row["symbol"], row["exchange"])
    ]


def _iso(moment: Any) -> str | None:
    return None if moment is None else iso(to_ns(moment))


for _command in (init, update, continuous):
    sync.add_command(_command)
