"""The actor of a link: from settings and secret file to a session, woken over Redis, drained in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.ninja import NinjaActor
from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import Ninja, NinjaGroup, Settings
from fks.model.errors import ConfigError
from fks.model.ninja import NinjaRequest, RequestKind, RequestState
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import raise_epoch
from fks.store.ninja import NinjaStore, events_topic, requests_topic
from tests.support.ninja import SECRET, ack
from tests.support.ninja_link import BODY
from tests.support.ninja_server import ScriptedBridge
from tests.support.order_rig import TestLease
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

GROUP = "actor-test"  # Redis is shared with other tests: a name of its own


async def component(db: Database, bus: Bus, home: Path, groups: dict[str, NinjaGroup]) -> Any:
    lease = TestLease(f"ninja:{GROUP}", await raise_epoch(db, f"ninja:{GROUP}", "test"))
    return SimpleNamespace(
        db=db, bus=bus, clock=RealClock(), log=CollectingLog(), meter=RecordingMeter(), paths=Paths.of(home),
        settings=Settings(ninja=Ninja(groups=groups)), lease=lease,
    )  # fmt: skip


async def test_a_request_is_sent_when_redis_wakes_the_actor_and_readers_are_woken(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    (tmp_path / "ninja.key").write_bytes(SECRET)
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
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await actor.stop()
        assert actor.problems() == []
        assert actor.detail()["state"] == "STOPPED"


async def test_without_a_secret_or_a_group_the_actor_does_not_start(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"ninja\.key"):
        await NinjaActor(await component(database, bus, tmp_path, {GROUP: NinjaGroup()}), (GROUP,)).start()
    (tmp_path / "ninja.key").write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        await NinjaActor(await component(database, bus, tmp_path, {GROUP: NinjaGroup()}), (GROUP,)).start()
    actor = NinjaActor(await component(database, bus, tmp_path, {}), (GROUP,))
    with pytest.raises(ConfigError, match=r"\[ninja\.groups\.actor-test\]"):
        await actor.start()
    assert not actor.is_ready
    assert actor.detail() == {"group": GROUP}
