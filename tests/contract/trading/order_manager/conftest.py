"""A rig per test: real PostgreSQL and Redis, a scripted venue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fks.store.bus import Bus
from fks.store.db import Database
from tests.support.histories import save
from tests.support.invariants import assert_journal
from tests.support.order_rig import Rig, seed
from tests.support.scripted_venue import ScriptedVenue


@pytest.fixture
def venue() -> ScriptedVenue:
    """An exchange that behaves correctly until a test scripts a fault."""
    return ScriptedVenue()


@pytest.fixture
async def idle(
    database: Database, bus: Bus, venue: ScriptedVenue, request: pytest.FixtureRequest
) -> AsyncIterator[Rig]:
    """A rig that is seeded and not started."""
    await seed(database)
    rig = Rig(database, bus, venue)
    yield rig
    if rig.task is not None:
        await rig.stop()
    save(request.node.name, rig.histories)


@pytest.fixture
async def rig(idle: Rig) -> Rig:
    """A rig that runs and is READY."""
    return await idle.start()


@pytest.fixture
async def audited(idle: Rig) -> AsyncIterator[None]:
    """Compare the journal with its events after the test."""
    yield
    if idle.task is not None:
        await idle.crash()
    await assert_journal(idle.db)
