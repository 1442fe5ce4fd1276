"""PostgreSQL is away for ten minutes once: no entry reaches the exchange older than its max_age, and the stop of a
position stays there. `make soak`; FKS_SOAK_AWAY_S shortens it."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from fks.config.settings import DatabaseSettings, Risk
from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.signals import SignalStore
from tests.support import servers
from tests.support.crash_points import CrashPoints
from tests.support.guardian_process import venue_on
from tests.support.invariants import assert_journal, assert_once
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed, signal_of
from tests.support.scripted_venue import ScriptedVenue
from tests.support.servers import MortalPostgres
from tests.support.waiting import until

D = Decimal
AWAY_S = float(os.environ.get("FKS_SOAK_AWAY_S", "600"))
MAX_AGE_S = 2.0
SLACK_S = 0.5  # between the last check of the age and the exchange's log of the request, on a machine that others use
SETTINGS = FAST.model_copy(update={"risk": Risk(feed_age_max_s=7200, decision_age_max_s=MAX_AGE_S)})
LATER = [f"later{number}" for number in range(12)]


@pytest.fixture
def postgres() -> Iterator[MortalPostgres]:
    with servers.mortal_postgres() as found:
        yield found


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[LocalExchange]:
    found = LocalExchange(tmp_path / "exchange", ("--rate-limits", "off")).start()
    yield found
    found.stop()


@pytest.fixture
async def rig(bus: Bus, postgres: MortalPostgres, exchange: LocalExchange) -> AsyncIterator[Rig]:
    db = await Database.connect(postgres.url, DatabaseSettings(retry_s=0.5, connect_timeout_s=1.0), application="test")
    await seed(db, instances=("held", "fresh", *LATER))
    price = exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]
    await db.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await db.sql("UPDATE feeds SET last_price = $1::text::numeric WHERE symbol = 'BTCUSDT'", price)
    found = Rig(db, bus, ScriptedVenue(), SETTINGS, venues={"ccxt": venue_on(exchange.info)})
    yield found
    await found.stop()
    await db.close()


def posted(exchange: LocalExchange) -> dict[str, float]:
    """Return when the exchange received each order, in seconds, by client order id; each came once."""
    rows = exchange.received(path="/api/v3/order", method="POST", limit=1_000_000)
    rows += exchange.received(path="/api/v3/orderList/oco", method="POST", limit=1_000_000)
    ids = [row["params"]["newClientOrderId"] for row in rows if "newClientOrderId" in row["params"]]
    assert_once(ids)
    return {
        row["params"]["newClientOrderId"]: datetime.fromisoformat(row["time"]).timestamp()
        for row in rows
        if "newClientOrderId" in row["params"]
    }


@pytest.mark.soak
@pytest.mark.timeout(5400)
async def test_ten_minutes_without_postgres_send_no_old_entry(
    rig: Rig, postgres: MortalPostgres, exchange: LocalExchange
) -> None:
    decided_s: dict[uuid.UUID, float] = {}
    price = D(str(exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]))
    stop = (price * D("0.8")).quantize(D("0.01"))

    async def enter(*instances: str, **changes: object) -> list[uuid.UUID]:
        found = [
            signal_of(instance=name, source=f"strategy:{name}", reference_price=price, **changes) for name in instances
        ]
        decided_s.update(dict.fromkeys([one.id for one in found], time.time()))
        await SignalStore(rig.db).insert(found)
        await rig.bus.publish(WAKE, {"type": "signal"})
        return [one.id for one in found]

    rig.at = CrashPoints("place.before", 4, postgres.kill)  # after the position's own entry and stop
    await rig.start()
    (first,) = await enter("held", stop_loss=stop)
    assert await rig.outcome(first) == ("ordered", None)
    await rig.becomes((await rig.entry(first)).client_order_id, State.FILLED)

    def stops() -> list[str]:
        return [row["clientOrderId"] for row in exchange.ask("GET", "/sim/state")["open_orders"]]

    await until(lambda: len(stops()) == 1)
    live = stops()

    await enter(*LATER)
    await until(lambda: not rig.service.is_ready)
    down_s, tasks = time.time(), len(asyncio.all_tasks())
    tasks_max = 0
    while time.time() - down_s < AWAY_S:
        assert not rig.service.is_ready
        assert stops() == live
        tasks_max = max(tasks_max, len(asyncio.all_tasks()))
        await asyncio.sleep(1.0)  # the pace of the samples, not a wait for something
    await asyncio.to_thread(postgres.start)
    up_s = time.time()
    await until(lambda: rig.service.is_ready, deadline_s=60)
    ready_s = time.time() - up_s

    outcomes = Counter([await rig.outcome(id, deadline_s=30) for id in decided_s])
    assert {state for state, _ in outcomes} <= {"ordered", "denied", "expired"}
    (fresh,) = await enter("fresh")
    assert await rig.outcome(fresh, deadline_s=15) == ("ordered", None), "a fresh decision is traded again"
    out = await rig.signal(Kind.EXIT, instance="held", source="strategy:held", reference_price=price)
    assert (await rig.outcome(out, deadline_s=15))[0] == "ordered"
    await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED, deadline_s=15)

    async def settled() -> bool:
        rows = await rig.db.sql("SELECT count(*) AS n FROM orders WHERE state IN ('SENDING', 'UNKNOWN')")
        return rows[0]["n"] == 0 and await rig.held() == D(exchange.free("BTC")) and stops() == []

    await until(settled, deadline_s=30)
    received_s = posted(exchange)
    rows = await rig.db.sql("SELECT client_order_id, signal_id FROM orders WHERE role = 'entry'")
    ages = {
        row["client_order_id"]: received_s[row["client_order_id"]] - decided_s[row["signal_id"]]
        for row in rows
        if row["client_order_id"] in received_s
    }
    old = {id: age for id, age in ages.items() if age > MAX_AGE_S + SLACK_S}
    assert old == {}
    during = [at_s for at_s in received_s.values() if down_s + MAX_AGE_S + SLACK_S < at_s < up_s]
    assert during == [], "nothing is sent that no journal has"
    await assert_journal(rig.db)
    assert tasks_max <= tasks + 10, "retries pile up no tasks"
    logged = Counter(event for _, event, _ in rig.log.lines)
    print(
        f"away {AWAY_S:g} s, ready {ready_s:.1f} s after PostgreSQL was back; outcomes {dict(outcomes)}; oldest entry "
        f"at the exchange {max(ages.values()):.3f} s of {MAX_AGE_S:g} s; tasks {tasks} to {tasks_max}; "
        f"log lines {logged.most_common(6)}"
    )
