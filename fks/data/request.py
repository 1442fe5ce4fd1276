"""One series' history on request, in the process that asks: from the exchange into the store."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fks.clock import RealClock
from fks.config.endpoints import load_node
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.data.sync import Sync
from fks.exchanges.registry import make_exchange
from fks.model.errors import OutageError
from fks.model.instrument import find_instrument
from fks.model.timeframe import iso
from fks.store.db import Database


class Quiet:
    """A Log for programs that are told by return values and errors."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


async def fetch_history(
    db: Database, settings: Settings, paths: Paths, symbol: str, timeframe: str, exchange: str | None = None
) -> dict[str, Any]:
    """Fetch the history of one series and return symbol, timeframe, fetched, changed, candles, oldest, newest (ISO or None).

    Errors: InputError for what the exchange does not list, OutageError, PeerError.
    """
    try:
        node = load_node(paths)
    except OutageError:
        node = None  # history of a real exchange needs no running system
    clock, log = RealClock(), Quiet()
    name = exchange or settings.data.exchange
    source = make_exchange(name, settings=settings, node=node, clock=clock, log=log)
    await source.open()
    try:
        found = find_instrument(symbol, await source.instruments())
        done = asdict(await Sync(source, db, clock, log).init(found.symbol, timeframe))
    finally:
        await source.close()
    edges = {edge: done.pop(f"{edge}_ns") for edge in ("oldest", "newest")}
    return {"exchange": name, **done, **{edge: None if ns is None else iso(ns) for edge, ns in edges.items()}}
