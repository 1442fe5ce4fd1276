"""A standby head over a real database: it starts nothing, has the head's keys, and takes over when the head is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints
from fks.config.machine import Machine
from fks.config.paths import Paths
from fks.config.secrets import adopt_ray_token, ensure_secrets, load_secrets, sealed_keys
from fks.config.settings import DatabaseSettings, NodeSettings, Ray, Risk, Settings, Supervision
from fks.config.version import VERSION
from fks.model.errors import ConfigError
from fks.store.heads import HeadStore
from fks.store.nodes import NodeRow, NodeStore
from fks.system.node.build import open_site
from fks.system.node.cluster_driver import KeeperContext
from fks.system.node.head import AnotherHeadError, BeginAgainError
from fks.system.node.head_driver import HeadDriver
from fks.system.node.keeper import Keeper
from fks.system.node.presence import NodePresence
from fks.system.node.ray_node import head_address, ray_command
from fks.system.node.worker_driver import WorkerDriver
from tests.support.keepers import QUICK, pids_of, small, start_keeper
from tests.support.ports import CollectingLog
from tests.support.waiting import until

OTHER = Machine("0123456789abcdef", "boot-of-the-head")
ELSEWHERE = SecretStr("postgresql://elsewhere/fks")


def settings_of(paths: Paths, *, standby: bool = True, risk: Risk | None = None) -> Settings:
    return Settings(
        home=paths.home,
        node=NodeSettings(role="head", name="h1", address="10.9.9.2", standby=standby),
        database=DatabaseSettings(url=ELSEWHERE),
        supervision=Supervision(head_ttl_s=3.0),
        risk=risk or Risk(),
    )


def presence_of(paths: Paths, settings: Settings) -> NodePresence:
    return NodePresence(paths, settings, load_secrets(paths), "unix:///nowhere", RealClock())


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.of(tmp_path / "standby").ensure()
    ensure_secrets(paths)
    return paths


@pytest.fixture
def head_home(tmp_path: Path, paths: Paths) -> Paths:
    home = Paths.of(tmp_path / "head").ensure()
    ensure_secrets(home)
    adopt_ray_token(home, paths.ray_token_file)
    return home


class OtherHead:
    """The head of another machine, by its rows."""

    def __init__(self, database: Any, paths: Paths, home: Paths) -> None:
        self._database, self._store = database, HeadStore(database, 3.0)
        shown = presence_of(paths, settings_of(paths))
        self.detail = shown.facts | {
            "machine": OTHER.id,
            "boot": OTHER.boot,
            "keys": sealed_keys(load_secrets(home)),
            "session": "s1",
        }

    async def begin(self) -> None:
        claimed = await self._store.claim(OTHER, host="trader-1", home="/srv/fks", address="10.9.9.1", is_alone=False)
        assert claimed is not None
        await self.beat()

    async def beat(self, **changes: Any) -> None:
        row = NodeRow("h0", "head", "ready", address="10.9.9.1", version=VERSION, detail=self.detail | changes)
        await NodeStore(self._database).beat(row)

    async def stop(self) -> None:
        await self._store.release(OTHER)
        await NodeStore(self._database).leave("h0")


@asynccontextmanager
async def keeping(
    paths: Paths, url: str, settings: Settings | None = None
) -> AsyncIterator[tuple[Keeper, asyncio.Task[None], CollectingLog]]:
    settings, log = settings or settings_of(paths), CollectingLog()
    context = KeeperContext(
        paths,
        lambda: NodeEndpoints(url, "unix:///nowhere", "10.9.9.2:1", {"host": "127.0.0.1", "port": 1}),
        RealClock(),
        log,
    )
    driver = HeadDriver(context, settings, presence_of(paths, settings))
    keeper = Keeper(context, [small(paths, "a")], driver, timing=QUICK)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper, task, log
    finally:
        keeper.request_stop()
        await asyncio.wait([task], timeout=15.0)


async def rows_of(database: Any) -> dict[str, NodeRow]:
    return {row.name: row for row in await NodeStore(database).all()}


async def test_standby_starts_nothing_shows_itself_and_takes_over_when_the_head_is_silent(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    head = OtherHead(database, paths, head_home)
    await head.begin()
    async with keeping(paths, database_url) as (keeper, task, log):

        async def is_shown() -> bool:
            await head.beat()
            await HeadStore(database, 3.0).renew(OTHER)
            return "h1" in await rows_of(database)

        await until(is_shown)
        row = (await rows_of(database))["h1"]
        await database.sql("UPDATE heads SET beat_at = now() + interval '1 hour'")
        assert (row.role, row.detail["resources"], keeper.phase) == ("standby", {}, "standby")
        assert 0.0 <= row.detail["behind_s"] <= 3.0
        assert pids_of(paths, "a") == []
        assert load_secrets(paths).session_key == load_secrets(head_home).session_key, (
            "it can open what the head sealed"
        )
        document = await keeper.status()
        (own,) = [found for found in document["components"] if found["name"] == "keeper@h1"]
        assert own["state"] == "standby"
        await database.sql("UPDATE heads SET beat_at = now()")
        with pytest.raises(BeginAgainError):
            await asyncio.wait_for(task, 15.0)
        silent = await HeadStore(database, 3.0).holder()
        assert silent is not None
        assert silent.age_s > 3.0, "not before the head's lease was over"
        assert "head.takes_over" in log.events("warning")
    assert "h1" not in await rows_of(database)
    async with keeping(paths, database_url) as (keeper, task, _):
        await until(lambda: pids_of(paths, "a") or task.done())
        taken = await HeadStore(database, 3.0).holder()
        assert taken is not None
        assert (taken.address, taken.deployment) == ("10.9.9.2", 2), "an old supervisor can take no epoch any more"


async def test_standby_leaves_a_head_that_was_stopped_in_order_stopped(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    head = OtherHead(database, paths, head_home)
    await head.begin()
    async with keeping(paths, database_url) as (keeper, task, _):
        await until(lambda: keeper.phase == "standby")
        await head.stop()
        await database.sql("UPDATE heads SET beat_at = now() - interval '1 hour'")

        async def is_behind() -> bool:
            row = (await rows_of(database)).get("h1")
            return row is not None and row.detail["behind_s"] > 3000

        await until(is_behind)
        assert not task.done()
    assert task.done()
    assert task.exception() is None, "a standby that is stopped ends in order"
    async with keeping(paths, database_url, settings_of(paths, standby=False)) as (_, task, _):
        await until(lambda: pids_of(paths, "a") or task.done())  # a person starts it without --standby: it trades


async def test_standby_ends_with_its_cluster(database: Any, database_url: str, paths: Paths, head_home: Paths) -> None:
    head = OtherHead(database, paths, head_home)
    await head.begin()
    async with keeping(paths, database_url) as (keeper, task, _):
        await until(lambda: keeper.phase == "standby")
        await head.beat(ends=True)
        await asyncio.wait_for(task, 10.0)
    assert "h1" not in await rows_of(database)


async def test_standby_with_other_settings_is_refused(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    head = OtherHead(database, paths, head_home)
    await head.begin()
    odd = settings_of(paths, risk=Risk(notional_max_order=1))
    async with keeping(paths, database_url, odd) as (_, task, _):
        with pytest.raises(ConfigError, match=r"differs from the head h0 in risk\.notional_max_order"):
            await asyncio.wait_for(task, 10.0)


async def test_head_without_standby_is_refused_and_the_answer_names_it(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    await OtherHead(database, paths, head_home).begin()
    async with keeping(paths, database_url, settings_of(paths, standby=False)) as (_, task, _):
        with pytest.raises(AnotherHeadError, match="--standby"):
            await asyncio.wait_for(task, 10.0)


async def test_superseded_head_with_standby_begins_again(
    database: Any, database_url: str, paths: Paths, head_home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: HeadDriver, *_: Any) -> None: ...

    for name in ("prepare", "deploy", "stop"):
        monkeypatch.setattr(HeadDriver, name, nothing)
    async with keeping(paths, database_url) as (keeper, task, _):
        await until(lambda: keeper.phase == "ready" or task.done())
        await database.sql("UPDATE heads SET machine = $1, boot = $2", OTHER.id, OTHER.boot)
        with pytest.raises(BeginAgainError):
            await asyncio.wait_for(task, 10.0)
        (pid,) = pids_of(paths, "a")
        assert not psutil.pid_exists(pid), "what it ran is down before it stands by"


async def test_what_an_earlier_keeper_left_is_ended_before_its_machine_stands_by(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    earlier = await asyncio.to_thread(start_keeper, paths, "a")
    earlier.kill()
    await asyncio.to_thread(earlier.wait)
    (pid,) = pids_of(paths, "a")
    assert psutil.pid_exists(pid)
    await OtherHead(database, paths, head_home).begin()
    async with keeping(paths, database_url) as (keeper, task, _):
        with pytest.raises(BeginAgainError):
            await asyncio.wait_for(task, 15.0)
        assert "standby" not in {step["state"] for step in keeper.steps}, "it waited with a tree beside the head's"
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it would trade on"


def test_standby_without_a_database_on_another_machine_is_refused(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROLE", "head"), ("STANDBY", "true"), ("ADDRESS", "10.9.9.2")):
        monkeypatch.setenv(f"FKS_NODE_{name}", value)
    with pytest.raises(ConfigError, match=r"a standby needs database\.url, redis\.url"):
        open_site(paths)


async def test_worker_goes_to_the_next_head_by_its_row(
    database: Any, database_url: str, paths: Paths, head_home: Paths
) -> None:
    settings = Settings(
        home=paths.home,
        node=NodeSettings(role="worker", name="w1", address="10.9.9.3"),
        ray=Ray(address="10.9.9.1:1"),
        supervision=Supervision(head_ttl_s=3.0),
    )
    assert head_address(paths, settings) == "10.9.9.1:1", "as set, until a head says it"
    log = CollectingLog()
    context = KeeperContext(
        paths,
        lambda: NodeEndpoints(database_url, "unix:///nowhere", "", {"host": "127.0.0.1", "port": 1}),
        RealClock(),
        log,
    )
    keeper = Keeper(
        context,
        [small(paths, "ray", is_group=True)],
        WorkerDriver(context, settings, presence_of(paths, settings)),
        timing=QUICK,
    )
    head = OtherHead(database, paths, head_home)
    await head.beat(gcs_port=6379)
    task = asyncio.create_task(keeper.run())
    try:
        await until(lambda: keeper.phase == "ready")
        assert "--address=10.9.9.1:6379" in ray_command(paths, settings)
        next_head = NodeRow(
            "h1",
            "head",
            "ready",
            address="10.9.9.2",
            version=VERSION,
            detail=head.detail | {"gcs_port": 6380, "session": "s2"},
        )
        await database.sql("DELETE FROM nodes WHERE name = 'h0'")

        async def follows() -> bool:
            await NodeStore(database).beat(next_head)
            return head_address(paths, settings) == "10.9.9.2:6380"

        await until(follows)
    finally:
        keeper.request_stop()
        await asyncio.wait_for(task, 15.0)
    assert head_address(paths, settings) == "10.9.9.1:1", "a worker that left starts as it was set"
