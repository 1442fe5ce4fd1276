"""A worker's keeper over a real database and a small process instead of Ray: it waits, checks, joins and leaves."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fks.clock import RealClock
from fks.config import builds
from fks.config.endpoints import NodeEndpoints as Endpoints
from fks.config.machine import host_name, machine_of
from fks.config.paths import Paths
from fks.config.secrets import adopt_ray_token, ensure_secrets, load_secrets, sealed_keys
from fks.config.settings import NodeSettings, Ray, Risk, Settings
from fks.config.version import VERSION
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.model.errors import ConfigError, FksError
from fks.store.nodes import NodeRow, NodeStore
from fks.store.tokens import LOCAL
from fks.system.node import boot
from fks.system.node.cluster_driver import KeeperContext
from fks.system.node.control_socket import ask
from fks.system.node.head import OtherBuildError
from fks.system.node.head_driver import HeadDriver
from fks.system.node.keeper import Keeper, sweep
from fks.system.node.presence import NodePresence
from fks.system.node.worker_driver import WorkerDriver
from tests.support.keepers import QUICK, pids_of, small
from tests.support.ports import CollectingLog
from tests.support.waiting import until

WORKER = NodeSettings(role="worker", name="w1", address="10.9.9.2")


@pytest.fixture
def paths(tmp_path):
    paths = Paths.of(tmp_path / "home").ensure()
    ensure_secrets(paths)
    yield paths
    asyncio.run(sweep(paths, [small(paths, "ray", is_group=True)]))


def presence_of(paths, settings):
    return NodePresence(paths, settings, load_secrets(paths), "unix:///nowhere", RealClock())


async def beats_on(database, row):
    """Write the row of a machine that goes on beating."""
    await NodeStore(database).beat(row)
    await database.sql("UPDATE nodes SET beat_at = now() + interval '1 hour' WHERE name = $1", row.name)


async def head_beats(database, paths, settings=None, version=VERSION, **changes):
    """Write the row of a head whose settings are these, and which goes on beating."""
    chosen = presence_of(paths, settings or Settings(home=paths.home, node=NodeSettings(role="head", name="h")))
    detail = {**chosen.facts, "home": "/elsewhere", "machine": "the head's", "session": "s1"} | changes
    row = NodeRow(chosen.name, "head", "ready", address="10.9.9.1", version=version, detail=detail)
    await beats_on(database, row)
    return row


@asynccontextmanager
async def working(paths, url, settings=None):
    settings = settings or Settings(home=paths.home, node=WORKER, ray=Ray(address="10.9.9.1:1"))
    log = CollectingLog()
    node = lambda: Endpoints(url, "unix:///nowhere", "10.9.9.1:1", {"host": "127.0.0.1", "port": 1})  # noqa: E731
    context = KeeperContext(paths, node, RealClock(), log)
    driver = WorkerDriver(context, settings, presence_of(paths, settings))
    keeper = Keeper(context, [small(paths, "ray", is_group=True)], driver, timing=QUICK)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper, driver, task
    finally:
        keeper.request_stop()
        if not task.done():
            await asyncio.wait_for(task, 15.0)


async def names(database):
    return [row.name for row in await NodeStore(database).all()]


async def test_worker_waits_for_the_head_joins_and_leaves_no_row(database, database_url, paths):
    async with working(paths, database_url) as (keeper, driver, _):
        await until(lambda: driver.waits_for)
        assert pids_of(paths, "ray") == []  # no raylet without a head that agrees
        document = await keeper.status()
        (own,) = [row for row in document["components"] if row["name"] == "keeper@w1"]
        assert own["state"] == "waiting"
        assert "the head's keeper" in own["detail"]["detail"]
        await head_beats(database, paths)
        await until(lambda: keeper.phase == "ready")

        async def is_written():
            return "w1" in await names(database)

        await until(is_written)
        (row,) = [row for row in await NodeStore(database).all() if row.name == "w1"]
        assert (row.role, row.address, row.is_alive) == ("worker", "10.9.9.2", True)
        assert abs(row.clock_skew_ms) < row.detail["clock_error_ms"] + 5.0
        components = await database.sql("SELECT name FROM component_health ORDER BY name")
        assert [found["name"] for found in components] == ["keeper@w1", "ray@w1"]
    assert await names(database) == ["h"]
    assert await database.sql("SELECT name FROM component_health WHERE name LIKE '%@w1'") == []


async def test_worker_takes_the_heads_session_key_over_and_makes_its_command_line_known(
    database, database_url, paths, tmp_path
):
    home = Paths.of(tmp_path / "head")
    ensure_secrets(home)
    adopt_ray_token(home, paths.ray_token_file)
    first = sealed_keys(load_secrets(home))
    await head_beats(database, paths, keys=first)
    async with working(paths, database_url) as (keeper, _, _):
        await until(lambda: keeper.phase == "ready")
        assert load_secrets(paths).session_key == load_secrets(home).session_key
        rows = await database.sql("SELECT scope FROM api_tokens WHERE name = $1", f"{LOCAL}@w1")
        assert [row["scope"] for row in rows] == ["admin"]
        ensure_secrets(home, rotate=True)  # a new head, with the token that both have
        adopt_ray_token(home, paths.ray_token_file)
        assert load_secrets(paths).session_key != load_secrets(home).session_key
        await head_beats(database, paths, keys=sealed_keys(load_secrets(home)))
        await until(lambda: load_secrets(paths).session_key == load_secrets(home).session_key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray": "2.61.0"}, "has ray .* the head h has 2.61.0"),
        ({"python": "3.12.1"}, "the head h has 3.12.1"),
    ],
)
async def test_head_with_another_ray_or_python_is_refused(database, database_url, paths, changes, message):
    await head_beats(database, paths, **changes)
    async with working(paths, database_url) as (_, _, task):
        with pytest.raises(ConfigError, match=message):
            await asyncio.wait_for(task, 10.0)


async def test_head_with_other_settings_is_refused_with_their_keys(database, database_url, paths):
    other = Settings(home=paths.home, node=NodeSettings(role="head", name="h"), risk=Risk(notional_max_order=1))
    await head_beats(database, paths, other)
    async with working(paths, database_url) as (_, _, task):
        with pytest.raises(ConfigError, match=r"w1 differs from the head h in risk\.notional_max_order"):
            await asyncio.wait_for(task, 10.0)


async def test_row_of_a_build_without_machine_ids_is_waited_for(database, database_url, paths):
    """A keeper that is upgraded within five seconds of its last beat finds that beat under its name."""
    head = await head_beats(database, paths)
    before = {name: value for name, value in head.detail.items() if name not in ("machine", "boot")}
    await beats_on(database, replace(head, name="w1", role="worker", address="10.9.9.2", detail=before))
    async with working(paths, database_url) as (keeper, driver, task):
        await until(lambda: "earlier build" in driver.waits_for)
        assert not task.done()
        await database.sql("UPDATE nodes SET beat_at = now() - interval '6 s' WHERE name = 'w1'")
        await until(lambda: keeper.phase == "ready")


async def test_worker_ends_with_a_head_that_ends_the_whole_cluster(database, database_url, paths, monkeypatch):
    removed = []
    monkeypatch.setattr(boot, "remove", removed.append)
    await head_beats(database, paths)
    async with working(paths, database_url) as (keeper, _, task):
        await until(lambda: keeper.phase == "ready")
        await head_beats(database, paths, ends=True)
        await asyncio.wait_for(task, 15.0)
    assert await names(database) == ["h"]
    assert removed == [paths], "it would come back at the next boot"


async def test_head_that_ends_the_cluster_waits_for_its_workers(database, database_url, paths):
    settings = Settings(home=paths.home, node=NodeSettings(role="head", name="h"))
    node = lambda: Endpoints(database_url, "unix:///nowhere", "", {"host": "127.0.0.1", "port": 1})  # noqa: E731
    context = KeeperContext(paths, node, RealClock(), CollectingLog())
    driver = HeadDriver(context, settings, presence_of(paths, settings))
    await beats_on(database, NodeRow("w1", "worker", "ready"))
    ending = asyncio.create_task(driver.end_workers(list))
    try:

        async def is_notified():
            return any(row.detail.get("ends") for row in await NodeStore(database).all())

        await until(is_notified)
        assert not ending.done()
        await NodeStore(database).leave("w1")
        await asyncio.wait_for(ending, 5.0)
    finally:
        await driver.close()
    assert await names(database) == [], "the next head must not read that it ends"


async def test_node_name_in_use_elsewhere_is_refused_and_our_own_is_not(database, database_url, paths):
    head = await head_beats(database, paths)
    await beats_on(database, replace(head, name="w1", role="worker", address="10.9.9.7"))
    async with working(paths, database_url) as (_, _, task):
        with pytest.raises(ConfigError, match=r"the name w1 belongs to a worker at 10\.9\.9\.7"):
            await asyncio.wait_for(task, 10.0)
    clone = {**head.detail, "home": str(paths.home), "host": host_name(), "machine": machine_of(paths).id, "boot": "x"}
    await beats_on(database, replace(head, name="w1", role="worker", address="10.9.9.8", detail=clone))
    async with working(paths, database_url) as (_, _, task):
        with pytest.raises(ConfigError, match=r"the name w1 belongs to a worker at 10\.9\.9\.8"):
            await asyncio.wait_for(task, 10.0)  # its host name, its paths and its id file, but another boot
    ours = {**head.detail, "machine": machine_of(paths).id, "boot": machine_of(paths).boot}
    await beats_on(database, replace(head, name="w1", role="worker", detail=ours))
    async with working(paths, database_url) as (keeper, _, _):
        await until(lambda: keeper.phase == "ready")  # our predecessor, killed a moment ago


async def test_raylet_of_an_older_cluster_joins_the_new_one(database, database_url, paths, monkeypatch):
    monkeypatch.setattr("fks.system.node.worker_driver.OTHER_SESSION_BEATS", 1)
    monkeypatch.setattr("fks.system.node.presence.raylet_facts", lambda pid: ("id", "s1"))
    await head_beats(database, paths)
    async with working(paths, database_url) as (keeper, _, _):
        await until(lambda: keeper.phase == "ready")
        old = keeper.services["ray"].process.pid
        await head_beats(database, paths, session="s2")
        await until(lambda: keeper.services["ray"].is_ready and keeper.services["ray"].process.pid != old)


async def test_dead_raylet_is_restarted_while_the_head_is_silent(database, database_url, paths):
    await head_beats(database, paths)
    async with working(paths, database_url) as (keeper, _, _):
        await until(lambda: keeper.phase == "ready")
        old = pids_of(paths, "ray")[0]
        await database.sql("UPDATE nodes SET beat_at = now() - interval '1 minute' WHERE name = 'h'")
        os.kill(old, signal.SIGKILL)
        await until(lambda: keeper.services["ray"].is_ready and keeper.services["ray"].process.pid != old)
        sql = "SELECT event FROM actor_events WHERE child = 'ray@w1' AND event IN ('exited', 'restarted') ORDER BY id"

        async def is_noted():
            return [row["event"] for row in await database.sql(sql)] == ["exited", "restarted"]

        await until(is_noted)
        for name in ("ray@h", "ray@w2"):  # of other machines
            with pytest.raises(FksError, match="no service"):
                await asyncio.to_thread(ask, paths.keeper_socket, "restart-service", name=name)
        old = pids_of(paths, "ray")[0]
        await asyncio.to_thread(ask, paths.keeper_socket, "restart-service", name="raylet@w1")
        await until(lambda: keeper.services["ray"].is_ready and keeper.services["ray"].process.pid != old)


def test_cluster_token_is_adopted_and_a_weak_or_readable_one_refused(paths, tmp_path):
    token = "x1y2z3w4" * 6
    file = tmp_path / "token"
    file.write_text(token + "\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        adopt_ray_token(paths, file)
    file.chmod(0o600)
    adopt_ray_token(paths, file)
    assert ensure_secrets(paths).made == ()
    assert load_secrets(paths).ray_token.get_secret_value() == token == paths.ray_token_file.read_text()
    file.write_text("changeme")
    with pytest.raises(ConfigError, match="characters"):
        adopt_ray_token(paths, file)


def test_worker_without_stores_or_token_or_with_half_an_address_is_refused(tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("FKS_")]:
        monkeypatch.delenv(name)
    for name in (
        "FKS_HOME",
        "FKS_NODE_ROLE",
        "FKS_NODE_ADDRESS",
        "FKS_RAY_ADDRESS",
        "FKS_SIM_ENABLED",
        "FKS_SUPERVISION_PLACEMENT",
    ):
        monkeypatch.setenv(name, "")  # put back afterwards: the command sets them for its children
    monkeypatch.setenv("HOME", str(tmp_path))
    worker = ["--home", str(tmp_path / "home"), "node", "worker"]
    assert run(cli, [*worker, "--node-ip", "127.0.0.3"]) == 2
    assert "token is not at" in capsys.readouterr().err, "its head is found by the database"
    assert run(cli, [*worker, "--address", "127.0.0.2"]) == 2
    assert "is not HOST:PORT" in capsys.readouterr().err
    assert run(cli, [*worker, "--address", "127.0.0.2:1"]) == 2
    assert "token is not at" in capsys.readouterr().err
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("x1y2z3w4" * 6)
    assert run(cli, [*worker, "--address", "127.0.0.2:1", "--token-file", str(token)]) == 2
    assert "a worker needs database.url, redis.url" in capsys.readouterr().err
    for name, value in (("LIVE", "true"), ("API_KEY", "k" * 64), ("API_SECRET", "s" * 64)):
        monkeypatch.setenv(f"FKS_VENUE_{name}", value)
    monkeypatch.delenv("FKS_SIM_ENABLED")  # the command has set it: its own default is no local exchange
    assert run(cli, [*worker, "--address", "127.0.0.2:1"]) == 2
    assert "a worker needs database.url, redis.url" in capsys.readouterr().err


async def test_row_of_an_earlier_head_is_ignored(database, database_url, paths, monkeypatch):
    monkeypatch.setattr("fks.system.node.worker_driver.OTHER_SESSION_BEATS", 1)
    monkeypatch.setattr("fks.system.node.presence.raylet_facts", lambda pid: ("id", "s1"))
    head = await head_beats(database, paths)
    await NodeStore(database).beat(replace(head, name="a", detail=head.detail | {"session": "s0"}))
    await database.sql("UPDATE nodes SET beat_at = beat_at - interval '1 hour' WHERE name = 'a'")
    async with working(paths, database_url) as (keeper, driver, _):
        await until(lambda: keeper.phase == "ready")
        old, beats = keeper.services["ray"].process.pid, []
        beat = driver.beat

        async def counted(statuses):
            found = await beat(statuses)
            beats.append(found)
            return found

        monkeypatch.setattr(driver, "beat", counted)
        await until(lambda: len(beats) >= 3)
        assert driver.waits_for == ""
        assert (keeper.services["ray"].process.pid, keeper.services["ray"].restarts) == (old, 0)


async def test_worker_of_another_build_is_refused(database, database_url, paths):
    await head_beats(database, paths, version="0.1.0+00000000")
    async with working(paths, database_url) as (_, _, task):
        with pytest.raises(ConfigError, match=r"w1 has FKS .*, the head h has 0\.1\.0\+00000000; install the head's"):
            await asyncio.wait_for(task, 15.0)


async def test_worker_of_the_build_that_its_head_deployed_is_let_in(database, database_url, paths):
    await head_beats(database, paths, version="0.1.0+00000000", installed=VERSION)  # `fks deploy` leaves the keeper
    async with working(paths, database_url) as (keeper, _, _):
        await until(lambda: keeper.phase == "ready")


async def test_worker_goes_over_to_its_heads_build_and_leaves_what_runs(database, database_url, paths, monkeypatch):
    await head_beats(database, paths)
    async with working(paths, database_url) as (keeper, _, task):
        await until(lambda: keeper.phase == "ready")
        (pid,) = pids_of(paths, "ray")
        other = paths.home / "builds" / "other"
        monkeypatch.setattr(builds, "find", lambda id: other if id == "0.1.0+00000000" else None)
        await head_beats(database, paths, version="0.1.0+00000000")
        with pytest.raises(OtherBuildError) as found:
            await asyncio.wait_for(task, 15.0)
        assert found.value.build == other
        assert pids_of(paths, "ray") == [pid]
    async with working(paths, database_url) as (keeper, _, _):  # it came back as it was: once per build
        await until(lambda: keeper.phase == "ready")
        assert pids_of(paths, "ray") == [pid]
