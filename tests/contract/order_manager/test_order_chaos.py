"""The order manager is killed at every labelled point while the exchange misbehaves: the exchange's log decides."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fks.config.settings import Database as DatabaseSettings
from fks.store import migrate
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support import servers
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import BALANCE, FAULTS, REFUSING, OrderChaos
from tests.support.order_chaos_counts import Minimum

LIVES_MIN = 32
STRUCK = {
    "vanishing balances": 2,
    "bad marks": 1,
    "clock steps": 1,
    "refused exits": 1,
    "refused kills": 1,
    "stepped exits": 1,
    "database killed after a fill": 1,
    "database killed after a cancel": 1,
    "webhook": 5,
    "session": 5,
    "instances side by side": 50,
}
# a busy machine answers late: more is denied
MINIMUM = Minimum(intents=300, pairs=5, reports=1, struck=STRUCK, denied_share=0.4)
SEED = int(os.environ.get("FKS_CHAOS_SEED", "11"))


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off", "--balance", BALANCE)).start()
    yield found
    found.stop()


@pytest.fixture
async def chaos(bus: Bus, exchange: LocalExchange, redis_url: str) -> AsyncIterator[OrderChaos]:
    """A run on a PostgreSQL of its own, which is killed."""
    with servers.mortal_postgres() as postgres:
        await migrate.upgrade(postgres.url)
        db = await Database.connect(postgres.url, DatabaseSettings(retry_s=3.0), application="test")
        urls = {"database_url": postgres.url, "redis_url": redis_url}
        found = OrderChaos(db, bus, exchange, urls, SEED, postgres)
        await found.open()
        yield found
        await found.close()
        await db.close()


@pytest.mark.timeout(480)
async def test_kills_at_every_point_lose_double_and_bend_nothing(chaos: OrderChaos) -> None:
    """Each label and each fault of the exchange several times, and refusals for seconds; `make soak` takes every pair of
    them, refusals of 30 to 120 s, and 10,000 intents."""
    await chaos.run(lives_min=LIVES_MIN, minimum=MINIMUM, long=1)
    assert await chaos.findings() == []
    assert list(chaos.counts.shortfalls(MINIMUM)) == []
    assert chaos.points > chaos.kills / 2, "most lives end at their labelled point"


@pytest.mark.timeout(240)
async def test_kills_without_refusals_send_no_page(chaos: OrderChaos) -> None:
    await chaos.run(lives_min=8, faults=[fault for fault in FAULTS if fault not in REFUSING])
    assert await chaos.findings() == []
    assert await chaos.pages() == []
    assert chaos.points > chaos.kills / 2
