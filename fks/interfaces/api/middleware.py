"""HTTP middleware of every request: the checks of peer and Host, an id, security headers, limits, the audit of the
answer, a count, a duration, and a last exception handler that leaks nothing."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fks.clock import Clock
from fks.config.settings import Http
from fks.interfaces.api import aliases, policy
from fks.interfaces.api.idempotency import BufferedBody
from fks.interfaces.api.limits import RequestAllowance
from fks.interfaces.api.problems import AnsweredBefore, count_refusal, of_error
from fks.interfaces.api.tracing import Trace, request_id_of, trace_of
from fks.model.errors import FksError, InputError, Problem, not_found
from fks.system.process.callers import admits_peer, is_own_host

if TYPE_CHECKING:
    from fks.model.ports import Log

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"x-xss-protection", b"0"),  # the old filters that this switches off were themselves a vulnerability
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NO_STORE = (b"cache-control", b"no-store")
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class RequestMiddleware:
    """Pure ASGI, because Starlette's helper class would buffer and re-raise."""

    def __init__(self, app: ASGIApp, clock: Clock, log: Log, http: Http, *, is_behind_serve: bool = False) -> None:
        """`is_behind_serve`: Ray Serve's proxy adds the request's `x-request-id` to the answer itself."""
        self._is_behind_serve = is_behind_serve
        self._app = app
        self._clock = clock
        self._log = log
        self._http = http
        # RFC 6797: HSTS means nothing over plain HTTP
        self._fixed = (*_HEADERS, _HSTS) if http.behind_proxy or http.tls_cert is not None else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; lifespan passes through, and websockets after the checks of peer and Host."""
        if scope["type"] == "websocket" and self._refusal(scope) is not None:
            await send({"type": "websocket.close", "code": 1008})  # before the handshake: the client gets a 403
            return
        if scope["type"] == "websocket":
            scope = aliases.resolved(scope)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock.monotonic()
        is_head = scope["method"] == "HEAD"
        if is_head:  # answered as GET, without the body (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        scope = aliases.resolved(scope)
        request_id = request_id_of(_header(scope, b"x-request-id"))
        trace = trace_of(_header(scope, b"traceparent"))
        state = scope.setdefault("state", {})
        state["arrived_ns"] = self._clock.now_ns()  # the age of an order request counts from here
        state["request_id"], state["trace_id"] = request_id, trace.trace_id
        seen: dict[str, Any] = {"status": 0}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                gateway = _gateway_of(scope)
                if gateway is not None and "audited" in state:
                    await gateway.audit.answered(scope, message["status"])
                if "idempotent" in state and gateway is not None:
                    gateway.idempotency.note(state["idempotent"], message)
                headers = list(message["headers"])
                headers += self._further(headers, message["status"], request_id, trace, state)
                message = {**message, "headers": headers}
            elif "idempotent" in state:
                idempotency = _gateway_of(scope).idempotency
                if idempotency.note(state["idempotent"], message):  # kept before the caller can repeat the call
                    await idempotency.finish(state.pop("idempotent"))
            if is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        if scope["method"] not in policy.READS and _header(scope, b"idempotency-key") is not None:
            receive = state["buffered_body"] = BufferedBody(receive)
        try:
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # PostgreSQL cannot even compare with it
                raise not_found("NOT_FOUND", "the address holds the character NUL", "leave it out")
            if (refusal := self._refusal(scope)) is not None:
                raise refusal
            await self._app(scope, receive, send_with_headers)
        except (InputError, Problem, AnsweredBefore) as error:
            count_refusal(_gateway_of(scope), error)
            await of_error(error, scope["path"])(scope, receive, send_with_headers)
        except Exception as error:  # the outermost handler: the caller gets a document and the log the trace
            self._log_failure(error, request_id, scope)
            if seen["status"]:
                raise  # half an answer is out: break the connection, so that it is not taken for whole
            await of_error(error, scope["path"])(scope, receive, send_with_headers)
        finally:
            self._count(scope, seen["status"], self._clock.monotonic() - started)

    def _refusal(self, scope: Scope) -> Problem | None:
        """Return why this peer, or this Host header, is not served at all."""
        peer = scope["client"][0] if scope.get("client") else "127.0.0.1"
        if not admits_peer(peer, self._http):
            return Problem(
                403,
                "PROXY_ONLY",
                "this gateway is reached through its proxy",
                remedy="use the proxy's address; http.trusted_proxies names it",
            )
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1 or not all(is_own_host(host, self._http) for host in hosts):
            return Problem(
                421,
                "HOST_FORBIDDEN",
                "the Host header names another server",
                remedy="use the gateway's own name; http.allowed_hosts lists further ones",
            )
        return None

    def _further(
        self, headers: list[tuple[bytes, bytes]], status: int, request_id: str, trace: Trace, state: dict[str, Any]
    ) -> list[tuple[bytes, bytes]]:
        """Return the headers that an answer gets besides its own."""
        given = {name.lower(): value for name, value in headers}
        allowance: RequestAllowance | None = state.get("allowance")
        limits = {} if allowance is None else {k.lower().encode(): v.encode() for k, v in allowance.headers.items()}
        if status == 429 and limits and (retry_after := given.get(b"retry-after")):
            limits[b"ratelimit-reset"] = retry_after  # a client that waits for either one is served
        extra = [(name, value) for name, value in (*self._fixed, _CSP, _NO_STORE, *limits.items()) if name not in given]
        own = [(b"traceparent", trace.header.encode())]
        if not self._is_behind_serve:
            own.append((b"x-request-id", request_id.encode()))
        return [*extra, *own]

    def _log_failure(self, error: Exception, request_id: str, scope: Scope) -> None:
        trace = "" if isinstance(error, FksError) else "".join(traceback.format_exception(error))[-4000:]
        self._log.error(
            "gateway.failed",
            request_id=request_id,
            trace_id=scope["state"]["trace_id"],
            path=scope["path"],
            error=f"{type(error).__name__}: {error}",
            trace=trace,
        )

    @staticmethod
    def _count(scope: Scope, status: int, seconds: float) -> None:
        gateway = _gateway_of(scope)
        if gateway is None:
            return
        # the route's template, never the path: a client must not be able to make new series
        route = getattr(scope.get("route"), "path", "unmatched")
        gateway.rate.note()
        gateway.meter.count("fks_http_requests_total", route=route, status=str(status))
        gateway.meter.observe("fks_http_request_seconds", seconds, route=route)


def _header(scope: Scope, wanted: bytes) -> str | None:
    """Return a header's value; None without it, or when it is there more than once."""
    found = [value for name, value in scope["headers"] if name == wanted]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _gateway_of(scope: Scope) -> Any:
    """Return the gateway that serves the request; None before the app is open, and where no app was reached."""
    return getattr(scope["app"].state, "gateway", None) if "app" in scope else None
