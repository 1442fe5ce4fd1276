"""The keeper over small real processes: what dies comes back, what lives is taken over, what stops stops in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.model.backoff import Backoff
from fks.model.errors import ConfigError, FksError, OutageError
from fks.system.node.cluster_driver import KeeperStart
from fks.system.node.control_socket import ask
from fks.system.node.keeper import sweep
from fks.system.node.lock import AlreadyRunning, holder_of, keeper_lock
from fks.system.process.handle import start_mark
from fks.system.supervision import decide
from fks.system.supervision.state import Note, Timer
from tests.support.keepers import FakeDriver, keeper_of, pids_of, small, start_keeper, start_stray
from tests.support.ports import CollectingLog
from tests.support.waiting import until, wait_until


@pytest.fixture
def paths(tmp_path):
    paths = Paths.of(tmp_path / "home").ensure()
    yield paths
    asyncio.run(sweep(paths, [small(paths, name, is_group=True) for name in ("a", "b", "c", "postgres", "ray")]))


@asynccontextmanager
async def running(paths, specs, driver=None, **options):
    """A keeper that is up; it is asked to stop at the end, and has to."""
    keeper = keeper_of(paths, specs, driver, **options)
    task = asyncio.create_task(keeper.run())
    try:
        await until(lambda: keeper.phase == "ready" or task.done())
        if task.done():
            task.result()
        yield keeper
    finally:
        keeper.request_stop()
        await asyncio.wait_for(task, 15.0) if not task.done() else None


def is_alive(pid):
    return start_mark(pid) is not None


async def back(keeper, name, old_pid):
    return await until(lambda: keeper.services[name].is_ready and keeper.services[name].process.pid != old_pid)


async def test_killed_service_is_restarted_and_counted(paths):
    async with running(paths, [small(paths, "a"), small(paths, "b")]) as keeper:
        other = pids_of(paths, "b")[0]
        for restarts in (1, 2):
            old, start = pids_of(paths, "a")[0], time.monotonic()
            os.kill(old, signal.SIGKILL)
            await back(keeper, "a", old)
            assert time.monotonic() - start < 5.0, "the waits between restarts are 0.05 s at most"
            assert keeper.services["a"].restarts == restarts
        assert pids_of(paths, "b") == [other]


@pytest.mark.parametrize("loop_passes", range(8))
async def test_service_ends_while_its_probe_is_being_answered(paths, loop_passes):
    asked = []

    async def is_ready(process):
        if asked == ["soon"]:
            asked[:] = ["now"]
            keeper.tree.restart("a")
            for _ in range(loop_passes):  # in one of them the answer and the end of the probe cross
                await asyncio.sleep(0)
        return True

    async with running(paths, [replace(small(paths, "a"), is_ready=is_ready)]) as keeper:
        old = keeper.services["a"].process.pid
        asked.append("soon")
        await until(lambda: asked == ["now"])
        await back(keeper, "a", old)
        assert not is_alive(old)


async def row_of(keeper, name):
    return next(row for row in (await keeper.status())["components"] if row["name"] == name)


async def test_service_that_keeps_dying_escalates_pages_and_is_still_started(paths):
    flag, driver = paths.home / "broken", FakeDriver()
    async with running(paths, [small(paths, "a", "--dies", str(flag)), small(paths, "b")], driver) as keeper:
        flag.touch()
        other = pids_of(paths, "b")
        os.kill(pids_of(paths, "a")[0], signal.SIGKILL)
        await until(lambda: keeper.services["a"].state == "failed")
        assert keeper.services["a"].restarts >= 4
        assert keeper.phase == "ready"
        assert "deaths in" in (await row_of(keeper, "a"))["detail"]["escalation"]
        flag.unlink()
        await until(lambda: keeper.services["a"].is_ready)
        row = await row_of(keeper, "a")
        assert (row["state"], row["problem"][:11]) == ("degraded", "escalated: "), "a person has not ended that"
        old = pids_of(paths, "a")[0]
        await asyncio.to_thread(ask, paths.keeper_socket, "restart-service", name="a")
        await back(keeper, "a", old)
        row = await row_of(keeper, "a")
        assert (row["state"], row["problem"]) == ("ready", "")
        assert pids_of(paths, "b") == other


async def test_service_waits_for_another_machine_and_that_is_no_death(paths, monkeypatch):
    """A worker's Ray while its head is away: nothing escalates, and it starts once the head answers."""
    monkeypatch.setattr("fks.system.node.service.WAIT_S", 0.02)
    spec, driver, is_away = small(paths, "a"), FakeDriver(), []

    def launch():
        if is_away:
            is_away.append(1)
            raise OutageError("Ray's head does not answer")
        return spec.launch()

    async with running(paths, [replace(spec, launch=launch)], driver) as keeper:
        is_away.append(1)
        os.kill(pids_of(paths, "a")[0], signal.SIGKILL)
        await until(lambda: len(is_away) > 20)
        service = keeper.services["a"]
        assert (service.state, service.error, service.restarts) == ("waiting", "Ray's head does not answer", 1)
        is_away.clear()
        await until(lambda: service.is_ready)
        assert ((await row_of(keeper, "a"))["state"], driver.pages) == ("ready", [])


@pytest.mark.parametrize("can_deliver", [True, False])
async def test_page_leaves_directly_where_its_row_would_not(paths, can_deliver):
    """Without PostgreSQL, or while Ray and with it the deliverer of alerts is the one that dies."""
    flag, driver = paths.home / "broken", FakeDriver(age_s=0.1 if can_deliver else 60.0)
    async with running(paths, [small(paths, "a", "--dies", str(flag)), small(paths, "b")], driver) as keeper:
        await until(lambda: driver.beats > 1)
        flag.touch()
        os.kill(pids_of(paths, "a")[0], signal.SIGKILL)
        await until(lambda: keeper.services["a"].state == "failed")
        assert driver.pages == ([] if can_deliver else ["child.escalated"])


async def test_waits_between_restarts_grow(paths, monkeypatch):
    flag, waits = paths.home / "broken", []

    def decided(*given):
        state, commands = decide(*given)
        starts = [command for command in commands if isinstance(command, Note) and command.event == "restarted"]
        waits.extend([next((c.after_s for c in commands if isinstance(c, Timer)), 0.0)] if starts else [])
        return state, commands

    monkeypatch.setattr("fks.system.supervisor.tree_driver.decide", decided)
    keeper = keeper_of(paths, [small(paths, "a", "--dies", str(flag))])
    task = asyncio.create_task(keeper.run())
    await until(lambda: keeper.phase == "ready")
    flag.touch()
    os.kill(pids_of(paths, "a")[0], signal.SIGKILL)
    await until(lambda: len(waits) >= 5)
    assert waits[:5] == [0.0, 0.05, 0.1, 0.2, 0.3]
    keeper.request_stop()
    await task


async def test_failed_first_start_shows_last_output_without_secrets(paths):
    (paths.home / "broken").touch()
    with pytest.raises(FksError) as caught:
        async with running(paths, [small(paths, "b"), small(paths, "a", "--dies", str(paths.home / "broken"))]):
            pass
    text = str(caught.value)
    assert "a does not start: ended while starting (status 3)" in text
    assert "I cannot go on" in text
    assert "hunter2" not in text
    assert not any(is_alive(pid) for pid in pids_of(paths, "b"))
    assert not paths.sockets.exists()
    assert not paths.node_file.exists()


async def test_start_after_a_killed_keeper_gives_no_service_up(paths):
    """PostgreSQL refuses to start until the kernel has forgotten the one that was killed with its keeper."""
    flag = paths.home / "broken"
    flag.touch()
    keeper = keeper_of(paths, [small(paths, "a", "--dies", str(flag))], start=KeeperStart(True, 1, "SIGKILL"))
    task = asyncio.create_task(keeper.run())
    await until(lambda: keeper.services["a"].failures > 3 or task.done())
    flag.unlink()
    await until(lambda: keeper.phase == "ready" or task.done())
    keeper.request_stop()
    await task


async def test_config_error_is_not_retried(paths):
    def launch():
        raise ConfigError("a.key is wrong", remedy="set a.key")

    spec = small(paths, "a")
    broken = type(spec)(name="a", launch=launch, is_ready=spec.is_ready, find=spec.find, log=spec.log)
    with pytest.raises(ConfigError, match=r"a\.key is wrong; set a\.key"):
        async with running(paths, [broken]):
            pass


async def test_waves_are_stopped_in_order_after_the_tree(paths):
    driver = FakeDriver()
    specs = [small(paths, "a", wave=0), small(paths, "b", "--stop-s", "0.2", wave=1), small(paths, "c", wave=2)]
    async with running(paths, specs, driver):
        pass
    stopped_at = {name: float((paths.run / f"{name}.log").read_text().split()[1]) for name in "abc"}
    assert stopped_at["c"] < stopped_at["b"] < stopped_at["a"]
    assert stopped_at["a"] - stopped_at["b"] >= 0.2  # b had ended before a was stopped
    assert driver.stopped == 1


async def test_service_that_ignores_stop_is_killed_with_its_session(paths):
    spec = small(paths, "a", "--deaf", "--children", "2", stop=((signal.SIGTERM, 0.3),), is_group=True)
    log = CollectingLog()
    async with running(paths, [spec], log=log):
        pids = pids_of(paths, "a")
        assert len(pids) == 3
        start = time.monotonic()
    assert 0.3 <= time.monotonic() - start < 0.3 + 5.0
    assert not any(is_alive(pid) for pid in pids)
    assert "service.killed" in log.events("info")


async def test_death_of_a_part_restarts_the_whole_service(paths):
    spec = small(
        paths,
        "a",
        "--children",
        "1",
        is_group=True,
        part_names=("part",),
        parts=lambda process: {"part": pids_of(paths, "a")[1]},
    )
    async with running(paths, [spec]) as keeper:
        old = pids_of(paths, "a")
        assert [(status.name, status.pid) for status in keeper.services["a"].statuses()] == [("part", old[1])]
        os.kill(old[1], signal.SIGKILL)
        await back(keeper, "a", old[0])
        assert not any(is_alive(pid) for pid in old)


async def test_hung_service_is_killed_and_restarted(paths):
    progress = []
    async with running(
        paths, [small(paths, "a", hang_s=0.6)], on_progress=lambda *step: progress.append(step[:2])
    ) as keeper:
        old = pids_of(paths, "a")[0]
        os.kill(old, signal.SIGSTOP)
        await back(keeper, "a", old)
        assert progress.index(("a", "degraded")) < progress.index(("a", "down"))
        assert not is_alive(old)


async def test_children_survive_a_killed_keeper_and_are_adopted(paths):
    first = start_keeper(paths, "a", "b")
    old = {name: pids_of(paths, name)[0] for name in "ab"}
    first.kill()
    first.wait()
    assert all(is_alive(pid) for pid in old.values())
    assert holder_of(paths.run / "keeper.lock") is None
    async with running(paths, [small(paths, "a"), small(paths, "b")]) as keeper:
        assert {name: service.process.pid for name, service in keeper.services.items()} == old
        assert all(service.restarts == 0 for service in keeper.services.values())
        os.kill(old["a"], signal.SIGKILL)  # an adopted one is watched like one's own
        await back(keeper, "a", old["a"])
    assert not any(is_alive(pid) for pid in old.values())


def orphaned(paths):
    """Return the pid of a service whose keeper was killed."""
    first = start_keeper(paths, "a")
    first.kill()
    first.wait()
    return pids_of(paths, "a")[0]


async def test_takeover_that_fails_leaves_what_runs_to_the_next_keeper(paths):
    left = orphaned(paths)
    driver = FakeDriver(fail=[OutageError("PostgreSQL is away")] * 2, age_s=None)
    with pytest.raises(FksError):
        await asyncio.wait_for(keeper_of(paths, [small(paths, "a")], driver).run(), 15.0)
    assert is_alive(left), "it may trade, and the guardian is among it"
    async with running(paths, [small(paths, "a")]) as keeper:
        assert keeper.services["a"].process.pid == left


async def test_adopted_service_that_waits_for_space_is_not_killed(paths):
    left, is_answering = orphaned(paths), False

    async def answers(process):
        return is_answering

    spec = replace(small(paths, "a", start_s=0.2, is_delayed=lambda: True), is_ready=answers)
    keeper = keeper_of(paths, [spec])
    task = asyncio.create_task(keeper.run())
    try:
        await asyncio.sleep(1.0)  # five times what a start may take
        assert (is_alive(left), keeper.services["a"].restarts) == (True, 0)
        is_answering = True
        await until(lambda: keeper.phase == "ready")
        assert keeper.services["a"].process.pid == left
    finally:
        keeper.request_stop()
        await asyncio.wait_for(task, 15.0)


async def test_running_service_without_a_record_is_adopted(paths):
    async with running(paths, [small(paths, "a")]):
        pass
    process = start_stray(small(paths, "a"))
    await until(lambda: pids_of(paths, "a") == [process.pid])
    async with running(paths, [small(paths, "a")]) as keeper:
        assert keeper.services["a"].process.pid == process.pid
    process.wait(5)


async def test_down_ends_what_a_killed_keeper_left(paths):
    first = start_keeper(paths, "a", "ray")
    pids = [*pids_of(paths, "a"), *pids_of(paths, "ray")]
    first.kill()
    first.wait()
    found = await sweep(paths, [small(paths, "a"), small(paths, "ray", is_group=True)])
    assert set(found) == {"a", "ray"}
    assert not any(is_alive(pid) for pid in pids)
    assert not paths.sockets.exists()


def test_down_spares_a_program_that_reads_a_log_of_ray(paths):
    log = paths.ray_temp / "raylet.out"
    log.parent.mkdir(parents=True)
    log.write_text("")
    reader = subprocess.Popen(["tail", "-f", str(log)])
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"{paths.ray_temp}/x"])

    def is_opened() -> bool:
        with suppress(FileNotFoundError):  # closed while they are listed
            return os.path.realpath(log) in {os.path.realpath(fd) for fd in Path(f"/proc/{reader.pid}/fd").iterdir()}
        return False

    try:
        wait_until(is_opened)
        asyncio.run(sweep(paths, []))
        assert stray.wait(5.0) == -signal.SIGKILL
        assert reader.poll() is None
    finally:
        for process in (reader, stray):
            process.kill()
            process.wait()


def test_a_home_has_one_keeper(paths):
    lock = paths.run / "keeper.lock"
    with keeper_lock(lock):
        assert holder_of(lock) == os.getpid()
        other = (
            "from fks.system.node.lock import keeper_lock\nfrom pathlib import Path\nwith "
            f"keeper_lock(Path({str(lock)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert f"already running: keeper pid {os.getpid()}" in done.stderr
    with suppress(AlreadyRunning), keeper_lock(lock):
        assert holder_of(lock) == os.getpid()
    assert holder_of(lock) is None


async def test_control_socket_answers_and_survives_malformed_requests(paths):
    async with running(paths, [small(paths, "a")]) as keeper:
        socket = paths.keeper_socket
        assert socket.stat().st_mode & 0o777 == 0o600
        assert (await asyncio.to_thread(ask, socket, "progress"))["phase"] == "ready"
        with pytest.raises(FksError, match="no such operation"):
            await asyncio.to_thread(ask, socket, "dance")
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(b"[1]\nnot json\n")
        assert b'"ok":false' in await reader.readline()
        assert b'"ok":false' in await reader.readline()
        writer.close()
        with pytest.raises(FksError, match="no service 'x'"):
            await asyncio.to_thread(ask, socket, "restart-service", name="x")
        old = pids_of(paths, "a")[0]
        await asyncio.to_thread(ask, socket, "restart-service", name="a")
        await back(keeper, "a", old)
        assert keeper.services["a"].error == ""
        await asyncio.to_thread(ask, socket, "stop")
        await until(lambda: keeper.phase == "stopping")
    with pytest.raises(OutageError, match="no keeper answers"):
        ask(paths.keeper_socket, "status")


async def test_status_without_database_is_the_last_one_plus_own_services(paths):
    rows = [
        {
            "name": "orders",
            "kind": "actor",
            "state": "ready",
            "pid": 1,
            "node": "n",
            "restarts": 0,
            "since": None,
            "heartbeat_age_ms": 100,
            "detail": {},
        },
        {
            "name": "postgres",
            "kind": "service",
            "state": "ready",
            "pid": 2,
            "node": "n",
            "restarts": 0,
            "since": None,
            "heartbeat_age_ms": 100,
            "detail": {},
        },
    ]
    driver = FakeDriver(
        document={
            "components": rows,
            "feeds": [{"exchange": "x", "symbol": "S", "state": "LIVE", "age_ms": 5}],
            "venues": [],
            "kill": {"engaged": False},
        }
    )
    async with running(paths, [small(paths, "postgres")], driver) as keeper:
        assert (await keeper.status())["state"] == "healthy"
        driver.document = None
        document = await keeper.status()
        assert document["state"] == "degraded"
        assert set(document) >= {"state", "components", "feeds", "venues", "kill", "sim"}
        known = {row["name"]: row for row in document["components"]}
        assert set(known) == {"keeper", "postgres", "orders"}
        assert set(known["orders"]) >= {"name", "kind", "state", "pid", "node", "restarts", "since", "heartbeat_age_ms"}
        assert known["postgres"]["pid"] == pids_of(paths, "postgres")[0]  # ours, not the row's
        assert known["keeper"]["kind"] == "keeper"
        assert document["kill"] == {"engaged": False}


async def test_tree_is_redeployed_on_a_new_ray_head(paths):
    driver = FakeDriver()
    async with running(paths, [small(paths, "ray")], driver) as keeper:
        assert driver.deploys == 1
        os.kill(pids_of(paths, "ray")[0], signal.SIGKILL)
        await until(lambda: driver.deploys == 2)
        assert keeper.phase == "ready"


async def test_tree_is_redeployed_when_its_supervisor_is_silent(paths, monkeypatch):
    monkeypatch.setattr("fks.system.node.tree_deployer.LOST_AFTER_S", 0.3)
    driver = FakeDriver(age_s=0.0)
    async with running(paths, [small(paths, "ray")], driver):
        driver.age_s = 99.0
        await until(lambda: driver.deploys >= 2, deadline_s=20.0)


@pytest.fixture
def _soon(monkeypatch):
    monkeypatch.setattr("fks.system.node.tree_deployer.BACKOFF", Backoff(0.2, 1.0))


@pytest.mark.usefixtures("_soon")
async def test_failed_deploy_is_retried_once_at_start_and_always_later(paths):
    driver = FakeDriver(fail=[FksError("first")], age_s=None)
    async with running(paths, [small(paths, "ray")], driver):
        assert driver.deploys == 2
        driver.fail = [FksError("again")]
        os.kill(pids_of(paths, "ray")[0], signal.SIGKILL)
        await until(lambda: driver.deploys == 4)


@pytest.mark.usefixtures("_soon")
async def test_deploy_that_fails_after_a_killed_keeper_is_retried(paths):
    driver = FakeDriver(fail=[FksError("first"), FksError("second"), FksError("third")], age_s=None)
    async with running(paths, [small(paths, "ray")], driver, start=KeeperStart(True, 1, "SIGKILL")):
        await until(lambda: driver.deploys >= 4)


@pytest.mark.usefixtures("_soon")
async def test_unexpected_deploy_errors_do_not_end_the_keeper(paths):
    driver = FakeDriver()
    async with running(paths, [small(paths, "ray")], driver) as keeper:
        driver.fail, driver.age_s = [OSError(11, "no process to be had"), RuntimeError("a mistake")], None
        os.kill(pids_of(paths, "ray")[0], signal.SIGKILL)
        await until(lambda: driver.deploys == 4, deadline_s=20.0)
        assert keeper.phase == "ready"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            FksError("failed (status 1)", remedy="its last output:\nINFO connected\nnot up: orders down"),
            "not up: orders down",
        ),
        (OutageError("no end within 90 s", remedy="its last output:\nINFO connected"), "no end within 90 s"),
    ],
)
async def test_tree_that_is_not_whole_is_degraded_with_the_reason(paths, error, text):
    driver = FakeDriver(fail=[error], age_s=0.5)
    async with running(paths, [small(paths, "ray")], driver) as keeper:
        assert driver.deploys == 1
        assert {"name": "actors", "state": "degraded", "text": text} in keeper.steps


async def test_tree_that_is_not_whole_is_redeployed_later(paths, monkeypatch):
    monkeypatch.setattr("fks.system.node.tree_deployer.RETRY_S", 0.2)
    driver = FakeDriver(fail=[FksError("not up: gateway")], age_s=0.5)
    progress = []
    async with running(paths, [small(paths, "ray")], driver, on_progress=lambda *step: progress.append(step)):
        await until(lambda: ("actors", "ready", "") in progress)
        assert driver.deploys == 2


async def test_fault_of_work_beside_the_services_does_not_end_the_keeper(paths, monkeypatch):
    asked = []

    def rotate(logs):
        asked.append(logs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fks.system.node.keeper.rotate", rotate)
    monkeypatch.setattr("fks.system.node.keeper.ROTATE_S", 0.01)
    monkeypatch.setattr("fks.system.node.keeper.SIDE_WORK_S", 0.01)
    log = CollectingLog()
    async with running(paths, [small(paths, "ray")], log=log) as keeper:
        await until(lambda: len(asked) >= 2)
        assert keeper.phase == "ready"
        first = pids_of(paths, "ray")[0]
        os.kill(first, signal.SIGKILL)
        await until(lambda: pids_of(paths, "ray")[:1] not in ([first], []))
    assert any(line[1] == "keeper.work_failed" for line in log.lines)
