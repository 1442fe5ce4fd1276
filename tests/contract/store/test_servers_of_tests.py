"""Servers that a test starts end with the process of the tests, also by kill -9."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fks.system.process.handle import start_mark
from tests.support.waiting import wait_until

#: code that starts a process, whose pid is `found`
STARTS = {
    "postgres": "found = stack.enter_context(servers.running_postgres(paths)).adopt()",
    "mortal postgres": "postgres = servers.MortalPostgres(paths); postgres.kill(); postgres.start(); found = postgres.pid",
    "redis": "found = stack.enter_context(servers.running_redis(paths)).adopt()",
    "child": "multiprocessing.set_forkserver_preload([]); found = children.Child(time.sleep, 600.0).pid",
}
CODE = """
import contextlib, multiprocessing, time
from tests.support import children, servers
with contextlib.ExitStack() as stack:
    paths = stack.enter_context(servers.home())
    {}
    print(found, paths.home, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", STARTS)
def test_server_ends_with_a_killed_process_of_tests(name: str) -> None:
    command = [sys.executable, "-c", CODE.format(STARTS[name])]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pid, home = tests.stdout.readline().split()
        assert start_mark(int(pid)) is not None
        tests.kill()
    wait_until(lambda: start_mark(int(pid)) is None, deadline_s=10.0)
    shutil.rmtree(home.decode())
