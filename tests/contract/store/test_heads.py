"""The row of the head: a second one is refused while the first lives, the same one is accepted at once."""

from __future__ import annotations

from fks.config.machine import Machine
from fks.store.db import Database
from fks.store.heads import HeadStore

ONE, OTHER = Machine("one", "boot-1"), Machine("other", "boot-2")
TTL_S = 15.0


async def claim(db: Database, machine: Machine, *, is_alone: bool = False, ttl_s: float = TTL_S) -> int | None:
    return await HeadStore(db, ttl_s).claim(machine, host="h", home="/x", address="10.0.0.1", is_alone=is_alone)


async def grow_old(db: Database, seconds: float) -> None:
    await db.sql("UPDATE heads SET beat_at = clock_timestamp() - make_interval(secs => $1)", seconds)


async def test_a_second_head_is_refused_while_the_first_lives(database: Database) -> None:
    store = HeadStore(database, TTL_S)
    assert await claim(database, ONE) == 1
    assert await claim(database, OTHER) is None
    await grow_old(database, 14.0)
    assert await claim(database, OTHER) is None
    head = await store.holder()
    assert head is not None
    assert (head.machine, head.boot, round(head.age_s), head.is_released) == ("one", "boot-1", 14, False)
    assert "h (10.0.0.1, FKS_HOME /x, machine one)" in head.text
    assert await store.renew(ONE)
    assert not await store.renew(OTHER)


async def test_a_head_that_died_is_replaced_when_its_row_expired(database: Database) -> None:
    await claim(database, ONE)
    await grow_old(database, 1.0)
    assert await claim(database, OTHER, ttl_s=0.5) == 2
    assert not await HeadStore(database, TTL_S).renew(ONE), "it was superseded"
    assert await claim(database, ONE) is None


async def test_a_server_that_has_just_started_proves_no_silence(database: Database) -> None:
    await claim(database, ONE)
    await grow_old(database, 1e9)
    assert await claim(database, OTHER, ttl_s=1e8) is None, "it started less than three years ago"
    head = await HeadStore(database, 1e8).holder()
    assert head is not None
    assert head.wait_s > 0


async def test_the_same_head_is_accepted_at_once_and_keeps_its_deployment(database: Database) -> None:
    assert await claim(database, ONE) == 1
    assert await claim(database, ONE) == 1
    assert await claim(database, Machine("one", "boot-9")) is None, "another boot, or a copy of its disk"


async def test_a_head_that_ended_in_order_leaves_its_place_at_once(database: Database) -> None:
    store = HeadStore(database, TTL_S)
    await claim(database, ONE)
    await store.release(ONE)
    assert not await store.renew(ONE)
    assert await claim(database, OTHER) == 2
    await store.release(ONE)  # it is not its any more
    assert await store.renew(OTHER)


async def test_machine_of_the_database_server_takes_precedence(database: Database) -> None:
    await claim(database, OTHER)
    assert await claim(database, ONE, is_alone=True) == 2


async def test_a_deployment_supersedes_every_earlier_one(database: Database) -> None:
    store = HeadStore(database, TTL_S)
    await claim(database, ONE)
    first = await store.deploy(ONE)
    second = await store.deploy(ONE)
    assert first is not None
    assert second == first + 1
    assert not await store.hold(first)
    assert await store.hold(second)
    assert await store.deploy(OTHER) is None


async def test_there_is_no_place_in_a_database_without_a_schema(empty_database_url: str) -> None:
    from fks.config.settings import DatabaseSettings as Options

    db = await Database.connect(empty_database_url, Options(), application="test")
    try:
        assert await claim(db, ONE) == 0
    finally:
        await db.close()
