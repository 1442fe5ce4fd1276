"""A whole system on a small disk: full at a bad moment, then freed, then everything has to be back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fks.lab.chaos.evidence import Baseline
from tests.support.audit import assert_sound
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.system import System
from tests.support.waiting import wait_until

SIZE_MB = 800  # a new home is refused below 500 MB free; a running one takes 80 MB, the reserve 64 MB
BACK_S = 30.0  # from the moment there is space


@contextlib.contextmanager
def system_on_small_disk() -> Iterator[tuple[System, SmallDisk]]:
    """Yield a system that was not started, and the disk of its home; it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="fks-disk-") as folder:
        Path(folder).chmod(0o755)
        with small_disk(Path(folder) / "disk", size_mb=SIZE_MB) as disk:
            # entries are denied below this much free space, and the whole disk has less than the default
            system = System.at(disk.place / "home", FKS_MONITOR_DISK_FREE_MIN_MB="1")
            try:
                yield system, disk
            finally:
                disk.free()
                system.down()
                if kept := os.environ.get("FKS_KEEP_LOGS"):
                    shutil.copytree(system.home / "logs", kept, dirs_exist_ok=True)


def kill(pids: dict[str, int], *names: str) -> None:
    """Send kill -9 to components; one that has ended by itself is dead enough."""
    for name in names:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[name], signal.SIGKILL)


def pids_of(system: System) -> dict[str, int]:
    return {name: row["pid"] for name, row in system.components().items() if row["pid"]}


def assert_back(system: System, disk: SmallDisk) -> float:
    """Make space; return the seconds until everything runs: every component, the feeds, the venues."""
    disk.free()
    start = time.monotonic()
    try:
        wait_until(lambda: is_whole(system), deadline_s=BACK_S, every_s=0.2)
    except AssertionError:
        found = system.status()
        raise AssertionError(f"after {BACK_S:g} s it is {found['state']}: {found['reasons']}") from None
    took_s = time.monotonic() - start
    print(f"everything was back {took_s:.1f} s after there was space")
    return took_s


def is_whole(system: System) -> bool:
    found = system.status()
    return found["state"] == "healthy" and bool(found["feeds"]) and found["source"] == "gateway"


def assert_trades(system: System, baseline: Baseline) -> None:
    """A fill is made from now on, and the auditor finds nothing lost, doubled or wrong."""
    system.wait_for_fills(1)
    assert_sound(system, baseline)
