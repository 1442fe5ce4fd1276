"""PostgreSQL is away for three times the age that a decision may have, from each labelled point of the order path
on."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from fks.config.settings import DatabaseSettings, Risk
from fks.model.order import Answer, Order
from fks.model.signal import Kind
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support.crash_points import LABELS, CrashPoints
from tests.support.invariants import assert_journal, assert_once
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres, empty
from tests.support.soak_cases import soaked
from tests.support.waiting import until

D = Decimal
MAX_AGE_S = float(os.environ.get("FKS_MAX_AGE_S", "1"))  # of a decision; the database is away for three times as long
SLACK_S = 0.5  # between the last check of the age and the venue's note, when other processes hold the machine up
SETTINGS = FAST.model_copy(update={"risk": Risk(feed_age_max_s=3600, decision_age_max_s=MAX_AGE_S)})


class NotingVenue(ScriptedVenue):
    """A scripted venue that notes when the bytes of each order came."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.came_s: dict[str, float] = {}

    async def submit(self, order: Order) -> Answer:
        self.came_s[order.client_order_id] = asyncio.get_running_loop().time()
        return await super().submit(order)


@pytest.fixture
async def rig(bus: Bus, mortal: MortalPostgres) -> AsyncIterator[Rig]:
    await empty(mortal)
    db = await Database.connect(mortal.url, DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0), application="test")
    await seed(db, instances=("one", "two", "three", "four"))
    found = Rig(db, bus, NotingVenue(), SETTINGS)
    yield found
    await found.stop()
    await db.close()


#: before and after the bytes leave, and in the booking of a fill; the others are neighbours of these
FIRST = ("place.after", "send.after", "fill.before")


@pytest.mark.parametrize("label", soaked(sorted(LABELS, key=lambda label: label not in FIRST), 3))
async def test_no_entry_is_sent_when_its_decision_is_old(rig: Rig, mortal: MortalPostgres, label: str) -> None:
    """The database dies at the label, with more entries behind; an exit of the position goes out when it is back."""
    venue, loop = rig.venue, asyncio.get_running_loop()
    assert isinstance(venue, NotingVenue)
    rig.at = CrashPoints(label, 2, mortal.kill)
    await rig.start()
    decided_s: dict[object, float] = {}

    async def enter(*instances: str) -> list[uuid.UUID]:
        found = [signal_of(instance=name, source=f"strategy:{name}", stop_loss=D(90)) for name in instances]
        decided_s.update(dict.fromkeys([one.id for one in found], loop.time()))
        await SignalStore(rig.db).insert(found)
        await rig.bus.publish(WAKE, {"type": "signal"})
        return [one.id for one in found]

    await enter("one", "two", "three")
    await until(lambda: not rig.service.is_ready)
    await asyncio.sleep(3 * MAX_AGE_S)
    await asyncio.to_thread(mortal.start)
    await until(lambda: rig.service.is_ready)
    for id in decided_s:
        assert (await rig.outcome(id))[0] in ("ordered", "denied", "expired")
    out = await rig.signal(Kind.EXIT)
    assert (await rig.outcome(out))[0] in ("ordered", "nothing")
    (fresh,) = await enter("four")
    assert await rig.outcome(fresh) == ("ordered", None), "a fresh decision is traded again"

    async def settled() -> bool:
        rows = await rig.db.sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
        return rows[0]["n"] == 0 and await rig.held() == venue.totals.get("BTC", D(0))

    await until(settled)
    rows = await rig.db.sql("SELECT client_order_id, signal_id FROM orders WHERE role = 'entry'")
    ages = {
        row["client_order_id"]: venue.came_s[row["client_order_id"]] - decided_s[row["signal_id"]]
        for row in rows
        if row["client_order_id"] in venue.came_s
    }
    assert {id: age for id, age in ages.items() if age > MAX_AGE_S + SLACK_S} == {}
    assert_once(venue.received)
    await assert_journal(rig.db)
