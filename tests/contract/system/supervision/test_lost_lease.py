"""A process whose own connections hang while PostgreSQL answers others gives up its place; one in an outage waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.config.settings import DatabaseSettings, Settings, Supervision
from fks.model.errors import OutageError
from fks.store.db import Database
from fks.store.leases import HeldLease, raise_epoch
from fks.system.process.metrics import PrometheusMeter
from fks.system.runtime import Component
from tests.support.ports import CollectingLog
from tests.support.waiting import until

TIMING = Supervision()


async def component(home: Paths, url: str, db: Database, bus: Any, clock: FakeClock) -> Component:
    """Return surroundings on `db` whose lease is held; `url` is where the node says that PostgreSQL is."""
    home.run.mkdir(parents=True, exist_ok=True)
    node = NodeEndpoints(url, "", "", {})
    save_node(home, node)
    epoch = await raise_epoch(db, "part", "test")
    lease = HeldLease(
        db, clock, name="part", epoch=epoch, holder="me", ttl_s=TIMING.lease_ttl_s, renew_s=TIMING.lease_renew_s
    )
    return Component(
        "part",
        lease.epoch,
        Settings(home=home.home, supervision=TIMING),
        home,
        load_secrets(home),
        node,
        clock,
        CollectingLog(),
        PrometheusMeter("part"),
        db,
        bus,
        lease,
    )


async def test_hanging_connections_end_the_process_and_an_outage_does_not(
    server_home: Paths, database_url: str, bus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    db = await Database.connect(database_url, DatabaseSettings(pool_max=1, retry_s=0.2), application="part")
    one = await component(server_home, database_url, db, bus, clock)
    assert one.lease is not None
    lease, watch = one.lease, asyncio.create_task(one.watch_lease())
    answers, lost_s, looks_s = Component.database_answers, list[float](), list[float]()

    async def look(component: Component) -> bool:
        found = await answers(component)
        looks_s.append(clock.monotonic())
        return found

    async def is_ended() -> bool:
        await clock.advance(TIMING.lease_renew_s)
        if not lease.holds():
            lost_s.append(clock.monotonic())
        return watch.done()

    async def has_looked_for_long() -> bool:
        await clock.advance(TIMING.lease_renew_s)
        return len(looks_s) > 1 and looks_s[-1] - looks_s[0] > 2 * TIMING.lease_lost_s

    async def is_held() -> bool:
        await clock.advance(TIMING.lease_renew_s / 50)  # slower than the machine's: a renewal has time for its answer
        return lease.holds()

    monkeypatch.setattr(Component, "database_answers", look)
    await lease.renew()
    async with db.acquire():  # its only connection is stuck somewhere
        renewal = asyncio.create_task(lease.keep())
        await until(is_ended)
        with pytest.raises(OutageError, match="though PostgreSQL answers"):
            watch.result()
        assert clock.monotonic() - (lost_s[0] - TIMING.lease_renew_s) > TIMING.lease_lost_s, "it was lost for that long"

        save_node(server_home, replace(one.node, database_url="postgresql://fks@127.0.0.1:1/fks"))
        assert not await one.database_answers(), "no connection is answered: that is an outage, and no reason to end"
        looks_s.clear()
        watch = asyncio.create_task(one.watch_lease())
        await until(has_looked_for_long)
        assert not watch.done()
    await until(is_held)
    for task in (renewal, watch):
        task.cancel()
    await asyncio.gather(renewal, watch, return_exceptions=True)
    await db.close()
