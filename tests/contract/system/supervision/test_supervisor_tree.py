"""The supervisor over nested trees that change: escalation, groups, requested restarts, takeover, unwell children."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.supervisor import SupervisorActor
from fks.model.errors import ConfigError, InputError, OutageError, StaleEpochError
from fks.system.supervision import ChildSpec, How, Intensity, SupervisorSpec
from tests.support.supervising import QUICK, FakeChild, FakeWorld, spec, tree
from tests.support.waiting import until


def branch(
    id: str,
    *children: ChildSpec | SupervisorSpec,
    limit: int = 20,
    after: tuple[str, ...] = (),
) -> SupervisorSpec:
    return SupervisorSpec(id, children, Intensity(limit, 60.0), after=after, backoff=QUICK)


def names(world: FakeWorld) -> list[str]:
    return [name for name, _ in world.spawned]


async def events(database: Any, *wanted: str) -> list[tuple[str, str]]:
    rows = await database.sql("SELECT child, event FROM actor_events ORDER BY id")
    return [(row["child"], row["event"]) for row in rows if row["event"] in wanted]


async def test_a_branch_that_keeps_dying_escalates_and_its_neighbour_lives_on(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, branch("s", spec("a"), spec("b", after=("a",)), limit=1), spec("c"))
    await until(lambda: supervisor.is_ready)
    for _ in range(2):
        count = len(world.spawned)
        world.children["a"].die("again")
        await until(lambda count=count: len(world.spawned) > count and supervisor.is_ready)
    assert [name for name in names(world) if name != "c"] == ["a", "b", "a", "a", "b"]
    assert names(world).count("c") == 1
    expected = [("a", "restarted"), ("s", "escalated"), ("s", "restarted")]
    await until(lambda: _is(events(database, "restarted", "escalated"), expected))
    alerts = await database.sql("SELECT event, severity, component FROM alerts")
    assert [tuple(row.values()) for row in alerts] == [("child.escalated", "page", "s")]


async def test_running_children_of_every_branch_are_adopted_in_any_order(run: Any, database: Any) -> None:
    living = {id: FakeChild(spec(id), epoch=7, pid=40 + n) for n, id in enumerate("abd")}
    world = FakeWorld(was_reconstructed=True, children=dict(living))
    supervisor = run(
        world, branch("s", spec("a"), spec("b", after=("a",))), branch("t", spec("c"), spec("d"), after=("s",))
    )
    await until(lambda: supervisor.is_ready)
    assert names(world) == ["c"]
    await until(lambda: events(database, "started"))
    assert sorted(await events(database, "adopted")) == [("a", "adopted"), ("b", "adopted"), ("d", "adopted")]


async def test_a_restart_that_is_asked_for_is_drained_and_not_counted(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor: SupervisorActor = run(world, spec("a"), spec("b"), restarts_max=0)
    await until(lambda: supervisor.is_ready)
    before = world.children["a"]
    for _ in range(3):
        await supervisor.restart_child("a", "a person")
        assert supervisor.is_ready
    assert before.ended.is_set()
    assert names(world).count("b") == 1
    assert names(world).count("a") == 4
    assert world.children["a"].epoch > before.epoch
    assert await events(database, "restarted", "escalated") == []


async def test_a_restart_of_a_branch_takes_its_children_in_order(run: Any) -> None:
    world = FakeWorld()
    supervisor: SupervisorActor = run(world, branch("s", spec("a"), spec("b", after=("a",))), spec("c"))
    await until(lambda: supervisor.is_ready)
    world.spawned.clear()
    await supervisor.restart_child("s", "a person")
    assert sorted(names(world)) == ["a", "b"]


async def test_restart_of_unknown_and_of_lost_children_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fks.system.supervisor.tree_supervisor.BACK_S", 0.1)
    world = FakeWorld()
    supervisor: SupervisorActor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    with pytest.raises(InputError, match="no child"):
        await supervisor.restart_child("nobody", "a person")
    world.state_at_start = "waiting"
    with pytest.raises(OutageError, match="not back"):
        await supervisor.restart_child("a", "a person")


async def test_tree_follows_the_wanted_tree(run: Any, database: Any) -> None:
    world = FakeWorld()
    wanted = [tree(spec("a"), spec("b"))]

    async def want() -> SupervisorSpec:
        return wanted[0]

    supervisor: SupervisorActor = run(world, spec("a"), spec("b"), want=want)
    await until(lambda: supervisor.is_ready)
    kept, leaving = world.children["a"], world.children["b"]
    wanted[0] = tree(spec("a"), branch("s", spec("new")))
    await until(lambda: set(supervisor.children()) == {"a", "new"} and supervisor.is_ready)
    assert leaving.ended.is_set()
    assert not kept.ended.is_set()

    async def rows() -> set[str]:
        return {row["name"] for row in await database.sql("SELECT name FROM component_health")}

    assert await until(lambda: _is(rows(), {"a", "new", "supervisor"}))


async def _is(found: Any, expected: object) -> bool:
    return bool(await found == expected)


async def test_a_tree_that_cannot_be_run_or_read_changes_nothing(run: Any) -> None:
    world, asked = FakeWorld(), 0

    async def want() -> SupervisorSpec:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OutageError("the database is away")
        if asked == 2:
            raise ConfigError("nonsense")
        return tree(spec("a"), spec("a"))

    supervisor: SupervisorActor = run(world, spec("a"), want=want)
    await until(lambda: asked >= 3)
    assert set(supervisor.children()) == {"a"}
    assert supervisor.is_ready


async def test_actor_of_an_earlier_supervisor_outside_the_tree_is_stopped(run: Any, database: Any) -> None:
    await database.sql("INSERT INTO component_health (name, kind, state) VALUES ('old', 'actor', 'ready')")
    ghost = FakeChild(spec("old"), epoch=3, pid=9)
    world = FakeWorld(was_reconstructed=True, children={"old": ghost})

    async def want() -> SupervisorSpec:
        return tree(spec("a"))

    run(world, spec("a"), want=want)
    await until(ghost.ended.is_set)


async def test_a_child_that_is_unwell_for_too_long_is_drained_and_counted(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    ill = world.children["a"]
    ill.problems = [{"kind": "queue", "text": "it grows", "since_s": 500.0, "is_mended_by_restart": True}]
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert ill.was_drained
    rows = await until(lambda: database.sql("SELECT payload->>'how' AS how FROM actor_events WHERE event = 'exited'"))
    assert rows[0]["how"] == How.UNWELL.value


async def test_a_loop_that_stands_still_is_killed_as_hung(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    world.children["a"].age_s = 9.0
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    rows = await until(lambda: database.sql("SELECT payload->>'how' AS how FROM actor_events WHERE event = 'exited'"))
    assert rows[0]["how"] == How.HUNG.value


async def test_supervisor_that_was_stopped_itself_kills_no_child(run: Any) -> None:
    import time

    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    for child in world.children.values():
        child.answers_after_s = 0.02
    for _ in range(5):
        await asyncio.sleep(0.03)
        time.sleep(0.4)  # noqa: ASYNC251  eight heartbeats in which the supervisor stood still
    await until(lambda: supervisor.is_ready)
    assert sorted(names(world)) == ["a", "b"]


async def test_holder_of_a_taken_name_is_killed_and_its_lease_waited_out(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    holder = FakeChild(spec("a"), epoch=1, pid=5, is_provable=False)
    world.usurper = holder
    world.children["a"].die("kill -9")
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert holder.ended.is_set()
    assert world.waits[-1] > 0


async def test_the_whole_tree_stops_in_reverse(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, branch("s", spec("a"), spec("b", after=("a",))), branch("t", spec("c"), after=("s",)))
    await until(lambda: supervisor.is_ready)
    await run.end()
    await supervisor.stop()
    ended = [child for child, event in await events(database, "exited")]
    assert ended == ["c", "b", "a"]
    assert set(supervisor.detail()["children"].values()) == {"stopped"}


async def test_tree_is_shown_with_its_windows(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, branch("s", spec("a"), limit=5), spec("b"))
    await until(lambda: supervisor.is_ready)
    world.children["a"].die("kill -9")
    await until(lambda: len(world.spawned) == 3 and supervisor.is_ready)
    shown = supervisor.detail()["tree"]
    assert (shown["id"], shown["strategy"], shown["state"]) == ("supervisor", "one_for_one", "ready")
    assert shown["children"][0] | {"children": []} == {
        "id": "s",
        "strategy": "one_for_one",
        "limit": {"restarts_max": 5, "period_s": 60.0},
        "used": 1,
        "state": "ready",
        "children": [],
    }
    assert shown["children"][1] == {"id": "b", "state": "ready"}


async def test_lease_is_waited_out_after_a_loss_but_not_after_a_stop(run: Any) -> None:
    first = FakeWorld()
    supervisor = run(first, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    await run.end()
    await supervisor.stop()
    second = FakeWorld()
    supervisor = run(second, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    assert second.waits == [0.0, 0.0]
    await run.end()  # its cluster is lost: its children may still run
    third = FakeWorld()
    run(third, spec("a"), spec("b"))
    await until(lambda: len(third.waits) == 2)
    assert min(third.waits) > 2.0


async def test_replaced_supervisor_ends_before_it_replaces_a_child(run: Any, database: Any) -> None:
    old, new = FakeWorld(), FakeWorld()
    first = run(old, spec("a"))
    await until(lambda: first.is_ready)
    second = run(new, spec("a"))
    await until(lambda: second.is_ready)
    epoch = await database.sql("SELECT epoch FROM leases WHERE name = 'a'")
    old.children["a"].die("so the first wants to start it again")
    await until(lambda: run.tasks[0].done())
    assert isinstance(run.tasks[0].exception(), StaleEpochError)
    assert await database.sql("SELECT epoch FROM leases WHERE name = 'a'") == epoch
    assert (len(old.spawned), second.is_ready) == (1, True)
