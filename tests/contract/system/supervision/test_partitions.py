"""The supervisor's database does not answer, or cannot be reached: no living child is touched, and none starts twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fks.store.db import Database
from tests.support.cut_link import KINDS, CutLink, behind_a_link, partition_s
from tests.support.supervising import FakeWorld, spec
from tests.support.waiting import until


@pytest.fixture
async def linked(database_url: str) -> AsyncIterator[tuple[Database, CutLink]]:
    async with behind_a_link(database_url, statement_s=1.0) as found:
        yield found


@pytest.fixture
def database(linked: tuple[Database, CutLink]) -> Database:
    """The database of `run`, behind the link."""
    return linked[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_partition_ends_no_child_and_starts_none_twice(
    run: Any, linked: tuple[Database, CutLink], kind: str
) -> None:
    """An epoch comes from the database: what dies meanwhile is started once it answers, under the next one."""
    world, link = FakeWorld(), linked[1]
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    living, dead = world.children["a"], world.children["b"]
    await link.cut(kind)
    cut_s = time.monotonic()
    dead.die("kill -9")
    await asyncio.sleep(max(partition_s(1.5) - (time.monotonic() - cut_s), 0.0))  # its length
    assert len(world.spawned) == 2, "a child was started without an epoch"
    assert not living.ended.is_set()
    await link.restore()
    await until(lambda: len(world.spawned) == 3 and supervisor.is_ready)
    assert world.children["a"] is living
    assert world.children["b"].epoch > dead.epoch
    assert not living.ended.is_set()
