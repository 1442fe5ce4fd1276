"""The supervisor over a world of asyncio children and a real database: adopt, restart, fence, give up, stop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from fks.system.supervision.liveness import START_SILENCE
from fks.system.supervision.state import Exited
from fks.system.supervisor import tree_driver, tree_supervisor
from tests.support.supervising import FAST, FakeChild, FakeWorld, spec
from tests.support.waiting import until


async def test_a_dead_child_comes_back_under_a_higher_epoch(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    first = world.children["a"]
    first.die("kill -9")
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert world.children["a"].epoch > first.epoch


async def test_a_living_child_is_adopted_and_not_started_again(run: Any) -> None:
    world = FakeWorld(children={"a": FakeChild(spec("a"), epoch=7, pid=42)})
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    assert [name for name, _ in world.spawned] == ["b"]


async def test_a_silent_child_is_killed_and_replaced(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    hung = world.children["a"]
    hung.is_silent = True
    await until(lambda: len(world.spawned) == 2 and supervisor.is_ready)
    assert hung.ended.is_set()


async def test_child_with_a_fresh_heartbeat_is_not_called(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    child = world.children["a"]
    child.has_heartbeat = True
    await asyncio.sleep(4 * FAST.heartbeat_s)  # one call may have been under way
    calls = child.calls
    child.state = "degraded"
    await until(lambda: supervisor.detail()["children"]["a"] == "degraded")
    assert child.calls == calls
    child.age_s = 60.0
    await until(lambda: len(world.spawned) == 2)
    assert "stood still" in child.end.reason


async def test_unreadable_heartbeat_does_not_affect_other_children(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    world.children["a"].is_garbled = True
    hung = world.children["b"]
    hung.has_heartbeat = True
    hung.age_s = 60.0
    await until(lambda: hung.ended.is_set())


async def test_a_child_that_is_late_has_longer_the_next_time(run: Any) -> None:
    """On a slow machine, killing a child that is nearly up would go on for ever."""
    world = FakeWorld(state_at_start="starting")
    supervisor = run(world, spec("a"))  # its deadline is a second
    await until(lambda: world.spawned)
    first = world.children["a"]
    await until(lambda: len(world.spawned) == 2)
    assert first.ended.is_set()
    second = world.children["a"]
    await asyncio.sleep(1.4)
    second.state = "ready"
    await until(lambda: supervisor.is_ready)
    assert len(world.spawned) == 2


async def test_child_waits_for_the_siblings_it_names(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("b", after=("a",)), spec("a"))
    await until(lambda: supervisor.is_ready)
    assert [name for name, _ in world.spawned] == ["a", "b"]


async def test_a_child_that_keeps_dying_escalates_until_a_person_restarts_it(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b"), restarts_max=2)
    await until(lambda: supervisor.is_ready)
    for _ in range(3):
        count = len(world.spawned)
        world.children["a"].die("again")
        if _ < 2:
            await until(lambda count=count: len(world.spawned) > count and supervisor.is_ready)
    await until(lambda: supervisor.detail()["children"]["a"] == "failed")
    await until(lambda: supervisor.detail()["children"]["b"] == "ready")
    rows = await until(lambda: database.sql("SELECT event, severity, component FROM alerts"))
    assert [tuple(row.values()) for row in rows] == [("child.escalated", "page", "a")]

    async def shown() -> dict[str, Any]:
        sql = "SELECT state, detail->>'escalation' AS why FROM component_health WHERE name = 'a'"
        return dict(([*await database.sql(sql), {"state": "", "why": None}])[0])

    async def is_escalated() -> bool:
        return "3 deaths in" in str((await shown())["why"])

    async def is_over() -> bool:
        return await shown() == {"state": "ready", "why": None}

    await until(is_escalated)
    assert "3 deaths in" in supervisor.detail()["tree"]["children"][0]["escalation"]
    await run.end()
    successor = run(FakeWorld(children={"b": world.children["b"]}), spec("a"), spec("b"), restarts_max=2)
    await until(lambda: "escalation" in successor.detail()["tree"]["children"][0])
    await until(lambda: successor.detail()["children"]["a"] == "ready")
    assert (await shown())["why"], "it runs, and a person has not ended the escalation"
    await successor.restart_child("a", "the account was fixed")
    await until(is_over)
    assert "escalation" not in successor.detail()["tree"]["children"][0]


async def test_a_new_supervisor_keeps_counting_the_old_ones_restarts(run: Any, database: Any) -> None:
    await database.sql("INSERT INTO actor_events (child, event) SELECT 'a', 'restarted' FROM generate_series(1, 2)")
    world = FakeWorld()
    supervisor = run(world, spec("a"), restarts_max=2)
    await until(lambda: supervisor.is_ready)

    async def remembers() -> bool:
        return [
            row["restarts"] for row in await database.sql("SELECT restarts FROM component_health WHERE name = 'a'")
        ] == [2]

    await until(remembers)
    world.children["a"].die("third in the window")
    await until(lambda: supervisor.detail()["children"]["a"] == "failed")


async def test_every_child_has_a_row_with_its_pid_and_state(run: Any, database: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)

    async def row() -> Any:
        rows = await database.sql("SELECT state, pid, kind FROM component_health WHERE name = 'a'")
        return rows and rows[0]["state"] == "ready" and rows[0]

    found = await until(row)
    assert (found["pid"], found["kind"]) == (1001, "actor")


async def test_stopping_goes_in_reverse(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b", after=("a",)))
    await until(lambda: supervisor.is_ready)
    await run.end()  # as the Shell does: first the work, then the stop
    await supervisor.stop()
    assert all(child.ended.is_set() for child in world.children.values())
    assert len(world.spawned) == 2


async def test_the_wait_for_a_lease_counts_from_the_raised_epoch(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    world.children["a"].is_provable = False
    world.state_at_start, world.begins_when_allowed = "starting", True  # its machine is far: it only starts now
    died_s = time.monotonic()
    world.children["a"].die("node lost")
    await until(lambda: supervisor.is_ready and len(world.spawned) == 2)
    begun_s = world.children["a"].begun_s
    assert begun_s is not None
    assert FAST.lease_ttl_s + 0.5 <= begun_s - died_s < FAST.lease_ttl_s + 1.5


async def test_successor_waits_out_the_lease_of_an_unproven_predecessor(run: Any) -> None:
    world = FakeWorld()
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    first = world.children["a"]
    first.is_provable = False
    first.die("ray says so, and its node does not answer")
    await until(lambda: len(world.spawned) == 2)
    assert world.waits == [0.0, FAST.lease_ttl_s + 0.5]


async def test_killed_supervisor_proves_no_end_of_a_missing_child(run: Any) -> None:
    world = FakeWorld(was_reconstructed=True)
    run(world, spec("a"))
    await until(lambda: world.waits)
    assert world.waits == [FAST.lease_ttl_s + 0.5]


async def test_a_child_adopted_while_it_starts_has_a_deadline(run: Any) -> None:
    stuck = FakeChild(spec("a"), epoch=7, pid=42, state="starting")
    world = FakeWorld(children={"a": stuck})
    supervisor = run(world, spec("a"))
    await until(lambda: supervisor.is_ready)
    assert stuck.ended.is_set()
    assert [name for name, _ in world.spawned] == ["a"]


async def test_a_child_that_waits_for_a_service_is_neither_killed_nor_counted(run: Any, database: Any) -> None:
    world = FakeWorld(state_at_start="waiting")
    supervisor = run(world, replace(spec("a"), start_s=0.2))
    await until(lambda: world.children)
    end = time.monotonic() + 0.6  # three of its deadlines
    await until(lambda: time.monotonic() > end)
    assert supervisor.detail()["children"] == {"a": "waiting"}
    world.children["a"].state = "ready"
    await until(lambda: supervisor.is_ready)
    assert len(world.spawned) == 1


async def test_a_child_under_way_is_stopped_with_the_others(run: Any) -> None:
    world = FakeWorld(state_at_start="starting")
    supervisor = run(world, spec("a"))
    await until(lambda: world.children)
    await run.end()
    await supervisor.stop()
    assert world.children["a"].ended.is_set()


async def test_unexpected_error_delays_one_child_only(run: Any) -> None:
    odd = FakeChild(spec("a"), epoch=7, pid=42, join_error=RuntimeError("nobody foresaw this"))
    world = FakeWorld(children={"a": odd})
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: odd.joins == 2 and supervisor.is_ready)
    assert [name for name, _ in world.spawned] == ["b"]
    world.children["b"].die("kill -9")
    await until(lambda: [name for name, _ in world.spawned] == ["b", "b"])


async def test_a_detail_that_the_database_cannot_keep_costs_no_row(run: Any, database: Any) -> None:
    world = FakeWorld(children={"a": FakeChild(spec("a"), epoch=7, pid=42, detail={"problem": ["a\0b"]})})
    run(world, spec("a"))

    async def found() -> Any:
        rows = await database.sql("SELECT detail FROM component_health WHERE name = 'a'")
        return rows and rows[0]["detail"]

    assert await until(found) == {"problem": ["ab"]}


async def test_child_that_is_stopped_while_it_starts_is_not_waited_for_to_the_end(run: Any, database: Any) -> None:
    """It answered once, so its process is there: silence means SIGSTOP. Without that it has all of its time."""
    world = FakeWorld(state_at_start="starting")
    begun_s = time.monotonic()
    run(world, replace(spec("a"), start_s=20.0))
    await until(lambda: "a" in world.children and world.children["a"].calls > 0)
    world.children["a"].is_silent = True
    world.state_at_start = "ready"
    await until(lambda: len(world.spawned) == 2 and world.children["a"].calls > 0, deadline_s=15.0)
    assert 20.0 * START_SILENCE <= time.monotonic() - begun_s < 20.0 * START_SILENCE + 4.0

    async def is_noted() -> bool:
        rows = await database.sql("SELECT reason FROM actor_events WHERE child = 'a' AND event = 'exited'")
        return [row["reason"] for row in rows] == ["died: it answered while it started, and then not for 4 s"]

    await until(is_noted)


async def test_child_that_belongs_on_another_node_is_drained_and_started_again(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_supervisor, "SPREAD_S", 0.02)
    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    before = world.children["b"]
    world.moves = ["b"]
    await until(lambda: len(world.spawned) == 3 and supervisor.is_ready)
    assert world.spawned[-1][0] == "b"
    assert before.ended.is_set()


async def test_undecidable_event_ends_the_supervisor_and_its_successor_adopts(run: Any, monkeypatch: Any) -> None:
    decide = tree_driver.decide

    def refuse(state: Any, event: Any, now_s: float) -> Any:
        if isinstance(event, Exited):
            raise RuntimeError("a case that was not foreseen")
        return decide(state, event, now_s)

    world = FakeWorld()
    supervisor = run(world, spec("a"), spec("b"))
    await until(lambda: supervisor.is_ready)
    monkeypatch.setattr(tree_driver, "decide", refuse)
    world.children["a"].die("kill -9")
    (task,) = run.tasks
    await until(lambda: task.done())  # a lost exit would leave the dead child UP
    assert "not foreseen" in str(task.exception().exceptions)
    assert not world.children["b"].ended.is_set()
    monkeypatch.undo()
    successor = run(world, spec("a"), spec("b"))
    await until(lambda: successor.is_ready)
    assert sorted(name for name, _ in world.spawned) == ["a", "a", "b"]
