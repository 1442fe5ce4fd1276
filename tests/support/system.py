"""A whole running system for acceptance tests: driven only through the `fks` command, HTTP and signals, as a user
would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from fks.config.paths import Paths
from fks.interfaces.cli.status import find_status
from fks.system.process import ray_names
from tests.support.waiting import wait_until

FKS = str(Path(sys.executable).parent / "fks")
START_S = 150.0  # of a whole system, beside another one and on a slow machine
#: The test profile: waits short enough for a suite, every one of them a setting.
PROFILE = {
    "FKS_HTTP_PORT": "0",
    "FKS_WEB_ENABLED": "false",  # the pages are one more process; tests/contract/interfaces/web serves them
    "FKS_RAY_DASHBOARD_PORT": "0",
    "FKS_SUPERVISION_HEARTBEAT_S": "0.5",
    "FKS_VENUE_SWEEP_S": "5",
    "FKS_VENUE_ABSENT_SPACING_S": "0.5",
    "FKS_VENUE_ABSENT_FIRST_S": "0.5",
    "FKS_VENUE_ABSENT_AGE_S": "3",
    "FKS_SUPERVISION_RESTARTS_MAX": "100",
}


def waiting_without_credentials(pid: int) -> list[int]:
    """Return the worker processes beside `pid` that wait for a child, with an environment without credentials."""
    raylet = psutil.Process(pid).parent()
    assert raylet is not None
    waiting = [process for process in raylet.children() if " ".join(process.cmdline()).startswith(ray_names.IDLE)]
    return [process.pid for process in waiting if process.environ().get("FKS_DATABASE_URL") == ""]


@dataclass
class System:
    """One FKS_HOME and what runs in it."""

    home: Path
    env: dict[str, str]
    _lost: str = ""  # why nothing waits for it any more

    @staticmethod
    def at(home: Path, **settings: str) -> System:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FKS_") or k == "FKS_REQUIRE_ALL"}
        return System(home, env | PROFILE | settings | {"FKS_HOME": str(home), "NO_COLOR": "1"})

    def fks(
        self, *args: str, timeout_s: float = 60.0, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            [FKS, *args], env=self.env, capture_output=True, text=True, timeout=timeout_s, input=stdin
        )
        if check:
            assert done.returncode == 0, f"fks {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *args: str) -> Any:
        """Return what a command prints with --json."""
        return json.loads(self.fks(*args, "--json").stdout)

    def order(self, client: httpx.Client, body: dict[str, str]) -> tuple[str, httpx.Response]:
        """Place an order; return its key and the decided answer. What a busy machine's collector made FEED_STALE is
        requested again."""
        end = time.monotonic() + 30.0
        while True:
            key = uuid.uuid4().hex

            def decided(key: str = key) -> httpx.Response | None:
                found = client.post("/orders", json=body, headers={"Idempotency-Key": key})
                return None if found.status_code == 202 and found.json()["signal_state"] == "ready" else found

            answer = wait_until(decided, deadline_s=30.0)
            assert answer is not None
            if answer.status_code != 422 or answer.json().get("code") != "FEED_STALE" or time.monotonic() > end:
                return key, answer
            time.sleep(0.5)

    def wait_for_order(self, client: httpx.Client, id: str, state: str, *, deadline_s: float = 15.0) -> None:
        """Wait until an order is in `state`; a failure shows the order."""
        try:
            wait_until(lambda: client.get(f"/orders/{id}").json().get("state") == state, deadline_s=deadline_s)
        except AssertionError as error:
            story = "\n".join(client.get(f"/orders/{id}{part}").text for part in ("", "/events"))
            raise AssertionError(f"{error}; wanted {state}\n{story}") from None

    def up(self, *args: str) -> None:
        """Start in the background and wait until it says it is ready."""
        self.fks("up", "--detach", *args, timeout_s=START_S)

    def down(self) -> float:
        """Stop; return the seconds it took."""
        start = time.monotonic()
        self.fks("down", timeout_s=60.0, check=False)
        return time.monotonic() - start

    def status(self) -> Any:
        """Return what `fks status --json` says. The tests ask for it all the time: a process for each question would
        take the processor from the system that they time."""
        return find_status(Paths.of(self.home))

    def wait_until_healthy(self, deadline_s: float = 100.0) -> None:
        """Wait until it is healthy. Errors: AssertionError with its state and reasons; at once where it was not healthy
        after a new start."""
        assert not self._lost, self._lost
        try:
            wait_until(lambda: self.status()["state"] == "healthy", deadline_s=deadline_s, every_s=0.5)
        except AssertionError:
            found = self.status()
            raise AssertionError(f"the system is {found['state']}: {found['reasons']}") from None

    def start_anew(self) -> None:
        """Stop, start, and wait until healthy. Errors: AssertionError, and from then on for each wait."""
        self._lost = "the system did not come back from a new start after an earlier test"
        self.down()
        self.up()
        self._lost = ""
        try:
            self.wait_until_healthy()
        except AssertionError as error:
            self._lost = f"after a new start {error}"
            raise

    def components(self) -> dict[str, Any]:
        return {row["name"]: row for row in self.status()["components"]}

    @property
    def node(self) -> Any:
        return json.loads((self.home / "run" / "node.json").read_text())

    @property
    def url(self) -> str:
        http = self.node["http"]
        return f"http://{http['host']}:{http['port']}"

    def client(self, token: str | None = None) -> httpx.Client:
        """Return an HTTP client with the local admin token, or another one."""
        chosen = token or (self.home / "cli.token").read_text().strip()
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {chosen}"}, timeout=10.0)

    def sim(self, path: str) -> Any:
        """Ask the exchange's own records."""
        return httpx.get(f"{self.node['sim']['rest']}{path}", timeout=10.0).json()

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database by itself: an independent witness, not through the runtime's code."""
        import asyncio

        import asyncpg

        async def ask() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.node["database_url"])
            try:
                return [tuple(row) for row in await connection.fetch(query)]
            finally:
                await connection.close()

        return asyncio.run(ask())

    def processes(self) -> list[psutil.Process]:
        """Return every process that belongs to this home: by its environment or its command line."""
        mine = []
        key = str(self.home)
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid():
                    continue
                if process.environ().get("FKS_HOME") == key or any(key in part for part in process.cmdline()):
                    mine.append(process)
            except (psutil.Error, OSError):
                continue
        return mine

    def listeners(self) -> list[tuple[str, str, int]]:
        """Return program, address and port of everything of this home that listens on TCP.

        Ray's agents overwrite arguments and environment with their titles: they are found by their session.
        """
        sessions = {os.getsid(process.pid) for process in self.processes() if process.is_running()} - {os.getsid(0)}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                for connection in process.net_connections("tcp") if os.getsid(process.pid) in sessions else ():
                    if connection.status == psutil.CONN_LISTEN:
                        host, port = connection.laddr
                        found.append((process.name(), host.removeprefix("::ffff:"), port))
        return found

    def kill(self, name: str) -> dict[str, Any]:
        """kill -9 one component by the pid that status gives; return its row from before."""
        row: dict[str, Any] = self.components()[name]
        assert row["pid"], row
        os.kill(row["pid"], signal.SIGKILL)
        return row

    def back_after(self, name: str, old_pid: int, *, deadline_s: float) -> float:
        """Return the seconds until component `name` is ready under another pid."""
        start = time.monotonic()

        def is_back() -> bool:
            row = self.components().get(name)
            return bool(
                row and row["pid"] and row["pid"] != old_pid and row["state"] in ("ready", "degraded", "running")
            )

        wait_until(is_back, deadline_s=deadline_s, every_s=0.2)
        return time.monotonic() - start

    def fills(self) -> int:
        """Return how many fills are booked."""
        return int(self.sql("SELECT count(*) FROM trades")[0][0])

    def wait_for_fills(self, more: int, *, deadline_s: float = 90.0) -> int:
        """Wait until `more` fills were booked from now on; return the total."""
        start = self.fills()
        wait_until(lambda: self.fills() >= start + more, deadline_s=deadline_s, every_s=0.5)
        return self.fills()
