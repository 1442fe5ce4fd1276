"""The order manager is killed -9 while its side journal is at work: no id leaves twice, and no stop is lost."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fks.model.errors import OutageError
from fks.store.bus import Bus
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import Lives
from tests.support.outage_rig import Outage, exchange_at_a_fall, outage_rig
from tests.support.servers import MortalPostgres
from tests.support.soak_cases import soaked
from tests.support.waiting import until

SEED = int(os.environ.get("FKS_CHAOS_SEED", "27"))
#: labels with how often each is passed between the outage and the stop, or from the return of PostgreSQL on
PASSED = {
    "aside.after": 4,
    "send.after": 1,
    "drain.before": 4,
    "aside.before": 4,
    "send.before": 1,
    "ack.before": 1,
    "drain.after": 4,
}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = exchange_at_a_fall(tmp_path / "exchange").start()
    yield found
    found.stop()


@pytest.fixture
async def outage(bus: Bus, exchange: LocalExchange, mortal: MortalPostgres, tmp_path: Path) -> AsyncIterator[Outage]:
    async with outage_rig(mortal, exchange, bus, tmp_path / "orders.jsonl") as found:
        yield found


@pytest.fixture
async def lives() -> AsyncIterator[Lives]:
    found = Lives()
    yield found
    await found.close()


def job_of(outage: Outage, redis_url: str, folder: Path) -> dict[str, Any]:
    """Return what an order manager with a side journal is started with."""
    return {
        "database_url": outage.postgres.url,
        "redis_url": redis_url,
        "exchange": outage.exchange.info,
        "side": str(folder / "orders.jsonl"),
        "kill_file": str(folder / "kill.jsonl"),
    }


@pytest.mark.parametrize("label", soaked(PASSED, 3))
async def test_crash_in_an_outage_loses_no_stop_and_sends_no_id_twice(
    outage: Outage, lives: Lives, redis_url: str, tmp_path: Path, label: str
) -> None:
    dice = random.Random(f"{SEED} {label}")
    # of the entry, before the outage, these are passed once
    count = dice.randint(1, PASSED[label]) + (label in ("send.before", "send.after", "ack.before"))
    job = job_of(outage, redis_url, tmp_path)
    await lives.begin(job | {"label": label, "count": count})
    await until(lambda: lives.has_sent("ready"), deadline_s=20)
    await outage.rest()
    outage.postgres.kill()
    quantity = await outage.fill()
    if label.startswith("drain"):
        await until(lambda: outage.covers(quantity), deadline_s=5)
        outage.start_postgres()
    await until(lambda: lives.has_sent("ended"), deadline_s=20)
    assert lives.values("acted") == [label], lives.messages
    if not label.startswith("drain"):
        outage.start_postgres()
    await lives.begin(job)
    await until(lambda: lives.has_sent("ready"), deadline_s=20)
    await until(lambda: outage.covers(quantity), deadline_s=10)
    await outage.settled()


async def test_order_manager_waits_for_the_end_of_one_that_has_the_side_journal(
    outage: Outage, lives: Lives, redis_url: str, tmp_path: Path
) -> None:
    """Its predecessor may go on without PostgreSQL: only the end of that process gives the file, and the right, away."""
    await lives.begin(job_of(outage, redis_url, tmp_path))
    await until(lambda: lives.has_sent("ready"), deadline_s=20)
    with pytest.raises(OutageError, match="still runs"):
        await outage.rig.start()
    await lives.kill()
    await outage.rig.start()
