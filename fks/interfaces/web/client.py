"""HTTP client of the gateway, with the reader's own session. The only way by which the pages get data."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import orjson

from fks.config.endpoints import TrustedFile
from fks.interfaces.web.sharing import Shared
from fks.system.process.callers import CLIENT_HEADER, client_header

#: Seconds for one call; the gateway's own limits (statements, an order's wait, the guardian's answer) are shorter.
TIMEOUT_S = 20.0
_COOKIE = re.compile(r"[A-Za-z0-9._~-]{1,400}")
_KEPT_ALIVE_MAX, _CONNECTIONS_MAX = 20, 100


class GatewayRefusal(Exception):
    """An answer of the gateway that is an error (RFC 9457), or that did not come."""

    def __init__(self, status: int, code: str, detail: str, remedy: str = "", **members: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail, self.remedy = status, code, detail, remedy
        self.members = members

    @property
    def places(self) -> list[Mapping[str, Any]]:
        """Return the fields that are wrong, as {where, why}."""
        found = self.members.get("errors")
        return [place for place in found if isinstance(place, dict)] if isinstance(found, list) else []

    @property
    def retry_after_s(self) -> int | None:
        """Return after how many seconds a repeat may succeed."""
        found = self.members.get("retry_after")
        return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class BrowserCaller:
    """Facts of the browser's request that the gateway needs to decide: `session` is the value of its cookie."""

    session: str = field(repr=False)
    address: str
    host: str
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """A successful answer of the gateway."""

    status: int
    body: Any
    set_cookie: tuple[str, ...] = ()


class _Read(NamedTuple):
    """A read, as far as its answer depends on it."""

    caller: BrowserCaller
    path: str
    params: tuple[tuple[str, Any], ...]


class GatewayClient:
    """Calls of the gateway by all requests of this process. Soft state: its connections, which are kept alive, and the
    reads under way, which requests of one session share."""

    def __init__(
        self,
        url: str,
        *,
        forward_key: bytes,
        is_tls: bool = False,
        trust: TrustedFile | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`forward_key` proves to the gateway that the forwarded address of a client is true. `is_tls`: browsers reach
        this host by TLS, which decides the name of the session's cookie. `trust`: in the gateway's own certificate, for
        HTTPS."""
        self._trust = trust
        self._forward_key = forward_key
        self.cookie_name = "__Host-fks_session" if is_tls else "fks_session"
        limits = httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_KEPT_ALIVE_MAX)
        # retries: a connection that the gateway's proxy had closed meanwhile is opened again; nothing was sent on it
        verify = url.startswith("https:") if trust is None else trust.context
        transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits, retries=1, trust_env=False)
        self._http = httpx.AsyncClient(base_url=url, transport=transport, timeout=timeout_s, trust_env=False)
        self._reads: Shared[_Read, httpx.Response] = Shared()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    def session_of(self, cookies: Mapping[str, str]) -> str:
        """Return the session's cookie among those of a request; "" without a usable one."""
        found = cookies.get(self.cookie_name, "")
        return found if _COOKIE.fullmatch(found) else ""

    async def read(self, caller: BrowserCaller, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return what GET `path` answers. Errors: GatewayRefusal."""
        known = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in (params or {}).items()
            if value is not None
        )
        wanted = _Read(caller, path, known)
        answer = await self._reads.get(wanted, lambda: self._call("GET", caller, path, params=dict(known)))
        return _answer(answer).body

    async def change(
        self,
        caller: BrowserCaller,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        csrf: str = "",
        key: str | None = None,
    ) -> GatewayAnswer:
        """Send a change. `key` makes its repeat harmless where the route takes one. Errors: GatewayRefusal."""
        headers = {} if not csrf else {"X-CSRF-Token": csrf}
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            content = None if body is None else orjson.dumps(body)
        except TypeError:  # too deep, or a whole number beyond 64 bits
            text = "the form holds a value that the gateway does not take"
            raise GatewayRefusal(422, "FIELD_WRONG", text, "write fewer levels, or a smaller number") from None
        return _answer(await self._call(method, caller, path, headers=headers, content=content))

    async def _call(
        self, method: str, caller: BrowserCaller, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        if self._trust is not None:
            self._trust.refresh()
        sent = {
            "Host": caller.host,
            CLIENT_HEADER: client_header(caller.address, self._forward_key),
            "X-Request-ID": uuid.uuid4().hex,
            **(headers or {}),
        }
        if caller.session:
            sent["Cookie"] = f"{self.cookie_name}={caller.session}"
        if caller.origin is not None:
            sent["Origin"] = caller.origin
        if more.get("content") is not None:
            sent["Content-Type"] = "application/json"
        try:
            return await self._sent(method, path, sent, more)
        except httpx.TimeoutException:
            raise _away("the gateway did not answer in time", method) from None
        except httpx.HTTPError as error:
            raise _away(f"the gateway cannot be reached ({type(error).__name__})", method) from None

    async def _sent(
        self, method: str, path: str, headers: Mapping[str, str], more: Mapping[str, Any]
    ) -> httpx.Response:
        try:
            return await self._http.request(method, path, headers=headers, **more)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            if method != "GET":
                raise  # it may have been done
            # a connection that was kept alive may be closed while the request is on its way: a read is sent once more
            return await self._http.request(method, path, headers=headers, **more)


def _answer(answer: httpx.Response) -> GatewayAnswer:
    """Return an answer with a body of its own for each reader. Errors: GatewayRefusal."""
    body = _parsed(answer)
    if answer.status_code >= 400:
        raise _refusal(answer, body)
    return GatewayAnswer(answer.status_code, body, tuple(answer.headers.get_list("set-cookie")))


def _away(what: str, method: str) -> GatewayRefusal:
    remedy = "this page tries again" if method == "GET" else "look at what happened before you repeat it"
    return GatewayRefusal(503, "GATEWAY_AWAY", what, remedy)


def _parsed(answer: httpx.Response) -> Any:
    try:
        return orjson.loads(answer.content) if answer.content else None
    except orjson.JSONDecodeError:
        return None


def _refusal(answer: httpx.Response, body: Any) -> GatewayRefusal:
    found = body if isinstance(body, dict) else {}
    known = {name: found.get(name) for name in ("code", "detail", "remedy")}
    members = {name: value for name, value in found.items() if name not in (*known, "status")}
    wait = answer.headers.get("retry-after", "")
    if wait.isdigit():
        members["retry_after"] = int(wait)
    code = str(known["code"] or f"HTTP_{answer.status_code}")
    return GatewayRefusal(
        answer.status_code, code, str(known["detail"] or "no reason given"), str(known["remedy"] or ""), **members
    )
