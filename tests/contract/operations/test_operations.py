"""Operations on the running system, over a real database and a fake supervisor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.settings import Settings
from fks.config.version import build_id
from fks.model.errors import InputError, OutageError, StaleEpochError
from fks.store.bus import Bus
from fks.store.db import Database, UnresetConnection, sql
from fks.store.operations import CHANNEL, Operation, OperationStore
from fks.store.runtime_config import RuntimeConfigStore, propose
from fks.system.supervision.rollout import RolloutPart
from fks.system.supervisor import operations
from tests.support.operations import IDS, Dead, FakeParts, Rig
from tests.support.ports import CollectingLog
from tests.support.waiting import until


@pytest.fixture
async def rig(database: Database, bus: Bus, log: CollectingLog, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(operations, "POLL_S", 0.1)  # requests here send no message
    parts = FakeParts()
    component: Any = SimpleNamespace(
        db=database, bus=bus, clock=RealClock(), log=log, config_version=0, settings=Settings()
    )
    rig = Rig(database, OperationStore(database), RuntimeConfigStore(database), parts, log, component=component)
    yield rig
    for task in rig.tasks:
        task.cancel()
    await asyncio.gather(*rig.tasks, return_exceptions=True)


def parts_of(operation: Operation, name: str = "steps") -> list[tuple[str, str]]:
    return [(step["part"], step["state"]) for step in operation.result.get(name, [])]


async def test_same_request_twice_is_one_operation(rig: Rig) -> None:
    id = uuid.uuid4()
    first = await rig.store.request("restart", target="orders", requested_by="ann", id=id)
    assert (await rig.store.request("restart", target="orders", requested_by="ann", id=id)).id == first.id
    assert len(await rig.store.list()) == 1
    with pytest.raises(InputError, match="another operation"):
        await rig.store.request("restart", target="guardian", id=id)


async def test_one_runs_at_a_time_and_the_oldest_first(rig: Rig) -> None:
    first = await rig.store.request("restart", target="orders")
    await rig.store.request("restart", target="guardian")
    claimed = await rig.store.claim()
    assert claimed is not None
    assert claimed.id == first.id
    assert await rig.store.claim() is None
    await rig.store.finish(claimed, "done", result={})
    again = await rig.store.claim()
    assert again is not None
    assert again.target == "guardian"


async def test_a_supervisor_that_was_replaced_writes_nothing(rig: Rig) -> None:
    await rig.store.request("restart", target="orders")
    old = await rig.store.claim()
    new = await rig.store.take_up()
    assert old is not None
    assert new is not None
    assert (new.id, new.attempt) == (old.id, 2)
    with pytest.raises(StaleEpochError):
        await rig.store.note(old, "half", {})
    with pytest.raises(StaleEpochError):
        await rig.store.finish(old, "done", result={})
    await rig.store.finish(new, "failed", result={}, error="no")
    await rig.store.finish(new, "failed", result={}, error="no")  # the answer of the first may have been lost


async def test_unclaimed_operation_expires(rig: Rig) -> None:
    operation = await rig.store.request("restart", target="orders")
    await rig.db.sql("UPDATE operations SET created_at = now() - interval '1 hour'")
    assert await rig.store.expire(600.0) == 1
    found = await rig.store.get(operation.id)
    assert found is not None
    assert (found.state, found.error) == ("failed", "nobody took it up in time")


async def test_a_restart_is_taken_up_at_once_and_audited(rig: Rig, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "POLL_S", 600.0)  # a message wakes it, not the next look
    rig.start()
    operation = await rig.store.request("restart", target="orders", reason="tidy", requested_by="ann")

    async def is_taken() -> bool:
        await bus.publish(CHANNEL, {"id": str(operation.id)})  # again: the first may come before it listens
        return (await rig.store.list())[0].state != "queued"

    await until(is_taken)
    done = await rig.ended(operation)
    assert done.state == "done"
    assert rig.parts.restarted == ["orders"]
    assert parts_of(done) == [("orders", "done")]
    rows = await rig.db.sql(
        "SELECT child, event, reason FROM actor_events WHERE event = 'asked' ORDER BY id DESC LIMIT 1"
    )
    assert [tuple(row) for row in rows] == [("orders", "asked", "restart asked by ann: tidy")]


async def test_a_part_that_is_not_there_fails_with_the_names_of_those_that_are(rig: Rig) -> None:
    rig.start()
    done = await rig.ended(await rig.store.request("restart", target="nobody"))
    assert done.state == "failed"
    assert "no part is called nobody" in (done.error or "")
    assert "guardian" in (done.error or "")


async def test_a_deployment_goes_in_order_then_the_supervisor_then_the_gateway(rig: Rig) -> None:
    rig.parts.build = build_id()
    first = rig.start()
    operation = await rig.store.request("deploy", args={"build": build_id()})
    with pytest.raises(Dead):
        await first
    half = await rig.store.get(operation.id)
    assert half is not None
    assert rig.parts.restarted == list(IDS)
    assert parts_of(half)[-1] == ("supervisor", "running")
    assert rig.redeployed == []
    rig.start()  # Ray does it
    done = await rig.ended(operation)
    assert (done.state, done.error, done.attempt) == ("done", None, 2)
    assert [part for part, _ in parts_of(done)] == [*IDS, "supervisor", "gateway"]
    assert (len(rig.redeployed), rig.left) == (1, 1)
    assert rig.parts.restarted == list(IDS), "a step that was done is not done again"


async def test_operation_of_a_dead_supervisor_is_resumed_by_the_next(rig: Rig) -> None:
    rig.parts.build, rig.parts.dies_after = build_id(), "collector:binance"
    first = rig.start()
    operation = await rig.store.request("deploy", args={"build": build_id(), "only": None})
    with pytest.raises(Dead):
        await first
    second = rig.start()
    with pytest.raises(Dead):
        await second  # it ends itself when all children are done
    rig.start()
    assert (await rig.ended(operation)).state == "done"
    assert rig.parts.restarted == list(IDS), (
        "the child that had just been restarted has another pid: it is not restarted again"
    )


async def test_a_deployment_stops_at_the_first_part_that_does_not_come_back(rig: Rig) -> None:
    rig.parts.fails["collector:binance"] = OutageError("collector:binance is not back after 30 s")
    rig.start()
    done = await rig.ended(await rig.store.request("deploy", args={"build": "new"}))
    assert done.state == "failed"
    assert "collector:binance is not back" in (done.error or "")
    assert parts_of(done) == [("guardian", "done"), ("orders", "done"), ("collector:binance", "failed")]
    assert rig.parts.parts["strategy:0"] == RolloutPart("ready", 103, "old", 0, "n")
    assert rig.redeployed == []


async def test_gateway_has_longer_than_one_part_for_its_replicas_in_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "PART_S", 0.2)
    rig.redeploy_s = 0.5
    rig.start()
    done = await rig.ended(await rig.store.request("deploy", args={"build": "new", "only": "gateway"}))
    assert (done.state, done.error) == ("done", None)


async def test_part_that_returns_with_the_old_build_is_reported(rig: Rig) -> None:
    rig.parts.build = "old"
    rig.start()
    done = await rig.ended(await rig.store.request("deploy", args={"build": "new", "only": "orders"}))
    assert done.state == "failed"
    assert "orders came back as old, not as new" in (done.error or "")


async def test_a_part_that_was_ready_and_stays_degraded_stops_a_deployment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "SETTLE_S", 0.3)
    rig.parts.state_after["orders"] = "degraded"
    rig.start()
    done = await rig.ended(await rig.store.request("deploy", args={"build": "new"}))
    assert "orders is degraded" in (done.error or "")
    assert rig.parts.restarted == ["guardian", "orders"]
    # a restart alone ends well: the part answers, and says itself what it lacks
    assert (await rig.ended(await rig.store.request("restart", target="orders"))).state == "done"


async def test_a_part_that_is_well_for_a_moment_only_is_not_well(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "SETTLE_S", 1.5)
    monkeypatch.setattr(operations, "STEADY_S", 0.5)
    rig.start()
    operation = await rig.store.request("deploy", args={"build": "new", "only": "orders"})
    await until(lambda: rig.parts.restarted == ["orders"])
    rig.parts.parts["orders"] = replace(rig.parts.parts["orders"], state="degraded")
    done = await rig.ended(operation)
    assert (done.state, "orders is degraded" in (done.error or "")) == ("failed", True)


async def test_a_part_that_keeps_dying_ends_a_deployment_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "STEADY_S", 0.5)
    rig.start()
    operation = await rig.store.request("deploy", args={"build": "new", "only": "orders"})
    await until(lambda: rig.parts.restarted == ["orders"])
    for pid in (7, 8, 9, 10):
        rig.parts.parts["orders"] = replace(rig.parts.parts["orders"], pid=pid, state="starting")
        looks = rig.parts.looks
        await until(lambda looks=looks: rig.parts.looks > looks + 2 or len(rig.log.events("error")) > 0)
    done = await rig.ended(operation, deadline_s=5.0)
    assert "orders keeps dying after its restart" in (done.error or "")


async def test_settings_change_restarts_the_parts_it_concerns(rig: Rig) -> None:
    version, operation = await propose(
        rig.db,
        {"venue.sweep_s": 30.0},
        {"venue.sweep_s": {"from": None, "to": 30.0}},
        base_version=0,
        changed_by="ann",
        reason="calm",
    )
    rig.parts.config_version = lambda: version.version
    rig.start()
    assert (await rig.ended(operation)).state == "done"
    assert rig.parts.restarted == ["guardian", "orders"]
    found = await rig.versions.get(version.version)
    assert found is not None
    assert (found.state, found.changed_by, found.reason) == ("active", "ann", "calm")


async def test_a_change_that_does_not_take_is_rolled_back_by_itself(rig: Rig) -> None:
    old, operation = await propose(
        rig.db, {"venue.sweep_s": 30.0}, {"venue.sweep_s": {}}, base_version=0, changed_by="ann", reason="a"
    )
    rig.parts.config_version = lambda: old.version
    rig.start()
    await rig.ended(operation)
    bad, operation = await propose(
        rig.db, {"venue.sweep_s": 1.0}, {"venue.sweep_s": {}}, base_version=old.version, changed_by="bob", reason="b"
    )
    rig.parts.restarted.clear()
    tries: list[str] = []

    async def once(id: str, why: str) -> None:
        tries.append(id)
        if len(tries) == 2:
            raise OutageError("orders is not back after 30 s")
        rig.parts.config_version = (lambda: bad.version) if len(tries) == 1 else (lambda: old.version)
        await FakeParts.restart_child(rig.parts, id, why)

    rig.parts.restart_child = once  # type: ignore[method-assign]
    done = await rig.ended(operation)
    assert done.state == "failed"
    assert f"version {bad.version} of the settings did not take" in (done.error or "")
    assert f"version {old.version} is in force again" in (done.error or "")
    assert tries == ["guardian", "orders", "guardian", "orders"]
    wanted = await rig.versions.wanted()
    assert wanted is not None
    assert (wanted.version, wanted.state) == (old.version, "active")
    failed = await rig.versions.get(bad.version)
    assert failed is not None
    assert (failed.state, "orders is not back" in (failed.error or "")) == ("failed", True)
    pages = await rig.db.sql("SELECT event, severity FROM alerts")
    assert [tuple(row) for row in pages] == [("config.failed", "page")]
    # and the next change finds its base
    await propose(rig.db, {}, {"venue.sweep_s": {}}, base_version=old.version, changed_by="ann", reason="c")


async def test_second_of_two_concurrent_changes_is_refused(rig: Rig) -> None:
    async def change(who: str) -> object:
        return await propose(
            rig.db, {"venue.sweep_s": 9.0}, {"venue.sweep_s": {}}, base_version=0, changed_by=who, reason="r"
        )

    found = await asyncio.gather(change("ann"), change("bob"), return_exceptions=True)
    errors = [error for error in found if isinstance(error, InputError)]
    assert [(error.status, error.code) for error in errors] == [(409, "CONFIG_ROLLING")]
    version = next(item for item in found if isinstance(item, tuple))[0]
    await rig.versions.activate(version.version)
    with pytest.raises(InputError) as late:
        await change("carl")
    assert late.value.code == "CONFIG_CHANGED"
    assert len(await rig.versions.history()) == 1


async def test_an_unknown_kind_ends_as_a_failure_and_the_next_is_done(rig: Rig) -> None:
    rig.start()
    assert (await rig.ended(await rig.store.request("dance"))).state == "failed"
    assert (await rig.ended(await rig.store.request("restart", target="orders"))).state == "done"


async def test_unexpected_error_ends_its_operation_only(rig: Rig) -> None:
    rig.parts.fails["orders"] = OSError("too many open files")
    rig.start()
    done = await rig.ended(await rig.store.request("restart", target="orders"))
    assert (done.state, done.error) == ("failed", "OSError: too many open files")
    assert (await rig.ended(await rig.store.request("restart", target="guardian"))).state == "done"


async def test_settings_that_kill_supervisors_are_rolled_back(rig: Rig) -> None:
    changes = {"supervision.heartbeat_s": {"from": None, "to": 0.3}, "venue.sweep_s": {"from": None, "to": 9.0}}
    version, operation = await propose(
        rig.db, {"supervision.heartbeat_s": 0.3}, changes, base_version=0, changed_by="ann", reason="quick"
    )
    for _ in range(operations.ATTEMPTS_MAX):
        await (rig.store.claim() if _ == 0 else rig.store.take_up())
    rig.parts.parts["orders"] = replace(rig.parts.parts["orders"], config_version=version.version)
    rig.parts.versions = rig.versions
    rig.component.config_version = version.version  # what the supervisor runs with since it was started again
    first = rig.start()
    with pytest.raises(Dead):
        await first  # it goes back too
    rig.component.config_version = 0
    rig.start()
    done = await rig.ended(operation)
    assert done.state == "failed"
    assert "supervisors began it" in (done.error or "")
    assert await rig.versions.wanted() is None
    assert rig.parts.parts["orders"].config_version == 0
    await propose(
        rig.db, {"venue.sweep_s": 9.0}, {"venue.sweep_s": {}}, base_version=0, changed_by="ann", reason="again"
    )


async def test_a_child_that_is_switched_off_meanwhile_does_not_end_a_deployment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "APPEAR_S", 0.2)
    rig.parts.build = build_id()
    rig.parts.parts["strategy:solo:a"] = RolloutPart("ready", 200, "old", 0, "n")
    restart = rig.parts.restart_child

    async def restarted(id: str, why: str) -> None:
        rig.parts.parts.pop("strategy:solo:a", None)
        await restart(id, why)

    monkeypatch.setattr(rig.parts, "restart_child", restarted)
    first = rig.start()
    operation = await rig.store.request("deploy", args={"build": build_id()})
    with pytest.raises(Dead):
        await first
    rig.start()
    done = await rig.ended(operation)
    assert (done.state, done.error) == ("done", None)
    assert [part for part, _ in parts_of(done)] == [*IDS, "supervisor", "gateway"]


async def test_a_supervisor_that_does_not_know_every_child_yet_leaves_none_out(rig: Rig) -> None:
    rig.parts.build, rig.parts.dies_after = build_id(), "orders"
    first = rig.start()
    operation = await rig.store.request("deploy", args={"build": build_id()})
    with pytest.raises(Dead):
        await first
    late = rig.parts.parts.pop("scheduler")
    second = rig.start()
    await until(lambda: rig.parts.restarted[-1] == "strategy:0")
    rig.parts.parts["scheduler"] = late
    with pytest.raises(Dead):
        await second
    rig.start()
    assert (await rig.ended(operation)).state == "done"
    assert rig.parts.restarted == list(IDS)


async def test_nothing_is_changed_while_a_change_that_failed_is_rolled_back(rig: Rig) -> None:
    version, _ = await propose(
        rig.db, {"venue.sweep_s": 9.0}, {"venue.sweep_s": {}}, base_version=0, changed_by="ann", reason="r"
    )
    claimed = await rig.store.claim()
    assert claimed is not None
    await rig.versions.fail(version.version, "orders is not back")
    with pytest.raises(InputError) as found:
        await propose(
            rig.db, {"venue.sweep_s": 8.0}, {"venue.sweep_s": {}}, base_version=0, changed_by="bob", reason="r"
        )
    assert found.value.code == "CONFIG_ROLLING"
    await rig.store.finish(claimed, "failed", result={}, error="went back")
    await propose(rig.db, {"venue.sweep_s": 8.0}, {"venue.sweep_s": {}}, base_version=0, changed_by="bob", reason="r")


async def test_a_claim_whose_answer_is_lost_is_taken_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fetchrow, lost = UnresetConnection.fetchrow, []

    async def loses_its_answer(self: Any, query: str, *args: object, **options: Any) -> Any:
        row = await fetchrow(self, query, *args, **options)
        if query == sql("operations.claim") and row is not None and not lost:
            lost.append(row["id"])
            raise ConnectionResetError("the answer was on its way")
        return row

    monkeypatch.setattr(UnresetConnection, "fetchrow", loses_its_answer)
    operation = await rig.store.request("restart", target="orders")
    rig.start()
    assert (await rig.ended(operation)).state == "done"
    assert lost == [operation.id]
    assert rig.parts.restarted == ["orders"]
