"""PostgreSQL is away for three times the age that a decision may have, from each labelled point of the order path
on."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest

from fks.config.settings import DatabaseSettings, Risk
from fks.model.order import Answer, Order
from fks.model.signal import Kind
from fks.orders.crash_points import LABELS, CrashPoints
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.journal import errors_of_journal
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres
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


@pytest.fixture(scope="module")
def postgres() -> Iterator[MortalPostgres]:
    with servers.mortal_postgres() as found:
        yield found


@pytest.fixture
async def rig(bus: Bus, postgres: MortalPostgres) -> AsyncIterator[Rig]:
    db = await Database.connect(postgres.url, DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0), application="test")
    tables = await db.sql(
        "SELECT string_agg(quote_ident(tablename), ', ') AS names FROM pg_tables"
        " WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'audit_log')"  # the audit refuses it
    )
    await db.sql(f"TRUNCATE {tables[0]['names']} RESTART IDENTITY CASCADE")
    await seed(db, instances=("one", "two", "three", "four"))
    found = Rig(db, bus, NotingVenue(), SETTINGS)
    yield found
    await found.stop()
    await db.close()


@pytest.mark.parametrize("label", LABELS)
async def test_no_entry_is_sent_when_its_decision_is_old(rig: Rig, postgres: MortalPostgres, label: str) -> None:
    """The database dies at the label, with more entries behind; an exit of the position goes out when it is back."""
    venue, loop = rig.venue, asyncio.get_running_loop()
    assert isinstance(venue, NotingVenue)
    rig.at = CrashPoints(label, 2, postgres.kill)
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
    await asyncio.to_thread(postgres.start)
    await until(lambda: rig.service.is_ready, deadline_s=15)
    for id in decided_s:
        assert (await rig.outcome(id, deadline_s=15))[0] in ("ordered", "denied", "expired")
    out = await rig.signal(Kind.EXIT)
    assert (await rig.outcome(out, deadline_s=15))[0] in ("ordered", "nothing")
    (fresh,) = await enter("four")
    assert await rig.outcome(fresh, deadline_s=15) == ("ordered", None), "a fresh decision is traded again"

    async def settled() -> bool:
        rows = await rig.db.sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
        return rows[0]["n"] == 0 and await rig.held() == venue.totals.get("BTC", D(0))

    await until(settled, deadline_s=15)
    rows = await rig.db.sql("SELECT client_order_id, signal_id FROM orders WHERE role = 'entry'")
    ages = {
        row["client_order_id"]: venue.came_s[row["client_order_id"]] - decided_s[row["signal_id"]]
        for row in rows
        if row["client_order_id"] in venue.came_s
    }
    assert {id: age for id, age in ages.items() if age > MAX_AGE_S + SLACK_S} == {}
    assert len(venue.received) == len(set(venue.received))
    assert await errors_of_journal(rig.db) == []
