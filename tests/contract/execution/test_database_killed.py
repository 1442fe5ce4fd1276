"""PostgreSQL is killed -9 in the middle of trading and comes back: nothing lost, nothing doubled, no crash."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal

import pytest

from fks.config.paths import Paths
from fks.config.settings import Database as DatabaseSettings
from fks.model.errors import ConfigError
from fks.model.order import State
from fks.model.signal import Kind
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.embedded import PostgresServer, postgres_pid, start_and_wait
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.order_rig import Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal


@dataclass
class OwnServer:
    """A PostgreSQL of this test alone, to be killed."""

    paths: Paths
    server: PostgresServer

    def kill(self) -> None:
        pid = postgres_pid(self.paths)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # a dead child that nobody waited for still holds its lock file

    async def start(self) -> None:
        """Start it again as the keeper does: the backends of the killed one have to be gone first."""

        async def started() -> bool:
            try:
                self.process = await asyncio.to_thread(start_and_wait, self.server, log=self.paths.logs / "postgres.log")
            except ConfigError:
                return False
            return True

        await until(started, every_s=0.2)


@pytest.fixture
async def own(bus: Bus) -> AsyncIterator[tuple[OwnServer, Rig]]:
    with servers.home() as paths, servers.running_postgres(paths, is_durable=True) as server:
        await migrate.upgrade(server.url())
        db = await Database.connect(server.url(), DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0), application="test")
        await seed(db)
        rig = Rig(db, bus, ScriptedVenue())
        mine = OwnServer(paths, server)
        yield mine, rig
        await rig.stop()
        await db.close()
        if hasattr(mine, "process"):
            server.stop(mine.process)


async def test_a_killed_database_pauses_the_orders_and_loses_nothing(own: tuple[OwnServer, Rig]) -> None:
    server, rig = own
    await rig.start()
    signals = [signal_of(Kind.EXIT if n % 2 else Kind.ENTER) for n in range(8)]
    await SignalStore(rig.db).insert(signals)
    await rig.bus.publish("fks.signals", {"type": "signal"})
    await until(lambda: len(rig.venue.received) >= 2)
    server.kill()
    await until(lambda: not rig.service.is_ready)
    assert rig.service.detail()["state"] == "JOURNAL_DOWN"
    sent = len(rig.venue.received)
    await server.start()
    for one in signals:
        assert (await rig.outcome(one.id, deadline_s=20))[0] in ("ordered", "nothing")
    await until(lambda: rig.service.is_ready, deadline_s=15)
    assert len(rig.venue.received) > sent
    assert len(rig.venue.received) == len(set(rig.venue.received))

    async def flat() -> bool:
        return await rig.held() == rig.venue.totals["BTC"] == 0

    await until(flat)
    assert not rig.task.done()  # type: ignore[union-attr]


async def test_fills_that_come_while_the_database_is_away_are_booked_when_it_is_back(own: tuple[OwnServer, Rig]) -> None:
    server, rig = own
    await rig.start()
    rig.venue.script.append("rest")
    order = await rig.entry((await rig.signal(id=(wanted := uuid.uuid4())), await rig.outcome(wanted))[0])
    await rig.becomes(order.client_order_id, State.WORKING)
    server.kill()
    rig.venue.fill(order.client_order_id, D(4))
    rig.venue.fill(order.client_order_id, D(6))
    await until(lambda: not rig.service.book.is_journal_up)
    await server.start()
    await rig.becomes(order.client_order_id, State.FILLED, deadline_s=20)
    assert await rig.held() == rig.venue.totals["BTC"]
