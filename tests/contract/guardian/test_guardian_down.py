"""GUARDIAN_DOWN: nothing new is entered while no guardian is alive, whatever it was before; exits still go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.order_rig import Rig, seed
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
