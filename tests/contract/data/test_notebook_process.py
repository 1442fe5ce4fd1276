"""A plain program on a node of its own: no Ray, no running FKS; it leaves nothing behind but what FKS took over
meanwhile."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.store import migrate
from fks.system.servers.embedded import PostgresServer, postgres_pid
from tests.support import servers
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from fks.data import *
create_account('mine', initial_balance=100)
assert [a.name for a in get_accounts()] == ['mine'], get_accounts()
assert not [m for m in ('ray', 'ccxt', 'fastapi', 'pyarrow') if m in sys.modules]
print('up', flush=True)
for line in sys.stdin:
    exec(line)
    print('done', flush=True)
"""
LONG_CALL = """
from fks.data.notebook import session
try:
    print('asked', flush=True)
    session().run(lambda db: db.sql('SELECT pg_sleep(60)'))
except KeyboardInterrupt:
    print('stopped')
"""


#: Ctrl-C at every moment of a call, however small
INTERRUPTED = """
import signal, random
from fks.data.notebook import session
dice, stopped = random.Random(7), 0
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
for _ in range(4000):
    try:
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00002, 0.0015))
        session().run(lambda db: db.sql('SELECT 1'))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        stopped += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(stopped > 100)
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Paths]:
    """A node that ran once and is down."""
    with servers.home() as paths:
        with servers.running_postgres(paths) as server:
            asyncio.run(migrate.upgrade(server.url()))
        yield paths


def _start(home: Paths) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FKS_")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**kept, "FKS_HOME": str(home.home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = process.stdout.readline()
    if printed != "up\n":
        process.kill()
        raise AssertionError(process.stderr.read() if process.stderr else printed)
    return process


def test_store_is_started_and_stopped_with_the_program(home: Paths) -> None:
    assert postgres_pid(home) is None
    process = _start(home)
    assert postgres_pid(home) is not None
    out, err = process.communicate(
        "connect()\nprint(len(get_accounts()))\n", timeout=30
    )  # begun again, stopped in between
    assert (process.returncode, err) == (0, "")
    assert out.split() == ["done", "1", "done"]
    wait_until(lambda: postgres_pid(home) is None)


def test_a_store_that_fks_took_over_is_left_alone(home: Paths) -> None:
    process = _start(home)
    home.run.mkdir(parents=True, exist_ok=True)
    with (home.run / "keeper.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process.communicate(timeout=30)
        pid = postgres_pid(home)
    assert pid is not None
    PostgresServer(home, load_secrets(home)).stop(pid)


def test_ctrl_c_at_any_moment_of_a_call_leaves_a_session_that_works(home: Paths) -> None:
    process = _start(home)
    out, err = process.communicate(f"exec({INTERRUPTED!r})\nprint(len(get_accounts()))\n", timeout=60)
    assert out.split() == ["True", "done", "1", "done"], err


def test_ctrl_c_ends_the_call_and_not_the_session(home: Paths) -> None:
    process = _start(home)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"exec({LONG_CALL!r})\n")
    process.stdin.flush()
    while process.stdout.readline() != "asked\n":
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate("print(len(get_accounts()))\n", timeout=30)
    assert out.split() == ["stopped", "done", "1", "done"], err
    assert process.returncode == 0
