"""`fks data`: what is stored, the shipped sample, and history from the exchange."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.cli import data_files
from fks.cli.base import as_json, emit, table
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import iso, to_ns

if TYPE_CHECKING:
    from fks.data.sync import Sync
    from fks.model.ports import Exchange
    from fks.store.db import Database

T = TypeVar("T")
Told = Callable[[int, int], None]


@click.group()
def data() -> None:
    """Load, sync and inspect market data."""


# ── what all commands share ──────────────────────────────────────────────────────────────────────
def with_store(ctx: click.Context, work: Callable[[Database], Awaitable[T]], *, create: bool = False) -> T:
    """Run `work` on the store: the running one, or the embedded one for a moment; `create` makes and migrates it."""
    from fks.cli.store import opened_store
    from fks.store import migrate
    from fks.store.db import Database

    async def run(url: str, settings: Any) -> T:
        if create:
            await migrate.upgrade(url)
        elif await migrate.current(url) is None:
            raise InputError("the store is empty", code="NO_DATA", remedy="run 'fks data sample', or 'fks up' once")
        db = await Database.connect(url, settings, application="data")
        try:
            return await work(db)
        finally:
            await db.close()

    with opened_store(ctx, create=create) as (url, settings, _):
        return asyncio.run(run(url, settings.database))


@contextlib.asynccontextmanager
async def _exchange(ctx: click.Context) -> AsyncIterator[Exchange]:
    """Give the exchange that market data comes from, opened."""
    from fks.cli.base import paths_of, settings_of
    from fks.clock import RealClock
    from fks.config.endpoints import load_node
    from fks.exchanges.registry import make_exchange

    settings = settings_of(ctx)
    try:
        node = load_node(paths_of(ctx))
    except OutageError:
        node = None  # history of a real exchange needs no running system
    exchange = make_exchange(settings.data.exchange, settings=settings, node=node, clock=RealClock(), log=_Quiet())
    await exchange.open()
    try:
        yield exchange
    finally:
        await exchange.close()


class _Quiet:
    """A Log for commands: what went wrong is raised and printed, the rest is nobody's business."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


@contextlib.contextmanager
def _bar(label: str, *, is_shown: bool) -> Iterator[Told]:
    """Give a function (done, all) that draws a progress bar on a terminal, and nothing elsewhere."""
    if not is_shown:
        yield lambda done, total: None
        return
    with click.progressbar(length=1000, label=label) as drawn:
        yield lambda done, total: drawn.update(max(0, 1000 * done // max(total, 1) - drawn.pos))


# ── sample ───────────────────────────────────────────────────────────────────────────────────────
@data.command()
@as_json
@click.pass_context
def sample(ctx: click.Context, as_json: bool) -> None:
    """Load the shipped sample: three real months of BTCUSDT minutes, and the larger bars. Safe to repeat."""
    from fks.data.sample import load_tape, sample_tape

    tape = sample_tape()
    start = time.monotonic()
    with _bar(f"{tape.symbol} {tape.timeframe}", is_shown=not as_json) as told:
        loaded = with_store(ctx, lambda db: load_tape(db, tape, told), create=True)
    took_s = time.monotonic() - start
    first, last = iso(int(tape.time_ns[0])), iso(int(tape.time_ns[-1]))
    emit(
        {
            "symbol": tape.symbol, "exchange": tape.exchange, "source": tape.source, "licence": tape.licence,
            "oldest": first, "newest": last, "seconds": round(took_s, 2),
            "series": [{"timeframe": name, "candles": rows, "changed": new} for name, (rows, new) in loaded.items()],
        },
        as_json=as_json, schema="fks.data.sample/1",
    )  # fmt: skip
    if not as_json:
        table(((name, rows, new) for name, (rows, new) in loaded.items()), ("TIMEFRAME", "BARS", "NEW"))
        click.echo(f"{tape.symbol} {first} to {last} in {took_s:.1f} s; source: {tape.source} ({tape.licence})")
        click.echo("try: fks backtest run sma_cross --symbol BTC/USDT --timeframe 5m")


# ── status ───────────────────────────────────────────────────────────────────────────────────────
@data.command()
@as_json
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show what is stored: bars, oldest, newest and range of each symbol and timeframe."""
    from fks.data.aggregate import length_of
    from fks.store.bars import BarStore

    rows = with_store(ctx, lambda db: BarStore(db).coverage())
    shown = [
        {
            "symbol": row["symbol"],
            "timeframe": row["timeframe"],
            "candles": row["candles"],
            "oldest": iso(to_ns(row["oldest"])),
            "newest": iso(to_ns(row["newest"])),
            "time_range": str(row["time_range"]),
        }
        for row in sorted(rows, key=lambda row: (row["symbol"], length_of(row["timeframe"])))
    ]
    _show(shown, as_json, "fks.data.status/1", "nothing stored yet: 'fks data sample' loads three real months")


def _show(rows: list[dict[str, Any]], as_json: bool, schema: str, empty: str) -> None:
    emit(rows, as_json=as_json, schema=schema)
    if not as_json:
        headers = [name.upper().replace("_", " ") for name in rows[0]] if rows else []
        table((list(row.values()) for row in rows), headers, empty=empty)


# ── sync ─────────────────────────────────────────────────────────────────────────────────────────
@data.group()
def sync() -> None:
    """Fetch history from the exchange."""


@sync.command()
@click.argument("symbol")
@click.argument("timeframes", nargs=-1)
@click.option("--days", default=730, show_default=True, type=click.IntRange(1, 7300), help="How far back.")
@as_json
@click.pass_context
def init(ctx: click.Context, symbol: str, timeframes: tuple[str, ...], days: int, as_json: bool) -> None:
    """Fetch the history of SYMBOL, in the given TIMEFRAMES (default: 1m to 1M)."""
    _sync(ctx, symbol, timeframes, as_json, lambda sync, s, t, told: sync.init(s, t, days=days, progress=told))


@sync.command()
@click.argument("symbol")
@click.argument("timeframes", nargs=-1)
@as_json
@click.pass_context
def update(ctx: click.Context, symbol: str, timeframes: tuple[str, ...], as_json: bool) -> None:
    """Fetch what came after the newest stored bar of SYMBOL."""
    _sync(ctx, symbol, timeframes, as_json, lambda sync, s, t, told: sync.update(s, t, progress=told))


def _sync(
    ctx: click.Context,
    symbol: str,
    timeframes: tuple[str, ...],
    as_json: bool,
    one: Callable[[Sync, str, str, Told], Awaitable[Any]],
) -> None:
    from fks.clock import RealClock
    from fks.data.sync import TIMEFRAMES_INIT, Sync
    from fks.model.instrument import find_instrument
    from fks.model.timeframe import check_timeframe

    frames = tuple(check_timeframe(frame) for frame in timeframes) or TIMEFRAMES_INIT

    async def work(db: Database) -> list[dict[str, Any]]:
        async with _exchange(ctx) as exchange:
            found = find_instrument(symbol, await exchange.instruments())
            driver, rows = Sync(exchange, db, RealClock(), _Quiet()), []
            for frame in frames:
                with _bar(f"{found.symbol} {frame}", is_shown=not as_json) as told:
                    rows.append(_synced(await one(driver, found.symbol, frame, told)))
            return rows

    _show(with_store(ctx, work, create=True), as_json, "fks.data.sync/1", "nothing")


def _synced(done: Any) -> dict[str, Any]:
    return {
        "symbol": done.symbol,
        "timeframe": done.timeframe,
        "fetched": done.fetched,
        "changed": done.changed,
        "candles": done.candles,
        "oldest": None if done.oldest_ns is None else iso(done.oldest_ns),
        "newest": None if done.newest_ns is None else iso(done.newest_ns),
    }


@sync.command("status")
@click.argument("symbol", required=False)
@as_json
@click.pass_context
def sync_status(ctx: click.Context, symbol: str | None, as_json: bool) -> None:
    """Show how syncs stand: pending, running, done, failed."""
    from fks.data.aggregate import length_of
    from fks.store.bars import SyncStore

    wanted = None if symbol is None else symbol.upper().replace("/", "").replace("-", "")
    rows = with_store(ctx, lambda db: SyncStore(db).all())
    shown = [
        {
            "symbol": row["symbol"],
            "timeframe": row["timeframe"],
            "exchange": row["exchange"],
            "status": row["sync_status"],
            "candles": row["candles"],
            "oldest": None if row["oldest"] is None else iso(to_ns(row["oldest"])),
            "newest": None if row["newest"] is None else iso(to_ns(row["newest"])),
            "last_sync_at": None if row["last_sync_at"] is None else iso(to_ns(row["last_sync_at"])),
            "error": row["error"],
        }
        for row in sorted(rows, key=lambda row: (row["symbol"], length_of(row["timeframe"])))
        if wanted in (None, row["symbol"])
    ]
    _show(shown, as_json, "fks.data.sync.status/1", "no sync yet: 'fks data sync init BTCUSDT'")


for _command in data_files.COMMANDS:
    data.add_command(_command)
