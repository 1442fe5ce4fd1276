"""The auditor of chaos finds left-over processes of every class of the tree, by their FKS_HOME, wherever they hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from actors.tree import CLASSES
from fks.clock import RealClock
from fks.config.paths import Paths
from fks.lab.chaos.evidence import KEPT_JOB_S, ORPHAN_S, left_over
from fks.lab.chaos.outside import Outside, SystemProcess

NOW = 1_800_000_000.0
#: as Ray calls the process of each class while a method of it runs
TITLES = [*dict.fromkeys(f"ray::{target.rpartition(':')[2].removesuffix('Actor')}.join" for target in CLASSES.values())]
#: a process that calls itself `argv[1]`, started by one that has ended since: an orphan
CHILD = """
import os, time
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@contextmanager
def orphan(title: str, home: Path) -> Iterator[int]:
    """Yield the pid of a process with that title and FKS_HOME whose parent has ended."""
    started = subprocess.Popen(
        [title, "-c", CHILD],
        executable=sys.executable,
        env={"FKS_HOME": str(home), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.wait()
    try:
        yield pid
    finally:
        os.kill(pid, 9)


def test_orphan_of_every_class_is_found_by_its_home(tmp_path: Path) -> None:
    home, other = (tmp_path / name for name in ("home", "other"))
    outside = Outside(Paths.of(home), RealClock())
    with ExitStack() as stack:
        mine = {title: stack.enter_context(orphan(title, home)) for title in TITLES}
        theirs = stack.enter_context(orphan(TITLES[0], other))
        found = outside.of_home()
        assert {task.pid for task in found} == set(mine.values())
        assert theirs not in {task.pid for task in found}
        left = left_over(found, set(), time.time() + ORPHAN_S + 1.0)
        assert {task.pid for task in left} == set(mine.values())
        known = mine.pop(TITLES[1])
        left = left_over(found, {known}, time.time() + ORPHAN_S + 1.0)
        assert {task.pid for task in left} == set(mine.values())


@pytest.mark.parametrize(
    ("title", "age_s", "is_leaked"),
    [
        ("ray::OrderManager.join", ORPHAN_S + 1, True),
        ("ray::OrderManager.join", ORPHAN_S - 1, False),  # its row may be on its way
        ("ray::ClassOfTomorrow", ORPHAN_S + 1, True),
        ("ray::ServeReplica:gateway:gateway", ORPHAN_S + 1, True),
        ("ray::IDLE", 1e6, False),
        ("ray::ServeController", 1e6, False),
        ("ray::ProxyActor", 1e6, False),
        ("ray::Job.run", ORPHAN_S + 1, False),
        ("ray::Job.run", KEPT_JOB_S + 1, True),
        ("/x/raylet/raylet --raylet_socket_name=a", ORPHAN_S + 1, True),
    ],
)
def test_process_without_a_row_is_left_over_when_it_is_old(title: str, age_s: float, is_leaked: bool) -> None:
    task = SystemProcess(7, title, NOW - age_s)
    assert left_over([task], {8, None}, NOW) == ([task] if is_leaked else [])
    assert left_over([task], {7}, NOW) == []


def test_replicas_of_the_pages_beyond_their_number_are_left_over() -> None:
    older, newer = (SystemProcess(pid, "ray::ServeReplica:pages:pages", NOW - 100 * pid) for pid in (9, 7))
    assert left_over([older, newer], set(), NOW, pages=2) == []
    assert left_over([older, newer], set(), NOW, pages=1) == [older]
    assert left_over([older, newer], set(), NOW) == [older, newer]
