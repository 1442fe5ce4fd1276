"""A real gateway for tests: the app under uvicorn on a free port, with real PostgreSQL and Redis behind it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.settings import AlertsSettings, Settings
from fks.interfaces.api.app import create_app
from fks.interfaces.api.gateway import Deps
from fks.interfaces.web.pages import host_router
from fks.interfaces.web.pages import router as pages
from fks.store.db import Database
from fks.store.tokens import SCOPES, TokenStore
from tests.support.ports import CollectingLog
from tests.support.raw_redis import raw_redis
from tests.support.waiting import until


@dataclass
class Running:
    """A gateway that serves: its address, its app, a token of each scope, and clients that show one."""

    url: str
    app: Any
    log: CollectingLog
    tokens: dict[str, str]

    def client(self, scope: str | None = "admin") -> httpx.AsyncClient:
        """Return a client with the token of `scope`, or without one."""
        headers = {} if scope is None else {"Authorization": f"Bearer {self.tokens[scope]}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=20.0, verify=False)

    async def hears(self) -> bool:
        """Return whether the replica listens to the bus: its sockets receive what is published from now on."""
        gateway = self.app.state.gateway
        async with raw_redis(gateway.deps.redis_url) as client:
            ((_, listeners),) = await client.pubsub_numsub(gateway.hub.own_channel)
        return bool(listeners)

    @property
    def ws(self) -> str:
        return self.url.replace("http://", "ws://") + "/ws"


#: Section `auth` of gateways whose tests are not about limits.
NO_LIMITS: dict[str, Any] = {"anonymous_per_hour": 0, "limit_per_hour": 0, "monitoring_per_hour": 0}


class Server(uvicorn.Server):
    """A server beside a test; its port is known once it has started. It ends as uvicorn does, without the tenths of a
    second that uvicorn waits between two looks."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave pytest its signal handlers."""
        yield

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 100
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: object = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await until(
            lambda: not self.server_state.connections and not self.server_state.tasks, deadline_s=20, every_s=0.005
        )
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@asynccontextmanager
async def running(
    db: Database,
    database_url: str,
    redis_url: str,
    home: Path,
    *,
    name: str = "gateway:0",
    node: Any = None,
    inference: Any = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve the gateway with a token of each scope until the block ends. `settings` are sections, as in
    Settings(http=…)."""
    store = TokenStore(db)
    tokens = {scope: (await store.create(f"t-{scope}", scope))[0] for scope in SCOPES}
    async with serving(
        database_url, redis_url, home, tokens, name=name, node=node, inference=inference, **settings
    ) as gateway:
        await until(gateway.hears, deadline_s=20)
        yield gateway


@asynccontextmanager
async def serving(
    database_url: str,
    redis_url: str,
    home: Path,
    tokens: dict[str, str],
    *,
    name: str = "gateway:0",
    node: Any = None,
    beside: Running | None = None,
    inference: Any = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve the gateway until the block ends; nothing behind it needs to be up. Without limits unless `auth` is given,
    with channels that may lead to this host unless `alerts` is, and no demo unless `sim` is: every call needs a token.
    A caller waits a tenth of a second for an order that no order manager takes, unless `http` has `order_wait_s`."""
    settings["http"] = {"order_wait_s": 0.1, **settings.get("http", {})}
    settings.setdefault("auth", NO_LIMITS)
    settings.setdefault("alerts", AlertsSettings(hosts=("localhost",)))
    settings.setdefault("sim", {"enabled": False})
    settings.setdefault("redis", {"timeout_s": 20.0})  # what tells a slow Redis from a busy machine names its own
    log = CollectingLog()
    paths = Paths.of(home).ensure()
    deps = Deps(
        settings=Settings(home=home, **settings),
        paths=paths,
        clock=RealClock(),
        log=log,
        database_url=database_url,
        redis_url=redis_url,
        name=name,
        node=lambda: node,
        inference=inference,
        **({} if beside is None else {"session_key": beside.app.state.gateway.deps.session_key}),
    )
    app = create_app(deps, pages=(pages,), host_pages=(host_router,))
    server = Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on", proxy_headers=False)
    )
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or task.done(), deadline_s=20)
        assert server.started, "the gateway did not start"
        yield Running(f"http://127.0.0.1:{server.port}", app, log, tokens)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        shutil.rmtree(paths.sockets, ignore_errors=True)


def code_of_error(answer: httpx.Response) -> str:
    """Return the code of an error, which has OpenAI's form on the routes below /v1 and else is a problem document."""
    body: dict[str, Any] = answer.json()
    is_openai = answer.request.url.path.removeprefix("/api/v1").startswith("/v1/")
    assert answer.headers["content-type"] == ("application/json" if is_openai else "application/problem+json"), body
    if not is_openai:
        return str(body["code"])
    assert set(body["error"]) == {"message", "type", "param", "code"}, body
    return str(body["error"]["code"]).upper()


async def hold_lease(db: Database, epoch: int = 0, exchange: str = "binance") -> None:
    """Have a collector that lives, and wrote its feeds in `epoch`: without one no feed is LIVE."""
    await db.sql(
        "INSERT INTO leases (name, epoch, holder, expires_at)"
        " VALUES ('collector:' || $2, $1, 'test', now() + interval '1 hour') ON CONFLICT DO NOTHING",
        epoch,
        exchange,
    )


async def hashes_of(db: Database, *but: str) -> dict[str, str]:
    """Return a hash of every table's rows, but of `but` and of those that the gateway itself writes each second."""
    names = await db.sql("SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'public'")
    found = {}
    for row in names:
        if row["relname"] not in ("component_health", *but):
            rows = await db.sql(
                f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) AS h FROM \"{row['relname']}\" t"
            )
            found[row["relname"]] = rows[0]["h"]
    return found
