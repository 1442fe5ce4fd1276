"""The guardian places stops while PostgreSQL is away and the order manager's process is proven gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from fks.model.order import OPEN
from fks.store.bus import Bus
from fks.trading.guardian.service import Guardian
from tests.support.guarded_trading import at_work
from tests.support.guardian_process import QUICK, guardian_with, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import Lives
from tests.support.outage_rig import Outage, exchange_at_a_fall, outage_rig
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    """An exchange whose account holds coins of its owner's: a stop over too much would be taken."""
    found = exchange_at_a_fall(tmp_path / "exchange", "BTC=1").start()
    yield found
    found.stop()


@pytest.fixture
async def outage(bus: Bus, exchange: LocalExchange, mortal: MortalPostgres, folder: Path) -> AsyncIterator[Outage]:
    side, kill_path = folder / "orders.jsonl", folder / "kill.jsonl"
    async with outage_rig(mortal, exchange, bus, side, kill_path=kill_path) as found:
        yield found


@pytest.fixture
async def lives() -> AsyncIterator[Lives]:
    found = Lives()
    yield found
    await found.close()


@asynccontextmanager
async def guarded(outage: Outage, folder: Path) -> AsyncIterator[Guardian]:
    """Run a guardian beside the order manager."""
    timing = replace(QUICK, takeover_s=0.5)
    made = guardian_with({"ccxt": venue_on(outage.exchange.info)}, folder, outage.rig.db, timing, takes_over=True)
    async with at_work(made) as guardian:
        yield guardian


async def order_manager(outage: Outage, lives: Lives, redis_url: str, folder: Path) -> None:
    """Start an order manager as a process of its own, and wait until it takes entries."""
    await lives.begin(
        {
            "database_url": outage.postgres.url,
            "redis_url": redis_url,
            "exchange": outage.exchange.info,
            "side": str(folder / "orders.jsonl"),
            "kill_file": str(folder / "kill.jsonl"),
        }
    )
    await until(lambda: lives.has_sent("ready"), deadline_s=20)


def knows(folder: Path, client_order_id: str) -> bool:
    """Return whether the guardian's last snapshot of PostgreSQL has an order."""
    path = folder / "kill-positions.json"
    return path.exists() and client_order_id in {row[0] for row in json.loads(path.read_text())["orders"]}


def has_open_stop(folder: Path) -> bool:
    """Return whether a stop of the guardian's last snapshot may live at the venue."""
    rows = json.loads((folder / "kill-positions.json").read_text())["orders"]
    return any(row[7] == "sl" and row[8] in OPEN for row in rows)


def stop_quantity(outage: Outage) -> Decimal:
    return sum((D(row["origQty"]) for row in outage.stops()), D(0))


async def test_entry_that_fills_with_postgresql_and_the_order_manager_gone_gets_its_stop(
    outage: Outage, lives: Lives, redis_url: str, folder: Path
) -> None:
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder):
        entry = await outage.rest()
        await until(lambda: knows(folder, entry))
        outage.postgres.kill()
        await lives.kill()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=15)
        await asyncio.sleep(1.0)  # rounds that find nothing to do
        assert stop_quantity(outage) <= quantity, "never more than is held"
        (stop,) = outage.stops()
        outage.start_postgres()
        await order_manager(outage, lives, redis_url, folder)
        await outage.settled()
        assert outage.stops() == [stop], "the successor keeps it"
    rows = await outage.rig.db.sql(
        "SELECT state, parent_id FROM orders WHERE client_order_id = $1", stop["clientOrderId"]
    )
    assert [(row["state"], row["parent_id"]) for row in rows] == [("ACCEPTED", entry)]


async def test_stop_that_the_market_has_passed_is_closed_by_the_guardian(
    outage: Outage, lives: Lives, redis_url: str, folder: Path
) -> None:
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder):
        entry = await outage.rest(stop_below=D(1))
        await until(lambda: knows(folder, entry))
        outage.postgres.kill()
        await lives.kill()
        quantity = await outage.fill()
        await until(lambda: 0 <= D(outage.exchange.free("BTC")) - 1 < quantity / 100, deadline_s=15)
        outage.start_postgres()
        await order_manager(outage, lives, redis_url, folder)
        await outage.settled()
    rows = await outage.rig.db.sql(
        "SELECT role, type, state FROM orders WHERE parent_id = $1 AND attempt > 0 ORDER BY attempt", entry
    )
    assert [tuple(row) for row in rows] == [("sl", "stop", "REJECTED"), ("sl", "market", "FILLED")]


async def test_order_manager_that_stands_still_is_not_gone(
    outage: Outage, lives: Lives, redis_url: str, folder: Path
) -> None:
    """It may go on at any time: silence proves nothing."""
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder) as guardian:
        entry = await outage.rest()
        await until(lambda: knows(folder, entry))
        outage.postgres.kill()
        os.kill(lives.pid, signal.SIGSTOP)
        quantity = await outage.fill()
        await until(lambda: guardian.detail()["takeover"] == "looks on: the order manager's process is not proven gone")
        await asyncio.sleep(2.0)
        assert outage.sent() == [entry]
        os.kill(lives.pid, signal.SIGCONT)
        await until(lambda: outage.covers(quantity), deadline_s=10)
        outage.start_postgres()
        await until(lambda: not (folder / "orders.jsonl").read_bytes(), deadline_s=20)
        await outage.settled()


@pytest.mark.parametrize("fault", ["accept_then_cut", "drop"])
async def test_lost_stop_is_replaced_and_never_sent_twice(
    outage: Outage, lives: Lives, redis_url: str, folder: Path, fault: str
) -> None:
    """The account's owner cancels the stop, and the answer to the next one is lost."""
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder):
        await outage.rest()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=10)
        (first,) = outage.stops()
        await until(lambda: knows(folder, first["clientOrderId"]))
        outage.postgres.kill()
        await lives.kill()
        outage.exchange.fault(fault, path="/api/v3/order", method="POST", count=1)
        await outage.cancel(first["clientOrderId"])
        await until(lambda: outage.covers(quantity), deadline_s=20)
        await asyncio.sleep(1.0)
        assert stop_quantity(outage) <= quantity, "never more than is held"
        outage.start_postgres()
        await order_manager(outage, lives, redis_url, folder)
        await outage.settled()
        assert outage.covers(quantity)


async def test_position_whose_stop_had_ended_before_the_outage_gets_one(
    outage: Outage, lives: Lives, redis_url: str, folder: Path
) -> None:
    """The account's owner cancels the stop, the exchange takes no other, and then the order manager is gone."""
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder):
        await outage.rest()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=10)
        (first,) = outage.stops()
        await until(lambda: knows(folder, first["clientOrderId"]))
        outage.exchange.fault(
            "error", path="/api/v3/order", method="POST", count=None, status=400, code=-1013, msg="Filter failure"
        )
        await outage.cancel(first["clientOrderId"])
        await until(lambda: not has_open_stop(folder) and len(outage.sent()) > 2, deadline_s=10)
        outage.postgres.kill()
        await lives.kill()
        outage.exchange.clear()
        await until(lambda: outage.covers(quantity), deadline_s=20)
        outage.start_postgres()
        await order_manager(outage, lives, redis_url, folder)
        await outage.settled()
        assert stop_quantity(outage) <= quantity


async def test_kill_ends_the_stop_and_closes(outage: Outage, lives: Lives, redis_url: str, folder: Path) -> None:
    await order_manager(outage, lives, redis_url, folder)
    async with guarded(outage, folder) as guardian:
        entry = await outage.rest()
        await until(lambda: knows(folder, entry))
        outage.postgres.kill()
        await lives.kill()
        quantity = await outage.fill()
        await until(lambda: outage.covers(quantity), deadline_s=15)
        await guardian.kill(reason="a test", by="me", wait_s=1.0)
        await until(lambda: guardian.report()["is_done"])
        assert abs(D(outage.exchange.free("BTC")) - 1) < D("0.00001"), "the owner's coins are as they were"
        assert not outage.open_orders()
        await until(lambda: guardian.detail()["takeover"] == "looks on: a kill is engaged: it cancels and closes")
