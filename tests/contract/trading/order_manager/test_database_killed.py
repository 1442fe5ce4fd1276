"""PostgreSQL is killed -9 in the middle of trading and comes back: nothing lost, nothing doubled, no crash."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from fks.config.settings import DatabaseSettings
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal


@pytest.fixture
async def own(bus: Bus) -> AsyncIterator[tuple[MortalPostgres, Rig]]:
    with servers.mortal_postgres() as postgres:
        db = await Database.connect(
            postgres.url, DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0), application="test"
        )
        await seed(db)
        rig = Rig(db, bus, ScriptedVenue())
        yield postgres, rig
        await rig.stop()
        await db.close()


async def test_a_killed_database_pauses_the_orders_and_loses_nothing(own: tuple[MortalPostgres, Rig]) -> None:
    server, rig = own
    await rig.start()
    signals = [signal_of(Kind.EXIT if n % 2 else Kind.ENTER) for n in range(8)]
    rig.venue.script.extend(["slow"] * len(signals))  # so that some are left when the database dies
    await SignalStore(rig.db).insert(signals)
    await rig.bus.publish(WAKE, {"type": "signal"})
    await until(lambda: len(rig.venue.received) >= 2)
    server.kill()
    await until(lambda: not rig.service.is_ready)
    assert rig.service.detail()["state"] == "JOURNAL_DOWN"
    sent = len(rig.venue.received)
    await asyncio.to_thread(server.start)
    for one in signals:
        assert (await rig.outcome(one.id))[0] in ("ordered", "nothing")
    await until(lambda: rig.service.is_ready)
    assert len(rig.venue.received) > sent
    assert_once(rig.venue.received)

    async def flat() -> bool:
        return await rig.held() == rig.venue.totals["BTC"] == 0

    await until(flat)
    assert not rig.task.done()  # type: ignore[union-attr]


async def test_fills_that_come_while_the_database_is_away_are_booked_when_it_is_back(
    own: tuple[MortalPostgres, Rig],
) -> None:
    server, rig = own
    await rig.start()
    rig.venue.script.append("rest")
    order = await rig.entry((await rig.signal(id=(wanted := uuid.uuid4())), await rig.outcome(wanted))[0])
    await rig.becomes(order.client_order_id, State.WORKING)
    server.kill()
    rig.venue.fill(order.client_order_id, D(4))
    rig.venue.fill(order.client_order_id, D(6))
    await until(lambda: not rig.service.cache.is_journal_up)
    await asyncio.to_thread(server.start)
    await rig.becomes(order.client_order_id, State.FILLED)
    assert await rig.held() == rig.venue.totals["BTC"]
