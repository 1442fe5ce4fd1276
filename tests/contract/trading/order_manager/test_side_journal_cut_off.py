"""An order manager is cut off from PostgreSQL and not from the exchange, while another machine takes its role over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.settings import DatabaseSettings
from fks.model.errors import StaleEpochError
from fks.model.timeframe import NS
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.cut_link import KINDS, CutLink
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST
from tests.support.outage_rig import STOP_S, Outage, OutageRig, exchange_at_a_fall, outage_rig
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal
HOLD_S = 3.0
MARGIN_S = 0.5  # a successor waits for a whole lease and this long before it starts
NOTICED_S = 1.5  # until a statement without an answer counts as an outage


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = exchange_at_a_fall(tmp_path / "exchange").start()
    yield found
    found.stop()


@pytest.fixture
async def outage(bus: Bus, exchange: LocalExchange, mortal: MortalPostgres, tmp_path: Path) -> AsyncIterator[Outage]:
    async with outage_rig(mortal, exchange, bus, tmp_path / "b.jsonl", right_s=HOLD_S, hold_s=HOLD_S) as found:
        yield found


@pytest.fixture
async def link(outage: Outage) -> AsyncIterator[CutLink]:
    found = await CutLink(outage.postgres.url).open()
    yield found
    await found.close()


@pytest.fixture
async def first(outage: Outage, link: CutLink, bus: Bus, tmp_path: Path) -> AsyncIterator[OutageRig]:
    """The order manager of the machine that is cut off; `outage.rig` is its successor's."""
    db = await Database.connect(link.url, DatabaseSettings(connect_timeout_s=1.0), application="first")
    found = OutageRig(db, bus, ScriptedVenue(), FAST, outage.new_venues(), side=tmp_path / "a.jsonl", right_s=HOLD_S)
    yield found
    await link.restore()
    await found.stop()
    await db.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_cut_off_order_manager_and_its_successor_place_one_stop(
    outage: Outage, first: OutageRig, link: CutLink, kind: str
) -> None:
    second, outage.rig = outage.rig, first
    await first.start()
    await outage.rest()
    await link.cut(kind)
    quantity = await outage.fill()
    await until(lambda: outage.covers(quantity), deadline_s=STOP_S + NOTICED_S)
    outage.rig = second
    await second.take_over()
    await asyncio.sleep(
        second.ttl_s + MARGIN_S
    )  # as the process that hosts it does: the predecessor is not proven gone
    second.ask_before_ns = second.clock.now_ns() - round(FAST.venue.absent_age_s * NS)
    await second.run(wait_ready=False)
    assert not second.service.is_ready
    await until(lambda: second.service.is_ready, deadline_s=HOLD_S + 10)
    assert first.is_logged("journal.changed", journal="away"), "its right ended before the successor began"
    (stop,) = outage.stops()
    await outage.cancel(stop["clientOrderId"])
    await until(lambda: outage.stops() and outage.covers(quantity), deadline_s=STOP_S)
    assert len(outage.stops()) == 1
    assert stop["clientOrderId"] != outage.stops()[0]["clientOrderId"]
    await link.restore()
    assert first.task is not None
    with pytest.raises(StaleEpochError):
        await asyncio.wait_for(asyncio.gather(first.task, first.keeping), 20)
    await outage.settled()
