"""History as durable work: what waits in `sync_status`, and gaps in what is kept whole. One job at a time, for all
exchanges.

`Continuous` decides, cheaply and each minute, whether there is anything to fetch; the job fetches it in a process of
its own and may be killed at any moment: what is missing is looked up, not remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fks.clock import Clock
from fks.config.endpoints import Node
from fks.config.settings import Settings
from fks.exchanges.registry import EXCHANGES
from fks.history.gaps import GapWatch
from fks.history.limited_exchange import opened_exchange
from fks.history.sync import Sync
from fks.model.errors import FksError
from fks.model.ports import Log
from fks.store.db import Database
from fks.store.sync import SyncStore

KIND = "sync"
AT_ONCE = 3  # series of one exchange: a short one does not wait for years of minutes
LOOK_S = 2.0
NOTHING = "nothing is missing"
GAPS_MAX = 500  # of one job and exchange: what is left is the next job's


class Continuous:
    """Decides when a sync job is due. Soft state: what the gap watch saw. Errors of all methods: OutageError."""

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
        """Return how many bars each exchange's series lacked at the last look."""
        return self._watch.missing_bars()

    async def start_waiting(self) -> bool:
        """Have the syncs that wait begun; return whether a job was queued for them."""
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
    node: Node | None,
    *,
    log: Log,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Run what waits, for the exchanges of `spec` and those that come up meanwhile, then fill their gaps.

    Returns what was done by exchange, or its error: one that is away does not hold up another, and what it has not done
    waits in the rows. Errors: OutageError of the database; BugError.
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
    node: Node | None,
    log: Log,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> dict[str, int]:
    """Run the syncs of one exchange that wait, then fill the gaps in what is kept of it."""
    async with opened_exchange(name, settings, node, log, clock) as exchange:
        sync = Sync(exchange, db, clock, log, should_stop=should_stop)
        synced = await sync.run_pending(at_once=AT_ONCE)
        gaps = [gap for gap in await GapWatch(db, clock, days=settings.data.gaps_days).look() if gap.exchange == name]
        written, absent = await sync.fill(gaps[:GAPS_MAX])
        synced += await sync.run_pending(at_once=AT_ONCE)  # what was asked for meanwhile
        return {"synced": synced, "gaps": len(gaps), "written": written, "absent": absent}
