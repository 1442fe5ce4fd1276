"""The database accepts and does not answer, or cannot be reached: no entry on old facts, nothing twice, exits after.

The partition lasts FKS_PARTITION_S seconds. A driver gives a silent server 5 s beyond the limit of its statement: until
then nothing is sent either, because nothing is journalled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from fks.config.settings import DatabaseSettings, Risk
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support.cut_link import KINDS, CutLink, partition_s
from tests.support.invariants import assert_journal, assert_once
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until

D = Decimal
MAX_AGE_S = 2.0
AWAY_S = partition_s(4.0)
STATEMENT_S = 2.0
NOTICED_S = STATEMENT_S + 5.0 + 2.0  # until the order manager says that its journal is away
BACK_S = 5.0  # until it serves again: 3 s on a calm machine (docs/recovery.md)
SETTINGS = FAST.model_copy(update={"risk": Risk(feed_age_max_s=3600, decision_age_max_s=MAX_AGE_S)})


@pytest.fixture
async def link(database_url: str) -> AsyncIterator[CutLink]:
    found = await CutLink(database_url).open()
    yield found
    await found.close()


@pytest.fixture
async def rig(bus: Bus, database: Database, link: CutLink) -> AsyncIterator[Rig]:
    """An order manager whose database is behind the link; `database` goes around it."""
    await seed(database, instances=("held", "during", "after"))
    db = await Database.connect(
        link.url,
        DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0, statement_timeout_s=STATEMENT_S),
        application="test",
    )
    found = Rig(db, bus, ScriptedVenue(), SETTINGS)
    yield found
    await link.restore()
    await found.stop()
    await db.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_partition_denies_entries_and_loses_and_doubles_nothing(
    rig: Rig, link: CutLink, database: Database, kind: str
) -> None:
    await rig.start()
    first = await rig.signal(instance="held", source="strategy:held")
    assert await rig.outcome(first) == ("ordered", None)
    await rig.becomes((await rig.entry(first)).client_order_id, State.FILLED)
    await rig.signal(instance="held", source="strategy:held", reference_price=D(101))  # in flight when the link is cut
    cut_s = time.monotonic()
    await link.cut(kind)
    during = signal_of(instance="during", source="strategy:during")
    out = signal_of(Kind.EXIT, instance="held", source="strategy:held")
    await SignalStore(database).insert([during, out])
    await rig.bus.publish(WAKE, {"type": "signal"})
    await until(lambda: not rig.service.is_ready, deadline_s=NOTICED_S)
    sent = list(rig.venue.received)
    await asyncio.sleep(max(AWAY_S - (time.monotonic() - cut_s), 0.0))  # the length of the partition
    assert (rig.venue.received, rig.service.is_ready) == (sent, False)

    await link.restore()
    back_s = time.monotonic()
    await until(lambda: rig.service.is_ready, deadline_s=BACK_S)
    print(f"{kind}: ready {time.monotonic() - back_s:.2f} s after the link was back")
    assert await rig.outcome(during.id) == ("denied", "STALE_DECISION")
    assert (await rig.outcome(out.id))[0] == "ordered"
    fresh = await rig.signal(instance="after", source="strategy:after")
    assert await rig.outcome(fresh) == ("ordered", None)

    async def settled() -> bool:
        rows = await database.sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
        return rows[0]["n"] == 0 and await rig.held() == rig.venue.totals.get("BTC", D(0))

    await until(settled)
    assert_once(rig.venue.received)
    await assert_journal(database)
