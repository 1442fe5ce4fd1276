"""Access to the system from outside: node file, rows, the keeper's control socket and log, the exchange, the processes.

Nothing here is the runtime's: an own connection to PostgreSQL and Redis, an own HTTP client, the process table.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import psutil
import redis.asyncio
from redis.exceptions import RedisError

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints, load_node
from fks.config.load import load
from fks.config.machine import can_reach, is_in_this_space
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.lab.chaos.plan import Roster
from fks.model.errors import InputError, OutageError, invalid

APPLICATION = "fks-chaos"
TIMEOUT_S = 3.0
SERVICES = ("postgres", "redis", "sim")
DEMO = "chaos is for a demo: 'fks up' with sim.enabled = true and venue.live = false, nothing else"
_LOOPBACK = re.compile(r"(127\.|localhost\b|\[?::1\b)")
RAY_TITLE = "ray::"  # of every worker process: ray::OrderManager.join, ray::IDLE
RAY_PROGRAMS = frozenset({"raylet", "gcs_server"})
ROLES = frozenset({"supervisor", "guardian", "orders", "collector", "strategy", "scheduler", "monitor"})
DATABASE_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class SystemProcess:
    """A process of the system. `title` is its name in the process table."""

    pid: int
    title: str
    born_s: float


class Outside:
    """One running system. Calls are independent of each other; a part that is away raises OutageError."""

    def __init__(self, paths: Paths, clock: Clock) -> None:
        self.paths, self.clock = paths, clock
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self._https: httpx.AsyncClient | None = None

    def now_s(self) -> float:
        """Return the time of day in unix seconds."""
        return self.clock.now_ns() / 1e9

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._https is not None:
            await self._https.aclose()

    @property
    def node(self) -> NodeEndpoints:
        """Return the node file's present contents. Errors: OutageError when nothing runs."""
        return load_node(self.paths)

    def pages(self) -> int:
        """Return how many replicas of the pages this node should have. Errors: OutageError when nothing runs."""
        try:
            web = settings_of_process(self.paths, self.node.pids.get("keeper", 0)).web
        except InputError as error:
            raise OutageError(f"the keeper's settings cannot be read: {error}") from error
        return web.replicas if web.enabled else 0

    # ── PostgreSQL and Redis ─────────────────────────────────────────────────────────────────────
    async def connect(self) -> Any:
        """Return a new connection of our own. Errors: OutageError."""
        try:
            return await asyncpg.connect(
                self.node.database_url,
                timeout=TIMEOUT_S,
                command_timeout=10.0,
                server_settings={"application_name": APPLICATION, "timezone": "UTC", "lock_timeout": "2000"},
            )
        except DATABASE_ERRORS as error:
            raise OutageError(f"PostgreSQL does not answer ({type(error).__name__})") from error

    async def sql(self, text: str, *args: object) -> list[Any]:
        """Run one statement. Errors: OutageError, also for statements that the server refuses."""
        connection = await self.connect()
        try:
            return list(await connection.fetch(text, *args))
        except DATABASE_ERRORS as error:
            raise OutageError(f"PostgreSQL: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(*DATABASE_ERRORS):
                await connection.close(timeout=1.0)

    async def redis(self, *command: object) -> Any:
        """Send one Redis command. Errors: OutageError."""
        client = redis.asyncio.from_url(self.node.redis_url, socket_timeout=TIMEOUT_S, client_name=APPLICATION)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            raise OutageError(f"Redis: {type(error).__name__}: {error}") from error
        finally:
            await client.aclose()

    # ── the exchange, the gateway, the keeper ────────────────────────────────────────────────────
    async def exchange(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Send a request to the local exchange. Errors: OutageError, InputError for a refused request."""
        node = self.node
        if node.sim is None:
            raise OutageError("there is no local exchange")
        try:
            answer = await self._http.request(method, f"{node.sim['rest']}{path}", json=body)
        except httpx.HTTPError as error:
            raise OutageError(f"the exchange does not answer ({type(error).__name__})") from error
        if answer.status_code >= 400:
            raise InputError(f"the exchange refused {method} {path}: {answer.text[:200]}")
        return answer.json()

    async def gateway_answers(self) -> bool:
        """Return whether the gateway answers anything over HTTP."""
        node = self.node
        try:
            answer = await self._client(node).get(f"{node.gateway_url}/health")
        except httpx.HTTPError:
            return False
        return answer.status_code < 500

    async def gateway(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, key: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Send one request with the local command line's token; return status and answer. Errors: OutageError."""
        node = self.node
        try:
            token = self.paths.cli_token_file.read_text().strip()
            answer = await self._client(node).request(
                method,
                f"{node.gateway_url}{path}",
                json=body,
                headers={"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {}),
            )
            found = answer.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise OutageError(f"the gateway does not answer ({type(error).__name__})") from error
        return answer.status_code, found if isinstance(found, dict) else {}

    def _client(self, node: NodeEndpoints) -> httpx.AsyncClient:
        """Return the client for the gateway: by HTTPS it trusts the node's own certificate, and no other."""
        context = node.tls_context() if self._https is None else None
        if context is not None:
            self._https = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, verify=context)
        return self._http if node.tls_cert is None or self._https is None else self._https

    async def keeper(self, op: str, **more: object) -> dict[str, Any]:
        """Send an operation to the keeper's control socket. Errors: OutageError."""
        line = json.dumps({"op": op, **more}).encode() + b"\n"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(str(self.paths.keeper_socket), limit=2**22)
                try:
                    writer.write(line)
                    answer: dict[str, Any] = json.loads(await reader.readline() or b"{}")
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError) as error:
            raise OutageError(f"the keeper does not answer ({type(error).__name__})") from error
        if not answer.get("ok", False):
            raise OutageError(f"the keeper refused {op}: {answer.get('error')}")
        return answer

    # ── processes ────────────────────────────────────────────────────────────────────────────────
    def tasks(self) -> list[SystemProcess]:
        """Return Ray's processes of this system: those whose raylet keeps its sockets under this home's own path."""
        return [task for root in self._raylets() for task in descendants(root)]

    def _raylets(self) -> Iterator[psutil.Process]:
        mark = str(self.paths.ray_temp)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.name().startswith("raylet") and any(mark in part for part in process.cmdline()):
                    yield process

    def of_home(self) -> list[SystemProcess]:
        """Return the processes of this system's Ray wherever they hang: those that were started with this FKS_HOME.

        An orphan whose raylet died is no descendant of anything; its environment stays. What Ray's titles cannot hold
        (GCS, raylet) is found by its program.
        """
        home, found = str(self.paths.home), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                title = " ".join(process.cmdline()) or process.name()
                if not title.startswith(RAY_TITLE) and process.name() not in RAY_PROGRAMS:
                    continue
                if (
                    process.environ().get("FKS_HOME") == home
                    and is_in_this_space(process.pid)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(SystemProcess(process.pid, title, process.create_time()))
        return found

    def everything(self) -> list[int]:
        """Return the pids of the whole system but ourselves, the keeper and its parent first: for a power cut."""
        found = set(self.node.pids.values())
        for pid in list(found):
            with contextlib.suppress(psutil.Error):
                found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
        first = [pid for name in ("keeper-parent", "keeper") if (pid := self.node.pids.get(name, 0))]
        found |= {task.pid for task in (*self.tasks(), *self.of_home())}
        return [*first, *sorted(found - {*first, os.getpid()})]

    # ── what is here, and may it be hurt? ────────────────────────────────────────────────────────
    async def roster(self) -> Roster:
        """Return the names of the running parts. Errors: OutageError, also while the tree still starts: a plan needs
        all of it."""
        rows = await self.sql("SELECT name, kind FROM component_health")
        actors = tuple(row["name"] for row in rows if row["kind"] == "actor" and ":solo:" not in row["name"])
        if missing := ROLES - {name.partition(":")[0] for name in actors}:
            raise OutageError(
                f"the tree is not complete: no {min(missing)}", remedy="wait until 'fks status' says healthy"
            )
        return Roster(actors, tuple(row["name"] for row in rows if row["kind"] == "service"))

    async def refuse_unless_demo(self, settings: Settings) -> None:
        """Return only when no real money can be touched, neither by these settings nor by those the system was started
        with (its environment need not be this shell's). Errors: InputError with the reason, OutageError,
        ConfigError."""
        node, remedy = self.node, DEMO
        roots = [node.pids.get("keeper", 0), *(raylet.pid for raylet in self._raylets())]
        for given in (settings, *(settings_of_process(self.paths, pid) for pid in roots)):
            refuse_settings(given, None if node.sim is None else node.sim["rest"])
        machines = await self.sql("SELECT address FROM nodes WHERE beat_at > clock_timestamp() - interval '30 s'")
        refuse_machines([row["address"] for row in machines])
        rows = await self.sql(
            "SELECT name, venue, mode FROM accounts WHERE is_enabled AND venue NOT IN ('ccxt', 'paper')"
        )
        if rows:
            raise invalid("NOT_A_DEMO", f"account {rows[0]['name']} is on {rows[0]['venue']}", remedy)
        rows = await self.sql("SELECT name, detail->>'space' AS space FROM component_health WHERE pid IS NOT NULL")
        if elsewhere := [row["name"] for row in rows if not can_reach(row["space"])]:
            raise invalid(
                "NOT_A_DEMO",
                f"{elsewhere[0]} runs where its pid names another process (another boot or pid namespace)",
                DEMO,
            )
        if not all(psutil.pid_exists(node.pids.get(name, 0)) for name in SERVICES):
            raise invalid("NOT_A_DEMO", "PostgreSQL, Redis and the exchange are not all this node's own", remedy)


def settings_of_process(paths: Paths, pid: int) -> Settings:
    """Return the settings of the home as a process with that environment reads them. Errors: InputError when its
    environment cannot be read, as its accounts are then unknown."""
    try:
        environ = psutil.Process(pid).environ()
    except (psutil.Error, OSError, ValueError):
        environ = {}
    if not environ:  # empty also for a moment at a process's start
        reason = f"process {pid} does not tell with which settings it runs"
        raise invalid("NOT_A_DEMO", reason, DEMO)
    return load(paths.home, environ).settings


def refuse_settings(settings: Settings, sim_url: str | None) -> None:
    """Return only when these settings know no exchange but the local one at `sim_url`. Errors: InputError."""
    if settings.venue.live:
        raise invalid("NOT_A_DEMO", "venue.live is true: this system trades real money", DEMO)
    if sim_url is None or not settings.sim.enabled:
        raise invalid("NOT_A_DEMO", "no local exchange runs here", DEMO)
    for name, url in (("venue.rest_url", settings.venue.rest_url), ("data.rest_url", settings.data.rest_url)):
        if url is not None and url.rstrip("/") != sim_url:
            raise invalid("NOT_A_DEMO", f"{name} is not the local exchange", DEMO)


def refuse_machines(addresses: Sequence[str]) -> None:
    """Return only when the whole system is on this machine: a pid in another machine's row is a different process here.
    Errors: InputError."""
    if len(addresses) > 1 and not all(_LOOPBACK.match(address) for address in addresses):
        raise invalid("NOT_A_DEMO", f"the system is on {len(addresses)} machines", DEMO)


def descendants(root: psutil.Process) -> list[SystemProcess]:
    """Return a process's living descendants."""
    found = []
    with contextlib.suppress(psutil.Error, OSError):
        for child in root.children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                title = " ".join(child.cmdline()) or child.name()
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(SystemProcess(child.pid, title, child.create_time()))
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; return whether it was there."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
