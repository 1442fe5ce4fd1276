"""The keeper on a full disk: it goes on, names the cause, and writes its files once there is space."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.model.errors import ConfigError, FksError, OutageError
from fks.system.node import preflight
from fks.system.node.home_disk import RESERVE_MB, HomeDisk
from fks.system.node.keeper import Keeper, sweep
from tests.support.keepers import FakeDriver, keeper_of, pids_of, small
from tests.support.ports import CollectingLog
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size_mb=220) as disk:
        yield disk
        asyncio.run(sweep(paths_on(disk), [small(paths_on(disk), "a")]))


def paths_on(disk: SmallDisk) -> Paths:
    return Paths.of(disk.place / "home").ensure()


@asynccontextmanager
async def started(
    paths: Paths, log: CollectingLog, driver: FakeDriver | None = None, **changes: Any
) -> AsyncIterator[Keeper]:
    keeper = keeper_of(paths, [small(paths, "a", **changes)], driver, log=log)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        keeper.request_stop()
        await asyncio.wait_for(task, 15.0)


async def own_row(keeper: Keeper) -> tuple[str, str]:
    """Return state and detail of the keeper in the status document."""
    rows = (await keeper.status())["components"]
    row = next(row for row in rows if row["name"] == "keeper")
    return row["state"], row["detail"].get("detail", "")


async def test_full_disk_ends_no_keeper_and_late_files_are_written(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.system.node.keeper.DISK_LOOK_S", 0.05)
    log, paths = CollectingLog(), paths_on(disk)

    async def shows(state: str) -> bool:
        return (await own_row(keeper))[0] == state

    async with started(paths, log) as keeper:
        await until(lambda: keeper.phase == "ready" and paths.reserve_file.exists())
        await asyncio.to_thread(disk.keep_full)
        await until(lambda: shows("degraded"))
        assert "the disk of FKS_HOME is full" in (await own_row(keeper))[1]
        assert not paths.reserve_file.exists()
        await until(lambda: disk.free_mb == 0)  # what the reserve gave is taken, too
        old = pids_of(paths, "a")[0]
        os.kill(old, signal.SIGKILL)
        await until(lambda: "keeper.write_failed" in events(log))
        assert keeper.phase == "ready"
        await asyncio.to_thread(disk.free)
        await until(lambda: paths.reserve_file.exists())
        await until(lambda: keeper.services["a"].is_ready and pids_of(paths, "a")[:1] not in ([], [old]))
        assert await own_row(keeper) == ("ready", "")
        new = pids_of(paths, "a")[0]
        await until(lambda: json.loads((paths.run / "keeper.json").read_text())["services"]["a"]["pid"] == new)
    assert [event for event in events(log) if event.startswith("disk.")] == ["disk.full", "disk.freed"]
    assert not paths.reserve_file.exists(), "a home that is down holds no reserve"


async def test_file_that_found_no_space_is_written_by_the_next_look(disk: SmallDisk) -> None:
    paths, text = paths_on(disk), "x" * 100_000
    home, file = HomeDisk(paths, RealClock(), CollectingLog()), paths.run / "late"
    disk.keep_full()
    for written in ("y" * 100_000, text):  # the later one takes its place
        home.write("late", partial(file.write_text, written))
    await home.look()
    assert "the disk of FKS_HOME is full" in home.problem
    disk.free()
    await home.look()
    assert (file.read_text(), home.problem, paths.reserve_file.exists()) == (text, "", True)


async def test_reserve_gives_space_when_the_disk_fills_up(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fks.system.node.keeper.DISK_LOOK_S", 0.05)
    paths = paths_on(disk)
    async with started(paths, CollectingLog()) as keeper:
        await until(lambda: keeper.phase == "ready" and paths.reserve_file.exists())
        await asyncio.to_thread(disk.fill_to, 1_000_000)
        await until(lambda: disk.free_mb >= RESERVE_MB)
        assert (await own_row(keeper))[0] == "degraded", "what is left is the reserve"


async def test_start_on_a_disk_that_fills_up_goes_on_once_there_is_space(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fks.system.node.keeper.SIDE_WORK_S", 0.05)
    disk.keep_full()
    late = [OutageError("no space"), OSError(28, "No space left on device"), FksError("prepare failed: no space")]
    async with started(paths_on(disk), CollectingLog(), FakeDriver(fail=[*late], age_s=None), start_s=0.3) as keeper:
        await until(lambda: keeper.services["a"].failures > 2)  # twice is the end of a start where there is space
        assert keeper.phase == "starting"
        await asyncio.to_thread(disk.free)
        await until(lambda: keeper.phase == "ready")


def test_home_without_space_is_refused(disk: SmallDisk) -> None:
    paths = paths_on(disk)
    with pytest.raises(ConfigError, match="MB free"):
        preflight.check_place(paths)
    paths.machine_file.write_text("used before")
    preflight.check_place(paths)
    disk.fill()
    with pytest.raises(OutageError, match="MB free"):
        preflight.check_place(paths)


def events(log: CollectingLog) -> list[str]:
    return [line[1] for line in log.lines]
