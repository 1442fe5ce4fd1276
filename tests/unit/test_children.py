"""Processes that are forked for tests are as separate as those of a fresh interpreter."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.support.children import Child


def report(name: str) -> int:
    threads = len(os.listdir(f"/proc/{os.getppid()}/task")), threading.active_count()
    print(os.environ.get(name), os.getcwd(), *threads, "fks.store.failover" in sys.modules)
    print("error", file=sys.stderr)
    return 3


async def wait_for_ever() -> None:
    print("ready", flush=True)
    await asyncio.Event().wait()


def test_child_has_the_environment_folder_and_output_of_its_test(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FKS_CHILD", "mine")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "errors").open("w+") as errors:
        child = Child(report, "FKS_CHILD", is_read=True, stderr=errors)
        assert child.wait(10) == 3
    assert child.stdout is not None
    # one thread in the server; and the module whose import draws an identity of the process is imported by none
    assert child.stdout.read() == f"mine {tmp_path} 1 1 False\n"
    assert (tmp_path / "errors").read_text() == "error\n"


async def test_several_tasks_see_the_signal_that_ended_a_child() -> None:
    child = Child(wait_for_ever, is_read=True)
    reader = await child.reader()
    assert await asyncio.wait_for(reader.readline(), 20) == b"ready\n"
    assert child.poll() is None
    waiting = [asyncio.create_task(child.ended()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    child.kill()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [-signal.SIGKILL] * 2
    assert child.returncode == -signal.SIGKILL
