"""PostgreSQL is killed -9 while money is at work at the exchange: protection and exits go on, entries do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from fks.config.settings import AlertsSettings
from fks.model.errors import OutageError
from fks.model.order import OrderType, State
from fks.model.signal import Kind
from fks.store.alerting import AlertingStore
from fks.store.bus import Bus
from fks.system.alerts.channels import Sealer
from fks.system.alerts.direct import DirectPager
from fks.system.alerts.directory import Directory
from fks.system.process.journal_file import JournalFile
from fks.trading.guardian.journal import Asked, KillJournal
from tests.support.crash_points import CrashPoints
from tests.support.local_exchange import LocalExchange
from tests.support.outage_rig import STOP_S, Outage, exchange_at_a_fall, outage_rig
from tests.support.receivers import http_receiver
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = exchange_at_a_fall(tmp_path / "exchange").start()
    yield found
    found.stop()


@pytest.fixture
async def outage(bus: Bus, exchange: LocalExchange, mortal: MortalPostgres, tmp_path: Path) -> AsyncIterator[Outage]:
    side, kill_path = tmp_path / "orders.jsonl", tmp_path / "kill.jsonl"
    async with outage_rig(mortal, exchange, bus, side, kill_path=kill_path) as found:
        yield found


async def test_entry_that_fills_without_postgresql_gets_its_stop(outage: Outage) -> None:
    await outage.rig.start()
    entry = await outage.rest()
    outage.postgres.kill()
    began_s = time.monotonic()
    quantity = await outage.fill()
    await until(lambda: outage.covers(quantity), deadline_s=10)
    assert time.monotonic() - began_s < STOP_S
    await outage.end()
    assert (await outage.rig.becomes(entry, State.FILLED)).filled == quantity
    await outage.settled()


async def test_stop_that_the_market_has_passed_is_closed_without_postgresql(outage: Outage) -> None:
    await outage.rig.start()
    entry = await outage.rest(stop_below=D(1))
    outage.postgres.kill()
    await outage.fill()
    await until(outage.is_flat, deadline_s=10)
    await outage.end()
    await outage.settled()
    rows = await outage.rig.db.sql(
        "SELECT role, type, state, refusal FROM orders WHERE parent_id = $1 ORDER BY attempt", entry
    )
    assert [tuple(row) for row in rows] == [
        ("sl", "stop", "REJECTED", "would_trigger"),
        ("sl", "market", "FILLED", None),
    ]


async def test_exit_whose_stop_was_cancelled_goes_on_without_postgresql(outage: Outage) -> None:
    """PostgreSQL dies between the cancel and the close: entry, stop, and then the close are journaled."""
    outage.rig.at = CrashPoints("place.before", 3, outage.postgres.kill)
    await outage.rig.start()
    await outage.rest()
    quantity = await outage.fill()
    await until(lambda: outage.covers(quantity), deadline_s=10)
    signal = await outage.rig.signal(Kind.EXIT)
    await until(lambda: not outage.rig.service.cache.is_journal_up)
    await until(outage.is_flat, deadline_s=STOP_S)
    await outage.end()
    assert await outage.rig.outcome(signal) == ("ordered", None)
    await outage.settled()


async def test_no_entry_is_sent_without_postgresql(outage: Outage) -> None:
    """PostgreSQL dies right before a second entry is journaled: the first one's stop is sent, that entry is not."""
    outage.rig.at = CrashPoints("place.before", 2, outage.postgres.kill)
    await outage.rig.start()
    first = await outage.rest()
    second = await outage.rig.signal(instance="two", reference_price=await outage.price())
    await until(lambda: not outage.rig.service.cache.is_journal_up)
    quantity = await outage.fill()
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S)
    assert outage.sent() == [first, *(row["clientOrderId"] for row in outage.stops())]
    await outage.end()
    assert (await outage.rig.outcome(second))[0] in ("ordered", "denied")
    await outage.settled()


async def test_kill_engaged_in_an_outage_ends_what_is_sent_here(outage: Outage, tmp_path: Path) -> None:
    """From the kill on the guardian alone cancels and closes; the stop is placed once a person released it."""
    await outage.rig.start()
    entry = await outage.rest()
    outage.postgres.kill()
    kill = KillJournal(tmp_path / "kill.jsonl")
    kill.engage("k1", Asked("system", "a test", "ann", flatten=False, at_ns=time.time_ns()))
    quantity = await outage.fill()
    await until(lambda: outage.rig.is_logged("fill.seen") and outage.rig.is_logged("journal.changed", journal="away"))
    assert outage.sent() == [entry]
    assert not outage.stops()
    kill.release(by="ann", now_ns=time.time_ns())
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S)
    await outage.end()
    await outage.settled()


async def test_kill_released_in_an_outage_holds_nothing_back(outage: Outage, tmp_path: Path) -> None:
    """The kill was read from the file, and its release can be read nowhere else."""
    await outage.rig.start()
    await outage.rest()
    kill = KillJournal(tmp_path / "kill.jsonl")
    kill.engage("k1", Asked("system", "a test", "ann", flatten=False, at_ns=time.time_ns()))
    await until(lambda: outage.rig.service.cache.is_killed)
    outage.postgres.kill()
    await until(lambda: not outage.rig.service.cache.is_journal_up)
    kill.release(by="ann", now_ns=time.time_ns())
    await until(lambda: not outage.rig.service.cache.is_killed)
    assert not outage.rig.service.cache.is_journal_up
    quantity = await outage.fill()
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S)
    await outage.end()
    await outage.settled()


async def test_resting_entry_ends_by_its_time_without_postgresql(outage: Outage) -> None:
    await outage.rig.start()
    price = await outage.price() - D(5)
    signal = await outage.rig.signal(
        type=OrderType.LIMIT,
        limit_price=price,
        stop_loss=price - D(500),
        reference_price=price,
        rests_until_ns=time.time_ns() + 4_000_000_000,
    )
    await until(outage.open_orders)
    outage.postgres.kill()
    await until(lambda: not outage.open_orders(), deadline_s=10)
    await outage.end()
    entry = (await outage.rig.entry(signal)).client_order_id
    await outage.rig.becomes(entry, State.CANCELLED)
    await outage.settled()


async def test_outage_with_money_at_work_pages_without_postgresql(outage: Outage) -> None:
    """The page leaves through a channel that was read before; nothing of it is in PostgreSQL or on Redis."""
    sealer, log = Sealer(SecretStr("s" * 43)), outage.rig.log
    async with http_receiver() as receiver:
        store = AlertingStore(outage.rig.db)
        address = sealer.seal(f"json://{receiver.host}")
        await store.save_channel(
            "hook", kind="webhook", address=address, base=None, severity_min="error", is_enabled=True, by="test"
        )
        pager = DirectPager(
            Directory(store, AlertsSettings(), sealer), outage.rig.clock, log, hosts=("localhost", "127.0.0.1")
        )
        outage.rig.pager = pager
        await outage.rig.start()
        await pager.read()
        await outage.rest()
        outage.postgres.kill()
        await until(lambda: receiver.received, deadline_s=15)
        assert "1 resting orders" in receiver.texts[0]
        await until(lambda: outage.rig.is_logged("page.sent_directly", outcome="sent"))
        await outage.end()
        await outage.settled()


async def test_side_journal_that_took_nothing_is_tried_again(outage: Outage, tmp_path: Path) -> None:
    """The stop waits for the disk, not for PostgreSQL, and one page is sent for the outage."""
    side = tmp_path / "orders.jsonl"
    await outage.rig.start()
    entry = await outage.rest()
    side.mkdir()  # no line can be written
    outage.postgres.kill()
    quantity = await outage.fill()
    await until(lambda: outage.rig.is_logged("journal.side_failed"))
    assert outage.sent() == [entry]
    side.rmdir()
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S)
    await outage.end()
    await outage.settled()
    assert sum(name == "journal.side_failed" for _, name, _ in outage.rig.log.lines) == 1


async def test_side_journal_that_took_nothing_protects_in_the_next_outage(outage: Outage, tmp_path: Path) -> None:
    side = tmp_path / "orders.jsonl"
    await outage.rig.start()
    await outage.rest()
    side.mkdir()
    outage.postgres.kill()
    quantity = await outage.fill()
    await until(lambda: outage.rig.is_logged("journal.side_failed"))
    await outage.end()
    await until(lambda: outage.covers(quantity), deadline_s=10)
    side.rmdir()
    stop = outage.stops()[0]["clientOrderId"]
    outage.postgres.kill()
    await until(lambda: not outage.rig.service.cache.is_journal_up)
    await outage.cancel(stop)
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S)
    await outage.end()
    await outage.settled()


async def test_order_manager_starts_once_the_guardian_gave_the_lock_back(outage: Outage, tmp_path: Path) -> None:
    """The guardian holds it while it places stops; its records are booked by the order manager that starts."""
    guardian = JournalFile(tmp_path / "orders.jsonl")
    assert guardian.lock()
    starting = asyncio.create_task(outage.rig.start())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(starting), 1.0)
    guardian.close()
    await starting
    await outage.rest()
    await outage.settled()


async def test_order_manager_beside_another_one_ends(outage: Outage, tmp_path: Path) -> None:
    other = JournalFile(tmp_path / "orders.jsonl")
    assert other.lock()
    with pytest.raises(OutageError, match="another order manager of this home still runs"):
        await outage.rig.start()
    other.close()
    await outage.rig.start()
