"""ASGI middleware of every request for a page: the checks of peer and Host, security headers, and a last exception
handler that leaks nothing."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fks.clock import Clock
from fks.config.settings import Http
from fks.system.process.callers import admits_peer, is_own_host

if TYPE_CHECKING:
    from fks.model.ports import Log

#: No inline script or style, no eval, nothing of another host. Bootstrap's icons are data: images in its style sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-src 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a browser sends "Origin: null" with a form
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class PageMiddleware:
    """Pure ASGI. `failed` makes the answer for an exception that nothing handled."""

    def __init__(
        self, app: ASGIApp, clock: Clock, log: Log, http: Http, failed: Callable[[Request, str], Response]
    ) -> None:
        self._app = app
        self._clock = clock
        self._log = log
        self._http = http
        self._failed = failed
        # RFC 6797: HSTS means nothing over plain HTTP
        self._fixed = (*_HEADERS, _HSTS) if http.behind_proxy or http.tls_cert is not None else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. There are no websockets here: browsers open them at the gateway."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                headers = list(message["headers"])
                names = {name.lower() for name, _ in headers}
                message = {**message, "headers": headers + [pair for pair in self._fixed if pair[0] not in names]}
            await send(message)

        if (why := self._refusal(scope)) is not None:
            await PlainTextResponse(why, status_code=421)(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # the outermost handler: the reader gets a page and the log the trace
            request_id = record_failure(self._log, scope["path"], error)
            if is_begun:
                raise  # half an answer is out: break the connection, so that it is not taken for whole
            await self._failed(Request(scope), request_id)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why this peer, or this Host header, is not served at all."""
        peer = scope["client"][0] if scope.get("client") else "127.0.0.1"
        if not admits_peer(peer, self._http):
            return "PROXY_ONLY: these pages are reached through their proxy; http.trusted_proxies names it\n"
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not is_own_host(hosts[0], self._http):
            return "HOST_FORBIDDEN: the Host header names another server; http.allowed_hosts lists further ones\n"
        return None


def record_failure(log: Log, path: str, error: Exception) -> str:
    """Write a fault of ours to the log; return the id under which it stands there."""
    request_id = uuid.uuid4().hex
    trace = "".join(traceback.format_exception(error))[-4000:]
    log.error("web.failed", request_id=request_id, path=path, error=repr(error)[:500], trace=trace)
    return request_id
