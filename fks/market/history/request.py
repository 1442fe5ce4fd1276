"""Fetching one series' history from the exchange into the store, in the calling process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fks.clock import RealClock
from fks.config.endpoints import load_node
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.market.history.gaps import DAY_NS
from fks.market.history.limited_exchange import opened_exchange
from fks.market.history.sync import DAYS_INIT, Progress, QuietLog, Sync
from fks.model.errors import OutageError
from fks.model.instrument import find_instrument
from fks.model.timeframe import iso
from fks.store.db import Database


async def fetch_history(
    db: Database,
    settings: Settings,
    paths: Paths,
    symbol: str,
    timeframe: str,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    exchange: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fetch the bars of [start, end) that are not stored, by default of two years up to now; return a summary.

    The summary has exchange, symbol, timeframe, fetched, changed, absent, candles, oldest and newest (ISO, or None).
    Errors: InputError for an unlisted symbol, OutageError, PeerError.
    """
    try:
        node = load_node(paths)
    except OutageError:
        node = None  # history of a real exchange needs no running system
    clock, log = RealClock(), QuietLog()
    name = exchange or settings.data.exchange
    async with opened_exchange(name, settings, node, log, clock) as source:
        found = find_instrument(symbol, await source.instruments())
        since_ns = clock.now_ns() - DAYS_INIT * DAY_NS if start_ns is None else start_ns
        done = asdict(
            await Sync(source, db, clock, log).sync(found.symbol, timeframe, since_ns, end_ns, progress=progress)
        )
    edges = {edge: done.pop(f"{edge}_ns") for edge in ("oldest", "newest")}
    return {"exchange": name, **done, **{edge: None if ns is None else iso(ns) for edge, ns in edges.items()}}
