"""The actor of a link: from settings and secret file to a session, woken over Redis, drained in order."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.ninja import NinjaActor
from fks.bridge.ninja_link.secret_file import SecretError, load_secret
from fks.clock import RealClock
from fks.clock.waiting import end_task
from fks.config.paths import Paths
from fks.config.settings import Ninja, NinjaGroup, Settings
from fks.model.errors import ConfigError
from fks.model.ninja import NinjaRequest, RequestKind, RequestState
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore, events_topic, requests_topic
from tests.support.ninja import SECRET, ack, put_secret
from tests.support.ninja_link import BODY
from tests.support.ninja_server import ScriptedBridge
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

GROUP = "actor-test"  # Redis is shared with other tests: a name of its own


async def component(db: Database, bus: Bus, home: Path, groups: dict[str, NinjaGroup]) -> Any:
    lease = TestLease(f"ninja:{GROUP}", await raise_epoch(db, f"ninja:{GROUP}", "test"))
    return SimpleNamespace(
        db=db, bus=bus, clock=RealClock(), log=CollectingLog(), meter=RecordingMeter(), paths=Paths.of(home),
        settings=Settings(ninja=Ninja(groups=groups)), lease=lease, name=lease.name,
    )  # fmt: skip


async def test_a_request_is_sent_when_redis_wakes_the_actor_and_readers_are_woken(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    put_secret(tmp_path / "ninja.key")
    async with ScriptedBridge(answers={f"s{n}": ack(f"s{n}") for n in range(5)}) as bridge:
        actor = NinjaActor(
            await component(database, bus, tmp_path, {GROUP: NinjaGroup(port=bridge.port, timeout_s=2.0)}), (GROUP,)
        )
        await actor.start()
        assert actor.is_ready
        running = asyncio.create_task(actor.run())
        woken: list[Any] = []

        async def listen() -> None:
            async for _, payload in bus.subscribe(events_topic(GROUP)):
                woken.append(payload)

        listening = asyncio.create_task(listen())
        await until(lambda: actor.detail()["can_trade"])
        store = NinjaStore(database)
        for n in range(5):
            now_ns = time.time_ns()
            await store.ask(NinjaRequest(f"s{n}", GROUP, RequestKind.SIGNAL, BODY, "test", now_ns + 30 * 10**9), now_ns)
            await bus.publish(requests_topic(GROUP), {"id": f"s{n}"})
            await until(lambda n=n: len(bridge.lines("signal")) == n + 1, every_s=0.005)  # type: ignore[misc]
        await until(lambda: bool(woken))
        await actor.drain()
        await until(lambda: bridge.received[-1]["t"] == "bye")
        rows = [await store.answer_of(f"s{n}") for n in range(5)]
        assert {row.state for row in rows if row is not None} == {RequestState.ACKED}
        for task in (running, listening):
            await end_task(task)
        await actor.stop()
        assert actor.problems() == []
        assert actor.detail()["state"] == "STOPPED"


async def test_without_a_group_the_actor_does_not_start(database: Database, bus: Bus, tmp_path: Path) -> None:
    actor = NinjaActor(await component(database, bus, tmp_path, {}), (GROUP,))
    with pytest.raises(ConfigError, match=r"\[ninja\.groups\.actor-test\]"):
        await actor.start()
    assert not actor.is_ready
    assert actor.detail() == {"group": GROUP}


async def test_without_a_usable_secret_the_actor_waits_degraded_and_goes_on(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    file, store = tmp_path / "ninja.key", NinjaStore(database)
    async with ScriptedBridge() as bridge:
        actor = NinjaActor(
            await component(database, bus, tmp_path, {GROUP: NinjaGroup(port=bridge.port, timeout_s=2.0)}), (GROUP,)
        )
        await actor.start()
        running = asyncio.create_task(actor.run())

        async def waits(code: str, remedy: str) -> None:
            async def is_shown() -> bool:
                link = await store.link(GROUP)
                return link is not None and link.report.alarm.startswith(f"{code}:") and remedy in link.report.alarm

            await until(is_shown)
            assert not actor.is_ready
            assert [(found.name, found.about) for found in actor.problems()] == [("ninja_secret", GROUP)]
            assert actor.problems()[0].detail == actor.detail()["alarm"]
            assert remedy in actor.problems()[0].detail

        await waits("secret_missing", "copy secret.key")
        put_secret(file, b"short")
        await waits("secret_invalid", "openssl rand -hex 32")
        file.chmod(0o644)
        await waits("secret_open", "chmod 600")
        file.write_bytes(SECRET)
        assert bridge.connections == 0
        pages = await database.sql("SELECT event, payload FROM alerts WHERE severity = 'page' ORDER BY id")
        assert [row["event"] for row in pages] == ["ninja.secret_unusable"] * 3
        file.chmod(0o600)
        await until(lambda: actor.detail().get("can_trade"))
        assert actor.is_ready
        assert actor.problems() == []
        await actor.drain()
        await end_task(running)


async def test_a_secret_that_may_not_be_read_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SecretError) as found:
        load_secret(str(tmp_path / "folder"), tmp_path, "127.0.0.1")
    assert found.value.code == "secret_unreadable"
