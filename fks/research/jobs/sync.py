"""Sync jobs: waiting rows of `sync_status` and gaps of kept series, one job at a time for all exchanges.

`Continuous` decides each minute, at little cost, whether there is anything to fetch. The job fetches it in a process of
its own and may be killed at any moment: missing bars are looked up in the database, not remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.market.exchanges.registry import EXCHANGES
from fks.market.history.gaps import GapWatch
from fks.market.history.limited_exchange import opened_exchange
from fks.market.history.sync import Sync
from fks.model.errors import FksError
from fks.model.ports import Log
from fks.store.db import Database
from fks.store.sync import SyncStore

AT_ONCE = 3  # series of one exchange at once, so that a short one does not wait for years of minutes
LOOK_S = 2.0
NOTHING = "nothing is missing"
GAPS_MAX = 500  # of one job and exchange; the next job fills the others


class Continuous:
    """Decides when a sync job is due. Soft state: the checks of the gap watch. Errors of all methods: OutageError."""

    def __init__(self, db: Database, clock: Clock, settings: Settings) -> None:
        self._store = SyncStore(db)
        self._watch = GapWatch(db, clock, days=settings.data.gaps_days)

    async def look(self) -> str:
        """Look for gaps everywhere; have what can be fetched fetched. Returns what was found, in words."""
        await self._store.forget_jobs()  # there may be one a minute
        found = [gap for gap in await self._watch.look() if gap.exchange in EXCHANGES]
        exchanges = sorted({gap.exchange for gap in found})
        bars = sum(gap.bars for gap in found)
        if not found:
            return NOTHING
        is_new = await self._store.submit_job(exchanges, "continuous")
        return (
            f"{bars} bars missing in {len(found)} gaps of {', '.join(exchanges)}: "
            f"{'a job fetches them' if is_new else 'a job runs'}"
        )

    def missing_bars(self) -> dict[str, int]:
        """Return how many bars each exchange's series lacked at the last check."""
        return self._watch.missing_bars()

    async def start_waiting(self) -> bool:
        """Start the waiting syncs; return whether a job was queued for them."""
        waiting = await self._store.waiting()
        for exchange in waiting:
            if exchange not in EXCHANGES:
                await self._store.refuse(
                    exchange, f"{exchange!r} is no exchange FKS knows; known are {' '.join(sorted(EXCHANGES))}"
                )
        known = [exchange for exchange in waiting if exchange in EXCHANGES]
        return bool(known) and await self._store.submit_job(known, "sync_status")


async def run_sync(
    spec: Mapping[str, Any],
    db: Database,
    settings: Settings,
    node: NodeEndpoints | None,
    *,
    log: Log,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Run the waiting syncs of the exchanges in `spec` and of those that are added meanwhile, then fill their gaps.

    Returns a summary per exchange, or its error: an unreachable one does not delay another, and its work waits in the
    rows. Errors: OutageError of the database; BugError.
    """

    def begin(name: str) -> asyncio.Task[dict[str, int]]:
        return asyncio.create_task(_of_exchange(name, db, settings, node, log, clock, should_stop))

    tasks = {name: begin(name) for name in spec.get("exchanges", ()) if name in EXCHANGES}
    try:
        while any(not task.done() for task in tasks.values()):
            await asyncio.wait([task for task in tasks.values() if not task.done()], timeout=LOOK_S)
            tasks |= {
                name: begin(name) for name in await SyncStore(db).waiting() if name in EXCHANGES and name not in tasks
            }
        ended = {name: task.exception() for name, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()
    for error in ended.values():
        if error is not None and not isinstance(error, FksError):
            raise error
    return {name: tasks[name].result() if error is None else {"error": str(error)} for name, error in ended.items()}


async def _of_exchange(
    name: str,
    db: Database,
    settings: Settings,
    node: NodeEndpoints | None,
    log: Log,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> dict[str, int]:
    """Run the waiting syncs of one exchange, then fill the gaps of its kept series."""
    async with opened_exchange(name, settings, node, log, clock) as exchange:
        sync = Sync(exchange, db, clock, log, should_stop=should_stop)
        synced = await sync.run_pending(at_once=AT_ONCE)
        gaps = [gap for gap in await GapWatch(db, clock, days=settings.data.gaps_days).look() if gap.exchange == name]
        written, absent = await sync.fill(gaps[:GAPS_MAX])
        synced += await sync.run_pending(at_once=AT_ONCE)  # those requested meanwhile
        return {"synced": synced, "gaps": len(gaps), "written": written, "absent": absent}
