"""The keeper over the real PostgreSQL, Redis and local exchange; only Ray is left out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from itertools import count
from socket import create_server

import asyncpg
import pytest

from fks.clock import RealClock
from fks.config.endpoints import load_node, resolve_ports
from fks.config.paths import Paths
from fks.config.settings import Settings, Supervision
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import run
from fks.interfaces.cli.checkup import examine
from fks.interfaces.cli.status import find_status
from fks.store.db import Database
from fks.store.nodes import NodeStore
from fks.system.alerts.channels import Sealer
from fks.system.alerts.directory import Directory
from fks.system.node.build import check_host, open_site
from fks.system.node.cluster_driver import KeeperContext
from fks.system.node.control_socket import ask
from fks.system.node.head_driver import HeadDriver
from fks.system.node.keeper import Keeper
from fks.system.node.lock import keeper_lock
from fks.system.node.presence import NodePresence
from fks.system.node.spec import ServiceTiming
from fks.system.process.handle import start_mark
from tests.support.ports import CollectingLog
from tests.support.receivers import http_receiver
from tests.support.small_disk import small_disk
from tests.support.waiting import until

REAL = ServiceTiming(
    Supervision(backoff_first_s=0.05), probe_s=0.1
)  # real services on a busy machine answer when they can


class DriverWithoutRay(HeadDriver):
    """Everything of the head's driver but what needs Ray."""

    async def deploy(self) -> None: ...
    async def stop(self) -> None: ...


@asynccontextmanager
async def running(home, timing=REAL):
    paths = check_host(home)
    with keeper_lock(paths.run / "keeper.lock"):
        site = open_site(paths)
        specs = [spec for spec in site.specs() if spec.name != "ray"]
        presence = NodePresence(paths, site.settings, site.secrets, site.node().redis_url, RealClock())
        key = site.secrets.session_key
        context = KeeperContext(paths, site.node, RealClock(), CollectingLog(), site.redactor, session_key=key)
        keeper = Keeper(context, specs, DriverWithoutRay(context, site.settings, presence), timing=timing)
        task = asyncio.create_task(keeper.run())
        try:
            await until(lambda: keeper.phase == "ready" or task.done(), deadline_s=60.0)
            yield keeper
        finally:
            keeper.request_stop()
            await asyncio.wait_for(task, 20.0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in [name for name in os.environ if name.startswith("FKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FKS_HOME", str(home))
    monkeypatch.setenv("FKS_HTTP_PORT", "0")
    monkeypatch.setenv("FKS_RAY_DASHBOARD_PORT", "0")
    return home


async def test_services_are_back_after_a_full_disk_and_commits_are_there(home):
    with small_disk(home, size_mb=700) as disk:
        async with running(home) as keeper:
            url = load_node(Paths.of(home)).database_url
            link = await asyncpg.connect(url)
            await link.execute("CREATE TABLE kept (n int, text text STORAGE EXTERNAL)")
            disk.keep_full()
            committed = 0
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                while True:  # until its log or the table finds no space
                    await link.execute("INSERT INTO kept VALUES ($1, repeat('x', 1000000))", committed + 1)
                    committed += 1
            postgres, sim = keeper.services["postgres"], keeper.services["sim"]
            sim_pid = sim.process.pid
            if postgres.process is not None:
                os.kill(postgres.process.pid, signal.SIGKILL)
            # it may come back on the full disk: what is left of its log's segment can be enough
            await until(lambda: postgres.failures > 0 or postgres.restarts > 0, deadline_s=30.0)
            assert keeper.phase == "ready"
            assert "the disk of FKS_HOME is full" in str(await keeper.status())
            disk.free()
            await until(lambda: postgres.is_ready and sim.is_ready, deadline_s=30.0)
            assert sim.process.pid == sim_pid, "the local exchange survives"
            link = await asyncpg.connect(url)
            assert await link.fetchval("SELECT count(*) FROM kept") in (committed, committed + 1)
            await link.close()


async def test_every_service_is_restarted_and_the_journal_is_whole(home, capsys):
    async with running(home) as keeper:
        paths = Paths.of(home)
        node = load_node(paths)
        assert paths.node_file.stat().st_mode & 0o777 == 0o600
        assert set(node.sim) >= {"rest", "ws", "ws_api", "api_key", "api_secret", "pid", "port"}
        db = await Database.connect(node.database_url)
        await until(lambda: rows_of(db, "postgres"))
        for name in ("redis", "sim", "postgres"):
            service = keeper.services[name]
            old = service.process.pid
            os.kill(old, signal.SIGKILL)
            await until(lambda s=service, o=old: s.is_ready and s.process.pid != o, deadline_s=30.0)
            assert service.restarts == 1
        pids = {name: service.process.pid for name, service in keeper.services.items()}
        assert load_node(paths).sim["pid"] == pids["sim"]
        await until(lambda: beats_as(db, pids))
        await until(lambda: is_ready(db))
        own = await until(lambda: living(db))  # PostgreSQL was away, and the node's last beat may be from before
        assert own.role == "single"
        assert abs(own.clock_skew_ms) < own.detail["clock_error_ms"] + 5.0
        assert await db.sql("SELECT 1 FROM api_tokens WHERE name = 'cli'")
        assert await db.sql("SELECT 1 FROM strategy_instances LIMIT 1")
        await db.close()
        await check_status_while_it_runs(paths, pids, capsys)
    assert not any(start_mark(pid) for pid in pids.values())
    assert not paths.sockets.exists()
    assert not paths.node_file.exists()
    assert sorted(path.name for path in paths.run.iterdir()) == ["keeper.lock"]


def loops(escalated_retry_s):
    backoff = {"restarts_max": 2, "backoff_first_s": 0.05}
    return ServiceTiming(Supervision(**backoff, escalated_retry_s=escalated_retry_s), probe_s=0.1)


async def keep_killing(keeper, name):
    """Kill each process of a service until it has escalated; return the last one's pid."""
    service, pid = keeper.services[name], 0
    while service.state != "failed":
        if service.process is not None and service.process.pid != pid:
            pid = service.process.pid
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.01)
    return pid


async def history_of(db, name):
    """Return the events of a service but its starts: it may be killed before or after it answers."""
    rows = await db.sql("SELECT event, payload FROM actor_events WHERE child = $1 ORDER BY id", name)
    return [(row["event"], row["payload"].get("signal")) for row in rows if row["event"] != "started"]


async def escalation_of(db, name):
    rows = await db.sql("SELECT detail->>'escalation' AS why FROM component_health WHERE name = $1", name)
    return (rows[0]["why"] or "") if rows else ""


async def test_redis_in_a_crash_loop_is_paged_and_shown_until_it_is_restarted(home):
    async with running(home, loops(2.0)) as keeper:
        db = await Database.connect(load_node(Paths.of(home)).database_url)
        await until(lambda: rows_of(db, "redis"))
        others = {name: keeper.services[name].process.pid for name in ("postgres", "sim")}
        await keep_killing(keeper, "redis")
        await until(lambda: db.sql("SELECT 1 FROM alerts"))
        rows = await db.sql("SELECT event, severity, component FROM alerts")
        assert [tuple(row.values()) for row in rows] == [("child.escalated", "page", "redis")]
        await until(lambda: keeper.services["redis"].is_ready)  # started again all the same
        assert "deaths in" in await escalation_of(db, "redis")
        document = await asyncio.to_thread(find_status, Paths.of(home))
        (row,) = (row for row in document["components"] if row["name"] == "redis")
        assert (row["state"], row["problem"][:11]) == ("degraded", "escalated: ")
        old = keeper.services["redis"].process.pid
        await asyncio.to_thread(ask, Paths.of(home).keeper_socket, "restart-service", name="redis")
        await until(lambda: keeper.services["redis"].is_ready and keeper.services["redis"].process.pid != old)

        async def is_over():
            return await escalation_of(db, "redis") == "" and len(await history_of(db, "redis")) == 10

        await until(is_over)
        died = [("exited", 9), ("restarted", 9)]
        asked = [("cleared", None), ("stopping", None), ("exited", None)]
        expected = [*died, *died, ("exited", 9), ("escalated", 9), ("retried", None), *asked]
        assert await history_of(db, "redis") == expected
        assert {name: keeper.services[name].process.pid for name in others} == others
        await db.close()


async def test_postgresql_in_a_crash_loop_is_paged_without_it(home, monkeypatch):
    async with http_receiver() as receiver:
        monkeypatch.setenv("FKS_ALERTS_HOSTS", '["127.0.0.1"]')
        monkeypatch.setattr("fks.system.node.cluster_driver.READ_EVERY_S", 0.1)
        channels, found = Directory.channels, []

        async def read(directory):
            found.append(await channels(directory))
            return found[-1]

        monkeypatch.setattr(Directory, "channels", read)
        async with running(home, loops(600.0)) as keeper:
            db = await Database.connect(load_node(Paths.of(home)).database_url)
            address = Sealer(open_site(Paths.of(home)).secrets.session_key).seal(f"json://{receiver.host}/hook")
            await db.sql("INSERT INTO alert_channels (name, kind, address) VALUES ('desk', 'webhook', $1)", address)
            await until(lambda: any(found))
            started_s = time.time()
            await keep_killing(keeper, "postgres")
            escalated_s = time.time()
            await until(lambda: receiver.received)
            assert keeper.services["postgres"].state == "failed", "it has not come back yet"
            assert "child.escalated" in str(receiver.received[0].body)
            await asyncio.to_thread(ask, Paths.of(home).keeper_socket, "restart-service", name="postgres")
            await until(lambda: keeper.services["postgres"].is_ready)
            await until(lambda: db.sql("SELECT 1 FROM alerts WHERE event = 'child.escalated'"), deadline_s=20.0)
            (row,) = await db.sql(
                "SELECT extract(epoch FROM time)::float8 AS at_s FROM actor_events "
                "WHERE child = 'postgres' AND event = 'escalated'"
            )
            assert started_s <= row["at_s"] <= escalated_s + 0.5, "the time of the event, not of the row"
            await db.close()


async def rows_of(db, name):
    return await db.sql("SELECT pid FROM component_health WHERE name = $1", name)


async def is_ready(db):
    (own,) = await NodeStore(db).all()
    return own.state == "ready"


async def beats_as(db, pids):
    rows = await db.sql("SELECT name, pid FROM component_health WHERE kind = 'service'")
    return {row["name"]: row["pid"] for row in rows} == pids


async def living(db):
    (own,) = await NodeStore(db).all()
    return own if own.is_alive else None


async def check_status_while_it_runs(paths, pids, capsys):
    document = await asyncio.to_thread(find_status, paths)  # there is no gateway: the keeper answers
    assert document["source"] == "keeper"
    assert {row["name"]: row["pid"] for row in document["components"] if row["kind"] == "service"} == pids
    assert document["sim"]["pid"] == pids["sim"]
    checks = {check.name: check for check in await examine(paths)}
    assert {checks[name].status for name in ("keeper", "postgres", "redis", "secrets")} == {"healthy"}
    assert "ms from ours" in checks["exchange"].detail
    assert checks["gateway"].status == "down"
    code = await asyncio.to_thread(run, cli, ["--home", str(paths.home), "up"])
    output = capsys.readouterr().out
    assert code == 0
    assert f"already running: keeper pid {os.getpid()}" in output
    assert await asyncio.to_thread(run, cli, ["--home", str(paths.home), "up", "--detach", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["state"] == "already running"
    assert answer["sim"]["pid"] == pids["sim"]


def test_down_and_status_of_nothing_are_clear(home, capsys):
    assert run(cli, ["--home", str(home), "down"]) == 0
    assert capsys.readouterr().out == "nothing runs\n"
    assert run(cli, ["--home", str(home), "status", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "down"
    assert set(document) >= {"schema", "state", "components", "feeds", "venues", "kill", "sim"}
    assert run(cli, ["--home", str(home), "restart", "orders"]) == 3
    assert "nothing runs; start it with 'fks up'" in capsys.readouterr().err


def test_doctor_names_a_wrong_setting_and_fails(home, capsys, monkeypatch):
    monkeypatch.setenv("FKS_HTTP_PRT", "1")
    assert run(cli, ["--home", str(home), "doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in document["checks"]}
    assert document["state"] == "fail"
    assert "FKS_HTTP_PORT" in checks["settings"]["detail"]
    assert checks["python"]["state"] == "ok"


def test_two_homes_get_ports_of_their_own_and_keep_them(tmp_path, home):
    """The second is one whose own choice would be the ports of the first, which listens."""

    def ports(place):
        settings = open_site(check_host(place)).settings
        return (settings.http.port, settings.sim.port, settings.ray.gcs_port)

    first = ports(tmp_path / "a")
    places = (tmp_path / f"b{number}" for number in count())
    second = next(place for place in places if resolve_ports(Settings(), Paths(place)).ray.gcs_port == first[2])
    with create_server(("127.0.0.1", first[2])):
        assert not set(first) & set(ports(second))
    assert ports(tmp_path / "a") == first
