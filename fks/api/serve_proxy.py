"""Serve's HTTP proxy for the gateway: it answers once it has its routes, and follows the files of its certificate.

Ray calls `middlewares` in each proxy process (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), before its server starts.
Without the middleware a new proxy answers 404 to everything until the controller has sent it the routes: to a client,
that an order does not exist.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fks.api.certificate_files import follow_files
from fks.clock import RealClock

ROUTES_S = 10.0  # the routes are there within a second, or the controller is away
LOOK_S = 0.05


class HoldUntilRouted:
    """Holds requests until the proxy reports itself healthy (it has routes), at most `ROUTES_S`; then costs one look
    at a flag."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._has_routes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as soon as that makes sense."""
        if not self._has_routes and scope["type"] in ("http", "websocket"):
            await self._wait()
        await self._app(scope, receive, send)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(ROUTES_S):
                while not await self._is_healthy():  # noqa: ASYNC110  # Serve offers no event
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return  # the proxy's own answer says what is wrong
        self._has_routes = True

    async def _is_healthy(self) -> bool:
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        await self._app(_HEALTH, receive, send)
        return status == 200


_HEALTH: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/-/healthz",
    "raw_path": b"/-/healthz",
    "root_path": "",
    "query_string": b"",
    "headers": [],
    "client": ("127.0.0.1", 0),
    "server": ("127.0.0.1", 0),
}


def middlewares() -> list[Middleware]:
    """Return what Serve puts around its HTTP proxy, and have the certificate that it presents follow its files.

    Serve makes the server, and passes uvicorn the files alone: so uvicorn's function for them is replaced here.
    """
    if not hasattr(uvicorn.config.create_ssl_context, "__wrapped__"):
        uvicorn.config.create_ssl_context = follow_files(uvicorn.config.create_ssl_context, RealClock())
    return [Middleware(HoldUntilRouted)]
