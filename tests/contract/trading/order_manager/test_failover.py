"""An asynchronous standby is promoted that lacks the last order: its client id is not sent a second time."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.settings import DatabaseSettings
from fks.model.errors import ConfigError, FailoverError
from fks.model.order import State
from fks.model.timeframe import NS
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.failover import load_record, watch_failover
from tests.support.invariants import assert_once
from tests.support.order_rig import Rig, seed
from tests.support.ports import TestLease
from tests.support.replication import ReplicatedPostgres, replicated_postgres
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until


@pytest.fixture
def replicated() -> Iterator[ReplicatedPostgres]:
    with replicated_postgres() as postgres:
        yield postgres


@pytest.fixture
async def watched(replicated: ReplicatedPostgres) -> AsyncIterator[Database]:
    """A database of the order manager, at the address that a failover moves."""
    await migrate.upgrade(replicated.url)
    db = await Database.connect(replicated.url, DatabaseSettings(retry_s=3.0), application="test")
    yield db
    await db.close()


async def watch(db: Database, lease: TestLease, folder: Path, *, process: str, is_live: bool = False) -> int:
    history = await watch_failover(
        db, file=folder / "database.json", lease=lease, clock=RealClock(), is_live=is_live, process=process
    )
    return history.ask_before_ns


@pytest.mark.parametrize("is_stale", [False, True])
async def test_order_that_the_standby_lacks_is_not_sent_again(
    replicated: ReplicatedPostgres, watched: Database, bus: Bus, tmp_path: Path, is_stale: bool
) -> None:
    """Also when its decision is too old by then: after a denial, the order at the venue would have no owner."""
    venue = ScriptedVenue()
    await seed(watched)
    rig = await Rig(watched, bus, venue).start()
    assert await watch(watched, rig.lease, tmp_path, process="first") == 0  # an empty journal
    assert stat.S_IMODE((tmp_path / "database.json").stat().st_mode) == 0o600
    rig.lease.is_held = False
    signal = await rig.signal()
    replicated.start_standby()
    await replicated.caught_up()
    replicated.stop_standby()
    rig.lease.is_held = True
    assert await rig.outcome(signal) == ("ordered", None)
    (sent,) = venue.received
    await rig.becomes(sent, State.FILLED)
    held = await rig.held()

    replicated.fail_over()
    assert rig.task is not None
    with pytest.raises(FailoverError, match=r"timeline 1.* timeline 2"):
        await asyncio.wait_for(rig.task, 10.0)

    db = await Database.connect(replicated.url, DatabaseSettings(retry_s=3.0), application="test")
    again = Rig(db, bus, venue)
    assert await db.sql("SELECT 1 FROM orders") == []
    assert [row["state"] for row in await db.sql("SELECT state FROM signals")] == ["ready"]
    if is_stale:
        await db.sql("UPDATE signals SET ts_event = ts_event - interval '1 hour'")
    await again.take_over()
    again.ask_before_ns = await watch(db, again.lease, tmp_path, process="second")
    await again.run()
    try:
        assert await again.outcome(signal) == ("ordered", None)
        filled = await again.becomes(sent, State.FILLED)
        assert_once(venue.received)
        assert venue.received == [sent]
        assert sent in venue.queried
        assert filled.filled == venue.orders[sent].filled
        assert await again.held() == held == venue.totals["BTC"]
        # what came into the journal afterwards is sent, once the venue said that it has no such order
        venue.queried.clear()
        later = await again.signal(symbol="ETHUSDT")
        assert await again.outcome(later) == ("ordered", None)
        order = await again.entry(later)
        await again.becomes(order.client_order_id, State.FILLED)
        assert venue.received == [sent, order.client_order_id]
        assert order.client_order_id in venue.queried
    finally:
        await again.stop()
        await db.close()


async def test_live_refuses_a_database_that_can_lose_commits(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fsync = off"):
        await watch(database, TestLease("orders", 1), tmp_path, process="one", is_live=True)
    assert load_record(tmp_path / "database.json") is None


async def test_epoch_that_went_back_is_noticed_on_the_next_connection(database: Database, tmp_path: Path) -> None:
    await database.sql("INSERT INTO leases (name, epoch) VALUES ('orders', 7)")
    assert await watch(database, TestLease("orders", 7), tmp_path, process="one") == 0
    await database.sql("UPDATE leases SET epoch = 5 WHERE name = 'orders'")

    async def refused() -> bool:
        try:
            await asyncio.gather(*(database.sql("SELECT pg_sleep(0.01)") for _ in range(8)))
        except FailoverError:
            return True
        return False

    await until(refused)


async def test_takeover_from_another_machine_asks_the_venue_first(database: Database, tmp_path: Path) -> None:
    """The last order manager of this machine had an epoch of before: one elsewhere may have sent more since."""

    async def started(epoch: int) -> int:
        history = await watch_failover(
            database,
            file=tmp_path / "database.json",
            lease=TestLease("orders", epoch),
            clock=RealClock(),
            is_live=False,
            process=f"of epoch {epoch}",
            arrived_s=1.0,
        )
        return history.ask_before_ns

    assert await started(1) == 0
    assert await started(2) == 0, "its predecessor ran here"
    began_ns = RealClock().now_ns()
    assert began_ns - NS <= await started(4) <= RealClock().now_ns()
    assert await started(5) > 0, "the record keeps it"
