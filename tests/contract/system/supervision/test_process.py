"""A child's process on this host: its end is detected at once and proven, with everything it left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from fks.config.paths import Paths
from fks.system.process.crash_files import crash_file, exit_file, exit_of, last_lines
from fks.system.process.handle import ProcessHandle, start_mark
from fks.system.process.log import log_file
from fks.system.supervision import How
from tests.support.waiting import until

CHILD = """
import faulthandler, signal, sys, time
handle = open(sys.argv[2], "w")
faulthandler.register(signal.SIGUSR1, handle, all_threads=True)
def where_it_stands():
    print("here", flush=True)
    time.sleep(60)
print("up", flush=True)
code = sys.stdin.readline()
sys.exit(int(code)) if code.strip() else where_it_stands()
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths.of(tmp_path)
    found.logs.mkdir(parents=True)
    return found


@contextmanager
def started(paths: Paths) -> Iterator[Any]:
    """A process that calls itself a worker of Ray's."""
    arguments = [sys.executable, "-c", CHILD, "ray::Orders", str(crash_file(paths, "orders"))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def child(paths: Paths) -> Iterator[Any]:
    with started(paths) as process:
        yield process


def hold(pid: int) -> ProcessHandle | None:
    return ProcessHandle.hold(pid, command=b"ray")


async def reaped(process: Any) -> None:
    """Fetch the exit code, as its parent does."""
    await until(lambda: process.poll() is not None)


def end_with(process: Any, line: str) -> None:
    process.stdin.write(line)
    process.stdin.flush()


async def test_kill_9_is_detected_within_50_ms_with_its_signal(paths: Paths) -> None:
    took_s: list[float] = []
    while len(took_s) < 5 and not any(
        seconds < 0.05 for seconds in took_s
    ):  # a busy machine may keep us waiting, not always
        with started(paths) as child:
            held = hold(child.pid)
            assert held is not None
            start = time.monotonic()
            os.kill(child.pid, signal.SIGKILL)
            assert await held.ended(5.0)
            took_s.append(time.monotonic() - start)
            await reaped(child)
            end = await exit_of(How.CRASH, "died", held, paths, "orders")
            assert (end.is_gone, end.how, end.is_inferred) == (True, How.CRASH, False)
            if await held.wait_status() is not None:  # the kernel reports it since 6.15
                assert (end.signal, end.exit_code, end.reason) == (9, None, "died: signal SIGKILL")
            held.close()
    assert min(took_s) < 0.05, took_s


async def test_error_has_its_exit_code_traceback_and_last_lines(child: Any, paths: Paths) -> None:
    held = hold(child.pid)
    assert held is not None
    log_file(paths, "orders").write_text("".join(f'{{"n":{n}}}\n' for n in range(9)))
    exit_file(paths, "orders").write_bytes(orjson.dumps({"code": 3, "traceback": "Traceback\n  line\nValueError: no"}))
    end_with(child, "3\n")
    assert await held.ended(5.0)
    await reaped(child)
    end = await exit_of(How.CRASH, "died", held, paths, "orders")
    assert (end.exit_code, end.signal, end.reason) == (3, None, "died: exit code 3: ValueError: no")
    assert end.last_lines == tuple(f'{{"n":{n}}}' for n in range(4, 9))
    assert end.traceback.endswith("ValueError: no")
    held.close()


async def test_files_of_an_older_process_are_ignored(child: Any, paths: Paths) -> None:
    exit_file(paths, "orders").write_bytes(orjson.dumps({"code": 3, "traceback": "ValueError: long ago"}))
    os.utime(exit_file(paths, "orders"), (1, 1))
    held = hold(child.pid)
    assert held is not None
    await held.kill()
    assert (await exit_of(How.KILLED, "over its deadline", held, paths, "orders")).traceback == ""
    held.close()


async def test_hung_process_writes_its_stacks(child: Any, paths: Paths) -> None:
    held = hold(child.pid)
    assert held is not None
    end_with(child, "\n")
    assert await asyncio.to_thread(child.stdout.readline) == "here\n"
    assert await held.kill(is_hung=True)
    end = await exit_of(How.HUNG, "hung", held, paths, "orders")
    assert "where_it_stands" in end.traceback
    assert (end.is_gone, end.signal, end.is_inferred) == (True, 9, True)
    held.close()


async def test_stopped_process_is_killed_too(child: Any) -> None:
    held = hold(child.pid)
    assert held is not None
    os.kill(child.pid, signal.SIGSTOP)
    assert await asyncio.wait_for(held.kill(is_hung=True), 10.0)
    held.close()


def test_foreign_process_is_never_held() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        assert hold(stranger.pid) is None
        stranger.kill()
    assert hold(stranger.pid) is None


def test_missing_log_has_no_last_lines(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("end", "exit_code", "number", "reason"),
    [
        ("kill", None, signal.SIGKILL, "died: signal SIGKILL (inferred: it left no trace)"),
        ("fault", None, signal.SIGSEGV, "died: signal SIGSEGV"),
        ("exit", 3, None, "died: exit code 3: ValueError: no"),
    ],
)
async def test_end_is_inferred_where_the_kernel_does_not_report_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, end: str, exit_code: int | None, number: int | None, reason: str
) -> None:
    """Before Linux 6.15 only a parent learns how a process ended; Ray's raylet keeps it to itself."""

    def refuses(*args: object) -> int:
        raise OSError("the kernel does not know this request")

    monkeypatch.setattr("fks.system.process.handle.fcntl.ioctl", refuses)
    code = "import faulthandler, sys, time; faulthandler.enable(open(sys.argv[2], 'w')); print('up', flush=True);"
    code += {"kill": "time.sleep(60)", "fault": "faulthandler._sigsegv()", "exit": "time.sleep(0.5); sys.exit(3)"}[end]
    arguments = [sys.executable, "-c", code, "ray::Orders", str(crash_file(paths, "orders"))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        held = ProcessHandle(process.pid, start_mark(process.pid) or "")
        assert process.stdout is not None
        process.stdout.readline()
        if end == "exit":
            exit_file(paths, "orders").write_bytes(orjson.dumps({"code": 3, "traceback": "Traceback\nValueError: no"}))
        if end == "kill":
            os.kill(process.pid, signal.SIGKILL)
        assert await held.ended(5.0)
        process.wait()
        found = await exit_of(How.CRASH, "died", held, paths, "orders")
    assert (found.exit_code, found.signal, found.reason) == (exit_code, number, reason)
    assert (found.is_inferred, found.is_gone) == (True, True)
    held.close()
