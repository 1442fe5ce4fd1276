"""The pages beside a real gateway, as Ray Serve has them: one address, `/app` is theirs and all else the gateway's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from fks.clock import RealClock
from fks.config.secrets import derived
from fks.config.settings import Http
from fks.interfaces.web.app import create_app
from fks.interfaces.web.assets import AssetFiles
from fks.interfaces.web.client import GatewayClient
from fks.interfaces.web.site import SiteDeps
from tests.support.gateway import Running, Server
from tests.support.ports import CollectingLog
from tests.support.users import PASSWORD, add_user, enrol
from tests.support.waiting import until

ROOT = "/app"


@dataclass
class Web:
    """Pages and gateway at one address."""

    url: str
    gateway: Running
    log: CollectingLog
    app: Starlette
    counter: _Beside

    @property
    def reads(self) -> int:
        """Return how many requests the pages have served."""
        return self.counter.served

    def client(self, **more: Any) -> httpx.AsyncClient:
        """Return a browser without scripts: it keeps cookies and follows no redirect."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20.0, verify=False, **more)


class _Beside:
    """Serve's proxy in small: the longest prefix wins, and both applications see the same connection."""

    def __init__(self, pages: ASGIApp, gateway: ASGIApp) -> None:
        self._pages, self._gateway = pages, gateway
        self.served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == ROOT or path.startswith(ROOT + "/")):
            self.served += 1
            inner = {**scope, "root_path": ROOT}
            await self._pages(inner, receive, send)
        else:
            await self._gateway(scope, receive, send)


@asynccontextmanager
async def pages_beside(
    gateway: Running, *, http: Http | None = None, assets: AssetFiles | None = None
) -> AsyncIterator[Web]:
    """Serve the pages and a running gateway's application at a new address until the block ends."""
    log = CollectingLog()
    key = gateway.app.state.gateway.deps.session_key.get_secret_value()
    client = GatewayClient(gateway.url, forward_key=derived(key, "pages"), is_tls=gateway.app.state.tokens.is_tls)
    app = create_app(
        SiteDeps(http=http or Http(), clock=RealClock(), log=log, gateway=client, assets=assets or AssetFiles())
    )
    beside = _Beside(app, gateway.app)
    server = Server(
        uvicorn.Config(
            beside,
            host="127.0.0.1",
            port=0,
            log_level="warning",
            lifespan="off",
            proxy_headers=False,
        )
    )
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or task.done(), deadline_s=20)
        assert server.started, "the pages did not start"
        yield Web(f"http://127.0.0.1:{server.port}", gateway, log, app, beside)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)
        await client.close()


async def make_user(web: Web, name: str, scope: str, **more: Any) -> str | None:
    """Make a user with PASSWORD and, where the scope needs it, a second factor; return its secret."""
    await add_user(web.gateway, name, scope, **more)
    if scope not in ("trade", "admin"):
        return None
    async with web.gateway.client(None) as client:
        body = {"user": name, "password": PASSWORD}
        access = (await client.post("/auth/login", json=body)).json()["access_token"]
        return await enrol(client, {"Authorization": f"Bearer {access}"})


async def log_in(web: Web, client: httpx.AsyncClient, name: str, code: str = "") -> None:
    """Log a browser in by the form."""
    form = {"user": name, "password": PASSWORD, "totp": code}

    async def answered() -> httpx.Response | None:
        found = await client.post("/app/login", data=form)
        return None if "UNAVAILABLE" in found.text else found  # a busy database: the page asks for a repeat

    answer = await until(answered, deadline_s=20)
    assert answer is not None
    assert answer.status_code == 303, answer.text


async def csrf_of(client: httpx.AsyncClient, path: str = "/app/") -> str:
    """Return the token that the forms of a page carry."""
    page = await client.get(path)
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found, page.text[:2000]
    return found[1]
