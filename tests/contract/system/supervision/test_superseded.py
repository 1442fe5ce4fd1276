"""Two heads on one database: the authority changes once, and the one that lost it stays down however often it
starts."""

from __future__ import annotations

from typing import Any

from fks.config.machine import Machine
from fks.store.heads import HeadStore
from tests.support.supervising import FakeWorld, spec
from tests.support.waiting import until

ONE, OTHER = Machine("one", "boot-1"), Machine("other", "boot-2")


async def deployed(database: Any, machine: Machine) -> tuple[str, ...]:
    """Return the arguments of a new supervisor on this machine, which is the head from now on."""
    store = HeadStore(database, 0.001)
    await store.claim(machine, host=f"host of {machine.id}", home="/x", address="10.0.0.1", is_alone=True)
    return (str(await store.deploy(machine)), machine.id)


async def authority(database: Any) -> int:
    return int((await database.sql("SELECT epoch FROM leases WHERE name = 'supervisor'"))[0]["epoch"])


async def reporting(database: Any) -> list[str]:
    """Return the deployment in the supervisor's health row; none before the first report."""
    rows = await database.sql(
        "SELECT detail->>'deployment' AS deployment FROM component_health WHERE name = 'supervisor'"
    )
    return [row["deployment"] for row in rows]


async def test_superseded_supervisor_stays_down_and_reports_it(run: Any, database: Any, log: Any) -> None:
    args = await deployed(database, ONE)
    world = FakeWorld()
    first = run(world, spec("a"), args=args)
    await until(lambda: first.is_ready)
    other_args = await deployed(database, OTHER)
    second = run(FakeWorld(), spec("a"), args=other_args)
    await until(lambda: second.is_ready)

    async def is_reported() -> bool:
        return await reporting(database) == [other_args[0]]

    await until(is_reported)  # its children may be ready before its first report
    await until(lambda: not first.is_ready)
    await until(world.children["a"].ended.is_set)
    assert "superseded by deployment" in first.detail()["reason"]
    assert "host of other" in first.detail()["reason"]
    held = await authority(database)
    for _ in range(3):  # Ray starts it again, with the arguments that it had
        again = FakeWorld(was_reconstructed=True)
        third = run(again, spec("a"), args=args)
        await until(lambda third=third: "reason" in third.detail())
        assert not again.spawned
    assert await authority(database) == held, "nobody took it back"
    (row,) = await database.sql("SELECT epoch FROM component_health WHERE name = 'supervisor'")
    assert row["epoch"] == held, "a late report of the first one does not hide the second"
    assert second.is_ready
    assert not any(task.done() for task in run.tasks), "one that ended would be started again"
    assert await reporting(database) == [other_args[0]]


async def test_a_supervisor_replaced_on_its_own_head_touches_no_child(run: Any, database: Any) -> None:
    args = await deployed(database, ONE)
    world = FakeWorld()
    first = run(world, spec("a"), args=args)
    await until(lambda: first.is_ready)
    newer = await deployed(database, ONE)
    second = run(world, spec("a"), args=newer)  # the same cluster: it adopts what lives
    await until(lambda: second.is_ready)
    await until(lambda: "reason" in first.detail())
    await first.stop()
    assert not world.children["a"].ended.is_set()
    assert len(world.spawned) == 1


async def test_a_supervisor_renews_the_place_of_its_head(run: Any, database: Any) -> None:
    args = await deployed(database, ONE)
    await database.sql("UPDATE heads SET beat_at = now() - interval '1 hour'")
    first = run(FakeWorld(), spec("a"), args=args)
    await until(lambda: first.is_ready)

    async def is_renewed() -> bool:
        head = await HeadStore(database, 15.0).holder()
        return head is not None and head.age_s < 5.0

    await until(is_renewed)
