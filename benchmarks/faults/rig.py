"""A running demo system with its own defaults, and the witnesses that time what becomes of a fault.

Times come from where things happen: `actor_events.time` is PostgreSQL's clock, a log line carries its own, HTTP and SQL
are polled every 10 to 20 ms. One machine, so one clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import psutil

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.lab.chaos.outside import Outside
from fks.model.errors import OutageError
from tests.support.cluster import Cluster
from tests.support.system import PROFILE, System

T = TypeVar("T")
#: Ports, risk limits, and what keeps one death apart from the next: every other wait is the default a user gets.
SETTINGS = {
    "FKS_HTTP_PORT": "0",
    "FKS_RAY_DASHBOARD_PORT": "0",
    "FKS_RISK_ORDERS_OPEN_MAX": "5000",
    "FKS_RISK_ORDERS_PER_MINUTE": "100000",
    # The benchmark kills one child more often than any crash loop: each death is to count as its first, without a wait.
    "FKS_SUPERVISION_RESTARTS_MAX": "1000",
    "FKS_SUPERVISION_BACKOFF_RESET_S": "1",
}
ACTORS = ("guardian", "orders", "collector:binance", "strategy:0", "scheduler", "monitor")
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, OutageError)


@dataclass
class Sample:
    """One repetition of one row: seconds, None where there is nothing to time. `wrong` says what did not hold."""

    detected: float | None = None
    serving: float | None = None
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    at: float = 0.0  # when the fault was injected, epoch seconds


class Missed(Exception):
    """A fault from which the system did not come back in time; the text says what was waited for."""


class Rig:
    """The system, a connection to its database that is renewed when it breaks, and a client of its gateway."""

    def __init__(self, system: System, cluster: Cluster | None = None) -> None:
        self.system, self.cluster = system, cluster
        self.outside = Outside(Paths.of(system.home), RealClock())
        self._db: asyncpg.Connection[asyncpg.Record] | None = None
        self._keys = 0
        self._born = f"{time.time():.0f}"

    @staticmethod
    def at(home: Path, **settings: str) -> Rig:
        system = System.at(home)
        for name in PROFILE:
            system.env.pop(name, None)
        system.env.update(SETTINGS | settings)
        return Rig(system)

    # ── witnesses ────────────────────────────────────────────────────────────────────────────────
    async def rows(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Ask the database; a broken connection is an error of the caller's to wait out."""
        try:
            if self._db is None or self._db.is_closed():
                self._db = await asyncpg.connect(self.system.node["database_url"], timeout=2.0)
            return list(await self._db.fetch(query, *args, timeout=5.0))
        except _AWAY:
            if self._db is not None:
                self._db.terminate()
            self._db = None
            raise

    async def event(
        self, child: str, events: tuple[str, ...], after: float, deadline_s: float = 60.0
    ) -> asyncpg.Record:
        """Return the first such event of a child after a moment, `at` in epoch seconds."""

        async def look() -> asyncpg.Record | None:
            found = await self.rows(
                "SELECT *, extract(epoch FROM time)::float8 AS at FROM actor_events"
                " WHERE child = $1 AND event = ANY($2) AND time > to_timestamp($3) ORDER BY id LIMIT 1",
                child,
                list(events),
                after,
            )
            return found[0] if found else None

        return await self.until(look, deadline_s, f"{child} {'/'.join(events)}")

    async def until(
        self, look: Callable[[], Awaitable[T | None]], deadline_s: float, what: str, every_s: float = 0.01
    ) -> T:
        """Return the first true answer. Errors: Missed. What cannot be asked yet counts as no."""
        end = time.monotonic() + deadline_s
        while True:
            try:
                found = await look()
            except _AWAY:
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise Missed(f"no {what} within {deadline_s:g} s")
            await asyncio.sleep(every_s)

    def lines(self, component: str, after: float) -> list[dict[str, Any]]:
        """Return a component's log lines after a moment, each with `at` in epoch seconds, rotated files included."""
        found = []
        for file in (self.system.home / "logs").glob(f"{component.replace(':', '-')}.jsonl*"):
            for line in file.read_text(errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    entry["at"] = datetime.fromisoformat(entry["ts"]).timestamp()
                except (ValueError, KeyError, TypeError):
                    continue
                if entry["at"] > after:
                    found.append(entry)
        return sorted(found, key=lambda entry: float(entry["at"]))

    async def line(
        self, component: str, events: tuple[str, ...], after: float, deadline_s: float = 30.0, **facts: Any
    ) -> float:
        """Return when a component first logged one of these after a moment."""

        async def look() -> float | None:
            for entry in self.lines(component, after):
                if entry["event"] in events and all(entry.get(key) == value for key, value in facts.items()):
                    return float(entry["at"])
            return None

        return await self.until(look, deadline_s, f"line {events} of {component}", every_s=0.05)

    async def pids(self) -> dict[str, int]:
        """Return each actor's pid as its own row says."""
        found = await self.rows("SELECT name, pid FROM component_health WHERE kind = 'actor' AND pid IS NOT NULL")
        return {row["name"]: row["pid"] for row in found}

    def ray_pids(self, title: str) -> list[int]:
        """Return the processes of this home whose title starts so ('ray::ProxyActor')."""
        found = []
        for process in self.system.processes():
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    # ── doing ────────────────────────────────────────────────────────────────────────────────────
    async def kill(self, name: str, how: int = signal.SIGKILL) -> tuple[float, int]:
        """Signal a component by the pid that status gives; return the moment and the pid."""

        async def running() -> int | None:  # a part that was just started again may not be in the status yet
            row = (await asyncio.to_thread(self.system.components)).get(name)
            return row["pid"] if row is not None else None

        pid: int = await self.until(running, 30.0, f"pid of {name}", every_s=0.2)
        return self.end(pid, how), pid

    @staticmethod
    def end(pid: int, how: int = signal.SIGKILL) -> float:
        """Signal a process; return the moment before."""
        now = time.time()
        os.kill(pid, how)
        return now

    async def healthy(self, deadline_s: float = 120.0) -> None:
        """Wait until the whole system says so, twice in a row."""
        in_a_row = 0

        async def look() -> bool:
            nonlocal in_a_row
            status = await asyncio.to_thread(self.system.status)
            in_a_row = in_a_row + 1 if status["state"] == "healthy" else 0
            return in_a_row >= 2

        try:
            await self.until(look, deadline_s, "healthy status", every_s=0.3)
        except Missed:
            status = await asyncio.to_thread(self.system.status)
            raise Missed(f"still {status['state']} after {deadline_s:g} s: {'; '.join(status['reasons'])}") from None

    def client(self) -> httpx.AsyncClient:
        """Return a client of the gateway with the local token."""
        token = (self.system.home / "cli.token").read_text().strip()
        limits = httpx.Limits(max_connections=64)
        return httpx.AsyncClient(
            base_url=self.system.url, headers={"Authorization": f"Bearer {token}"}, timeout=10.0, limits=limits
        )

    def key(self) -> str:
        """Return an idempotency key that was never used in this home."""
        self._keys += 1
        return f"bench-{self._born}-{self._keys}"

    async def price(self, client: httpx.AsyncClient, symbol: str = "BTCUSDT") -> float:
        """Return the newest price."""
        return float((await client.get(f"/market-data/{symbol}")).json()["price"])

    async def close(self) -> None:
        await self.outside.close()
        if self._db is not None:
            self._db.terminate()
