"""GUARDIAN_DOWN: nothing new is entered while no guardian is alive, whatever it was before; exits still go."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from fks.model.order import State
from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.guardian_process import GuardianProcess, venue_on
from tests.support.local_exchange import LocalExchange
from tests.support.order_rig import FAST, Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until


@pytest.fixture
async def rig(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    await seed(database)
    found = await Rig(database, bus, ScriptedVenue()).start()
    yield found
    await found.stop()


async def test_entries_need_a_living_guardian_and_exits_do_not(rig: Rig) -> None:
    assert await rig.outcome(await rig.signal()) == ("ordered", None)

    async def is_held() -> bool:
        return await rig.position() > 0

    await until(is_held)

    async def entry(outcome: tuple[str, str | None]) -> None:
        """Enter until the order manager has seen the change: it looks once a second."""

        async def is_so() -> bool:
            return await rig.outcome(await rig.signal(instance="two")) == outcome

        await until(is_so, every_s=0.2)

    for _ in range(2):  # it dies, comes back, and dies again
        await rig.db.sql("UPDATE leases SET updated_at = now() - interval '5 seconds' WHERE name = 'guardian'")
        await entry(("denied", "GUARDIAN_DOWN"))
        await rig.db.sql("UPDATE leases SET updated_at = now() + interval '1 day' WHERE name = 'guardian'")
        await entry(("ordered", None))
    await rig.db.sql("DELETE FROM leases WHERE name = 'guardian'")
    await entry(("denied", "GUARDIAN_DOWN"))
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)


LOOK_S = 1.0  # how often the order manager reads when the guardian's lease was renewed
SLACK_S = 1.0  # of a machine that others use


async def test_entries_are_denied_while_the_guardians_process_is_killed(
    exchange: LocalExchange, folder: Path, database: Database, database_url: str, bus: Bus
) -> None:
    """kill -9 twice: entries are denied within the lease's time, exits reach the exchange, entries go again after."""
    guardian = GuardianProcess(exchange, folder, database_url).start()
    await seed(database)
    price = exchange.ask("GET", "/api/v3/ticker/price", None, symbol="BTCUSDT")["price"]
    await database.sql("UPDATE instruments SET lot_step = 0.00001, qty_min = 0.00001 WHERE symbol = 'BTCUSDT'")
    await database.sql("UPDATE feeds SET last_price = $1::text::numeric WHERE symbol = 'BTCUSDT'", price)
    rig = Rig(database, bus, ScriptedVenue(), venues={"ccxt": venue_on(exchange.info)})
    reference = {"reference_price": Decimal(str(price))}

    async def is_renewed() -> bool:
        rows = await database.sql("SELECT updated_at <= now() AS is_real FROM leases WHERE name = 'guardian'")
        return bool(rows and rows[0]["is_real"])

    async def enter() -> tuple[str, str | None]:
        return await rig.outcome(await rig.signal(instance="two", **reference))

    async def is_entered() -> bool:
        return await enter() == ("ordered", None)

    async def is_denied() -> bool:
        after_s = time.monotonic() - killed_s
        outcome = await enter()
        assert outcome in (("ordered", None), ("denied", "GUARDIAN_DOWN"))
        assert outcome[0] == "denied" or after_s <= FAST.risk.guardian_age_max_s + LOOK_S + SLACK_S
        return outcome[0] == "denied"

    try:
        await until(is_renewed)
        await rig.start()
        for _ in range(2):
            assert await rig.outcome(await rig.signal(**reference)) == ("ordered", None)

            async def is_held() -> bool:
                return await rig.position() > 0

            await until(is_held)
            guardian.kill()
            killed_s = time.monotonic()
            await until(is_denied, every_s=0.1)
            posts = len(exchange.received(path="/api/v3/order", method="POST"))
            out = await rig.signal(Kind.EXIT, **reference)
            assert await rig.outcome(out) == ("ordered", None)
            await rig.becomes((await rig.entry(out)).client_order_id, State.FILLED)
            assert await enter() == ("denied", "GUARDIAN_DOWN")
            assert len(exchange.received(path="/api/v3/order", method="POST")) == posts + 1, "the exit alone"
            guardian.start()
            await until(is_entered, every_s=0.1)
    finally:
        guardian.stop()
        if rig.task is not None:
            await rig.stop()
