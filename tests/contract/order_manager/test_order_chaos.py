"""The order manager is killed at every labelled point while the exchange misbehaves: the exchange's log decides."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.local_exchange import LocalExchange
from tests.support.order_chaos import FAULTS, REFUSING, OrderChaos

INTENTS, LIVES_MIN = 300, 32
SEED = int(os.environ.get("FKS_CHAOS_SEED", "11"))


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off")).start()
    yield found
    found.stop()


@pytest.fixture
async def chaos(
    database: Database, bus: Bus, exchange: LocalExchange, database_url: str, redis_url: str
) -> AsyncIterator[OrderChaos]:
    found = OrderChaos(database, bus, exchange, {"database_url": database_url, "redis_url": redis_url}, SEED)
    await found.open()
    yield found
    await found.close()


@pytest.mark.timeout(240)
async def test_kills_at_every_point_lose_double_and_bend_nothing(chaos: OrderChaos) -> None:
    """Each label and each fault of the exchange several times; `make soak` takes every pair of them, and 10,000
    intents."""
    await chaos.run(lives_min=LIVES_MIN, intents=INTENTS)
    assert await chaos.findings() == []
    assert chaos.points > chaos.kills / 2, "most lives end at their labelled point"
    assert await chaos.fills() > INTENTS / 6, "the order path was worked on"


@pytest.mark.timeout(180)
async def test_kills_without_refusals_send_no_page(chaos: OrderChaos) -> None:
    await chaos.run(lives_min=8, intents=0, faults=[fault for fault in FAULTS if fault not in REFUSING])
    assert await chaos.findings() == []
    assert await chaos.pages() == []
    assert chaos.points > chaos.kills / 2
