"""`fks data`: status of stored series and the shipped sample; the other data commands are registered here."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import as_json, emit, result, table
from fks.interfaces.cli.data import features as data_features
from fks.interfaces.cli.data import files as data_files
from fks.interfaces.cli.data import quality as data_quality
from fks.interfaces.cli.data import quarantine as data_quarantine
from fks.interfaces.cli.data import splits as data_splits
from fks.interfaces.cli.data import sync as data_sync
from fks.interfaces.cli.data.store import is_symbol, progress, with_store
from fks.model.json_fields import json_fields
from fks.model.timeframe import iso

if TYPE_CHECKING:
    from fks.store.db import Database

__all__ = ["data", "with_store"]


@click.group()
def data() -> None:
    """Load, sync, check and inspect market data."""


# ── sample ───────────────────────────────────────────────────────────────────────────────────────
@data.command()
@as_json
@click.pass_context
def sample(ctx: click.Context, as_json: bool) -> None:
    """Load the shipped sample: three real months of BTCUSDT minutes, and the larger bars. Safe to repeat."""
    from fks.market.files.sample import load_tape, sample_tape

    tape = sample_tape()
    start = time.monotonic()
    with progress(f"{tape.symbol} {tape.timeframe}", is_shown=not as_json) as report:
        loaded = with_store(ctx, lambda db: load_tape(db, tape, report), create=True)
    document: dict[str, Any] = {
        **json_fields(tape, "symbol", "exchange", "source", "licence"),
        "oldest": iso(int(tape.time_ns[0])),
        "newest": iso(int(tape.time_ns[-1])),
        "seconds": round(time.monotonic() - start, 2),
        "series": [{"timeframe": name, "candles": rows, "changed": new} for name, (rows, new) in loaded.items()],
    }
    emit(document, as_json=as_json, schema="fks.files.sample/1")
    if not as_json:
        table(document["series"], {"TIMEFRAME": "timeframe", "BARS": "candles", "NEW": "changed"})
        click.echo(
            f"{document['symbol']} {document['oldest']} to {document['newest']} in {document['seconds']:.1f} s; "
            f"source: {document['source']} ({document['licence']})"
        )
        click.echo("try: fks backtest run sma_cross --symbol BTC/USDT --timeframe 5m --to 2026-06-01")


# ── status ───────────────────────────────────────────────────────────────────────────────────────
@data.command()
@click.argument("symbol", required=False)
@result(
    "fks.data.status/1",
    empty=lambda symbol: (
        f"nothing is stored of {symbol}" if symbol else "nothing stored yet: 'fks data sample' loads three real months"
    ),
)
def status(ctx: click.Context, symbol: str | None) -> Any:
    """Show what is stored: bars, oldest, newest and range of each series, and the state of its sync."""

    async def work(db: Database) -> list[dict[str, Any]]:
        from fks.clock import RealClock
        from fks.market.bars.aggregate import length_of
        from fks.market.history.gaps import is_kept
        from fks.market.history.quality import behind
        from fks.store.gaps import GapStore

        now_ns = RealClock().now_ns()
        series = sorted(
            await GapStore(db).series(), key=lambda one: (one.symbol, length_of(one.timeframe), one.exchange)
        )
        return [
            {
                **json_fields(one, "symbol", "timeframe", "exchange", "candles"),
                "oldest": None if one.oldest_ns is None else iso(one.oldest_ns),
                "newest": None if one.newest_ns is None else iso(one.newest_ns),
                "time_range": _range(one.oldest_ns, one.newest_ns),
                "behind": behind(one, now_ns) if is_kept(one) and one.wanted_to_ns is None else None,
                "kept_by": "sync" if one.sync_status == "done" else "collector" if one.is_collected else "",
                "sync": one.sync_status,
                "error": one.error,
            }
            for one in series
            if is_symbol(symbol, one.symbol, one.exchange)
        ]

    return with_store(ctx, work)


def _range(oldest_ns: int | None, newest_ns: int | None) -> str | None:
    if oldest_ns is None or newest_ns is None:
        return None
    return str(timedelta(microseconds=(newest_ns - oldest_ns) // 1000))


for _command in (
    data_sync.init,
    data_sync.sync,
    data_sync.update,
    data_sync.continuous,
    data_quality.gaps,
    data_quality.quality,
    data_quality.prune,
    data_quarantine.quarantine,
    data_splits.splits,
    data_splits.events,
    data_splits.import_events,
    data_splits.sync_events,
    data_features.features,
    data_features.import_features,
    *data_files.COMMANDS,
):
    data.add_command(_command)
