"""A Shell's whole life without a cluster: the beat, self-checks, the order of a drain, and the remains of a dead
process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import shell as shells
from actors import tree
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.version import VERSION
from fks.model.errors import OutageError
from fks.model.health import Check, failed
from fks.system.process.crash_files import crash_file, exit_file, last_crash_file
from tests.support import servers
from tests.support.waiting import until, wait_until

AWAY = NodeEndpoints("postgresql://fks@127.0.0.1:1/fks", "redis://127.0.0.1:1/0", "127.0.0.1:1", {})
BACK = replace(AWAY, sim={"rest": "http://127.0.0.1:1"})


@pytest.fixture(scope="module")
def home() -> Iterator[Paths]:
    """An FKS_HOME whose database and Redis do not answer: a Shell needs neither."""
    with servers.home() as paths:
        paths.run.mkdir(parents=True, exist_ok=True)
        save_node(paths, AWAY)
        yield paths


class Child:
    """A child whose every step waits until the test lets it go on."""

    def __init__(self, component: Any, args: tuple[str, ...]) -> None:
        self.component = component
        self.steps: list[str] = []
        self.may_drain, self.may_start = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.found: list[Check] = []
        self.is_ready = True
        self.drain_error: Exception | None = None
        Child.made = self

    made: Child

    async def start(self) -> None:
        await self.may_start.wait()
        self.steps.append("started")

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.steps.append("run cancelled")
            raise

    async def drain(self) -> None:
        self.steps.append("drain")
        await self.may_drain.wait()
        if self.drain_error is not None:
            raise self.drain_error
        self.steps.append("drained")

    async def stop(self) -> None:
        self.steps.append("stop")

    async def call(self, message: Mapping[str, Any]) -> Mapping[str, object]:
        raise message["error"]

    def detail(self) -> Mapping[str, object]:
        return {"steps": len(self.steps)}

    def problems(self) -> Sequence[Check]:
        return self.found


class StuckStart(Child):
    begun: asyncio.Event

    async def start(self) -> None:
        self.may_start.clear()
        self.begun.set()
        await super().start()


class Needy(Child):
    """A child whose start needs what is away, twice; then the node file has another address."""

    all: list[Needy] = []  # noqa: RUF012
    home: Paths

    async def start(self) -> None:
        Needy.all.append(self)
        if len(Needy.all) <= 2:
            save_node(Needy.home, BACK)
            raise OutageError("PostgreSQL does not answer")
        await super().start()


@asynccontextmanager
async def living(home: Paths, monkeypatch: pytest.MonkeyPatch, **settings: str) -> AsyncIterator[Any]:
    """Give a Shell that runs a Child; it is stopped at the end."""
    monkeypatch.setenv("FKS_HOME", str(home.home))
    for name, value in {
        "FKS_SUPERVISION_LAG_MAX_S": "60",
        **settings,
    }.items():  # its loop is pytest's: a stall is not its own
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(tree.CLASSES, "child", Child)
    shell = shells.Shell("child", "child:1", (), 7, False, 0.0, lambda role, component: {})
    await in_state(shell, "ready", "degraded")
    yield shell
    Child.made.may_drain.set()
    await shell.stop()
    assert await shell.join() == "normal"


async def in_state(shell: Any, *states: str) -> dict[str, Any]:
    """Return the first beat with one of the states."""

    async def beat() -> Any:
        found = await shell.health()
        return found if found["state"] in states else None

    return await until(beat)  # type: ignore[no-any-return]


async def test_beat_has_name_place_code_and_configuration(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    async with living(home, monkeypatch) as shell:
        beat = await in_state(shell, "ready")
        assert (beat["component"], beat["pid"], beat["epoch"], beat["version"]) == ("child:1", os.getpid(), 7, VERSION)
        assert beat["config_version"] == 0
        assert beat["problems"] == []
        assert 20 < float(beat["memory_mb"]) < 4000
        assert repr(shell) == "child:1"


async def test_failed_self_check_degrades_and_is_shown_with_its_age(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with living(home, monkeypatch) as shell:
        Child.made.found = [failed("queue", "3 signals wait", about="BTCUSDT", is_mended_by_restart=True)]
        first = (await in_state(shell, "degraded"))["problems"]
        assert [(p["kind"], p["about"], p["text"], p["is_mended_by_restart"]) for p in first] == [
            ("queue", "BTCUSDT", "3 signals wait", True)
        ]

        async def older() -> bool:
            (problem,) = (await shell.health())["problems"]
            return problem["since_s"] > 0.3  # type: ignore[no-any-return]

        Child.made.found = [failed("queue", "4 signals wait", about="BTCUSDT", is_mended_by_restart=True)]
        await until(older)  # another text is the same problem
        Child.made.found = []
        assert (await in_state(shell, "ready"))["problems"] == []
    lines = [json.loads(line) for line in (home.logs / "child-1.jsonl").read_text().splitlines()]
    logged = [(line["event"], line["kind"]) for line in lines if line["event"].startswith("check.")]
    assert logged == [("check.failed", "queue"), ("check.recovered", "queue")]


async def test_unexpected_error_of_a_call_is_logged_and_the_child_goes_on(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with living(home, monkeypatch) as shell:
        for error in (OutageError("the server is away"), RuntimeError("a fault")):
            with pytest.raises(type(error)):
                await shell.call({"error": error})
        assert (await shell.health())["state"] == "ready"
    lines = [json.loads(line) for line in (home.logs / "child-1.jsonl").read_text().splitlines()]
    (logged,) = [line for line in lines if line["event"] == "actor.call_failed"]
    assert (logged["error"], "raise message" in logged["traceback"]) == ("RuntimeError: a fault", True)


async def test_memory_above_the_ceiling_is_a_problem_that_a_restart_mends(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shells, "memory_mb", lambda: 129.0)
    async with living(home, monkeypatch, FKS_SUPERVISION_MEMORY_MAX_MB="128") as shell:
        (problem,) = (await in_state(shell, "degraded"))["problems"]
        assert (problem["kind"], problem["is_mended_by_restart"]) == ("memory", True)


async def test_drain_precedes_cancellation_and_the_child_beats_meanwhile(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with living(home, monkeypatch) as shell:
        await shell.stop()
        await in_state(shell, "draining")
        assert Child.made.steps == ["started", "drain"]

        async def beats() -> bool:
            return float((await shell.health())["age_s"]) > 0.1

        async def beats_again() -> bool:
            return float((await shell.health())["age_s"]) < 0.1

        await until(beats)
        await until(beats_again)
    assert Child.made.steps == ["started", "drain", "drained", "run cancelled", "stop"]


async def test_failed_flush_does_not_keep_a_child_from_stopping(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    async with living(home, monkeypatch):
        Child.made.drain_error = OutageError("PostgreSQL does not answer")
    assert Child.made.steps == ["started", "drain", "run cancelled", "stop"]


async def test_stop_during_the_start_ends_in_order(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FKS_HOME", str(home.home))
    monkeypatch.setitem(tree.CLASSES, "stuck", StuckStart)
    made = asyncio.Event()
    monkeypatch.setattr(StuckStart, "begun", made, raising=False)
    shell = shells.Shell("stuck", "stuck:1", (), 7, False, 0.0, lambda role, component: {})
    await made.wait()
    await shell.stop()
    async with asyncio.timeout(10.0):
        assert await shell.join() == "normal"


async def test_start_waits_for_a_dependency_and_uses_its_new_address(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_HOME", str(home.home))
    monkeypatch.setitem(tree.CLASSES, "needy", Needy)
    monkeypatch.setattr(shells, "WAIT_S", 0.01)
    monkeypatch.setattr(Needy, "all", [])
    monkeypatch.setattr(Needy, "home", home, raising=False)
    try:
        shell = shells.Shell("needy", "needy:1", (), 7, False, 0.0, lambda role, component: {})
        await in_state(shell, "ready", "degraded")
    finally:
        save_node(home, AWAY)
    assert [child.steps for child in Needy.all] == [["stop"], ["stop"], ["started"]]
    assert [child.component.node.sim for child in Needy.all] == [AWAY.sim, BACK.sim, BACK.sim]
    Child.made.may_drain.set()
    await shell.stop()
    assert await shell.join() == "normal"


async def test_parked_joins_of_dead_supervisors_leave_the_slots_to_the_living(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with living(home, monkeypatch) as shell:
        parked = [asyncio.create_task(shell.join()) for _ in range(30)]  # the group has 16 slots
        await until(lambda: sum(task.done() for task in parked) == 30 - shells.JOINS_MAX)
        assert {task.result() for task in parked if task.done()} == {"superseded"}
        newest = parked[1 - shells.JOINS_MAX :]  # one more call of `living` takes the place of the oldest
        assert not any(task.done() for task in newest)
    assert [await task for task in newest] == ["normal"] * len(newest)


# ── what a dead process leaves ───────────────────────────────────────────────────────────────────
@pytest.fixture
def start(home: Paths) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a Shell with a child of a role in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def begin(role: str) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FKS_")} | {"FKS_HOME": str(home.home)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.shell_process", role],
                env=env,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parents[4],
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_an_error_leaves_its_code_and_traceback_without_a_secret(home: Paths, start: Any) -> None:
    assert start("raises").wait(20) == 1
    kept = json.loads(exit_file(home, "test:raises").read_text())
    assert kept["code"] == 1
    assert "RuntimeError: the url was postgresql://fks:***@" in kept["traceback"]
    assert "hunter2" not in kept["traceback"]


def test_a_newer_epoch_ends_the_process_with_code_3(home: Paths, start: Any) -> None:
    assert start("superseded").wait(20) == 3
    assert json.loads(exit_file(home, "test:superseded").read_text())["code"] == 3


def test_a_fault_leaves_the_stacks_of_all_threads(home: Paths, start: Any) -> None:
    assert start("faults").wait(20) == -signal.SIGSEGV
    text = crash_file(home, "test:faults").read_text()
    assert "Segmentation fault" in text
    assert "ctypes" in text
    assert not exit_file(home, "test:faults").exists()
    assert start("faults").wait(20) == -signal.SIGSEGV
    assert last_crash_file(home, "test:faults").read_text() == text, "its predecessor's are kept"


def test_hung_loop_writes_its_stacks_on_sigusr1(home: Paths, start: Any) -> None:
    process = start("blocks")
    assert process.stdout.readline() == "start\n"
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "in run" in crash_file(home, "test:blocks").read_text())
    assert process.poll() is None


def test_requested_end_drains_then_cancels_then_stops(home: Paths, start: Any) -> None:
    process = start("steady")
    assert process.stdout.readline() == "start\n"
    out, _ = process.communicate("stop\n", timeout=20)
    assert out.split("\n")[:5] == ["drain", "run cancelled", "stop", "normal", ""]
    assert process.returncode == 0
