"""A process whose own connections hang while PostgreSQL answers others gives up its place; one in an outage waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.config.settings import DatabaseSettings, Settings, Supervision
from fks.model.errors import OutageError
from fks.process.metrics import PrometheusMeter
from fks.runtime import Component
from fks.store.db import Database
from fks.store.leases import HeldLease, raise_epoch
from tests.support.ports import CollectingLog
from tests.support.waiting import until


async def component(home: Paths, url: str, db: Database, bus: Any) -> Component:
    """Return surroundings on `db` whose lease is held; `url` is where the node says that PostgreSQL is."""
    home.run.mkdir(parents=True, exist_ok=True)
    node = NodeEndpoints(url, "", "", {})
    save_node(home, node)
    settings = Settings(home=home.home, supervision=Supervision(lease_lost_s=0.6, lease_ttl_s=0.4, lease_renew_s=0.1))
    clock = RealClock()
    lease = HeldLease(
        db, clock, name="part", epoch=await raise_epoch(db, "part", "test"), holder="me", ttl_s=0.4, renew_s=0.1
    )
    return Component(
        "part",
        lease.epoch,
        settings,
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
    server_home: Paths, database_url: str, bus: Any
) -> None:
    db = await Database.connect(database_url, DatabaseSettings(pool_max=1, retry_s=0.2), application="part")
    one = await component(server_home, database_url, db, bus)
    assert one.lease is not None
    renewal, watch = asyncio.create_task(one.lease.keep()), asyncio.create_task(one.watch_lease())
    await until(one.lease.holds)
    async with db.acquire():  # its only connection is stuck somewhere
        await until(lambda: not one.lease.holds())  # type: ignore[union-attr]
        with pytest.raises(OutageError, match="though PostgreSQL answers"):
            await asyncio.wait_for(watch, 10)
        save_node(server_home, replace(one.node, database_url="postgresql://fks@127.0.0.1:1/fks"))
        assert not await one.database_answers(), "no connection is answered: that is an outage, and no reason to end"
    await until(one.lease.holds)
    renewal.cancel()
    await asyncio.gather(renewal, return_exceptions=True)
    await db.close()
