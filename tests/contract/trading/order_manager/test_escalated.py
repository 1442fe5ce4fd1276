"""ESCALATED: nothing new is entered until a person ends the escalation of a child that money depends on; exits still
go."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fks.model.signal import Kind
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.supervision import TreeJournal
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue
from tests.support.waiting import until


@pytest.fixture
async def rig(database: Database, bus: Bus) -> AsyncIterator[Rig]:
    await seed(database)
    found = await Rig(database, bus, ScriptedVenue()).start()
    yield found
    await found.stop()


@pytest.mark.parametrize("child", ["orders", "guardian"])
async def test_an_escalation_denies_entries_until_a_person_ends_it(rig: Rig, child: str) -> None:
    journal = TreeJournal(rig.db)
    assert await rig.outcome(await rig.signal()) == ("ordered", None)

    async def is_held() -> bool:
        return await rig.position() > 0

    async def entry(outcome: tuple[str, str | None]) -> None:
        """Enter until the order manager has seen the change: it looks once a second."""

        async def is_so() -> bool:
            return await rig.outcome(await rig.signal(instance="two")) == outcome

        await until(is_so, every_s=0.2)

    await until(is_held)
    await journal.note("monitor", "escalated", "9 deaths in 16 s", pid=None, epoch=1)
    await journal.note(child, "escalated", "9 deaths in 16 s", pid=None, epoch=1)
    await entry(("denied", "ESCALATED"))
    await journal.note(child, "started", "", pid=7, epoch=2)  # it runs again, and no person has looked at it
    assert await rig.outcome(await rig.signal(Kind.EXIT)) == ("ordered", None)
    await journal.note(child, "cleared", "a person restarted it", pid=None, epoch=2)
    await entry(("ordered", None))
