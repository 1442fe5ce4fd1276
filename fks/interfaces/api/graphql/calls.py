"""Calls of GET routes from inside the gateway: the route's own ASGI app, with the caller's own headers.

So a field has the authentication, scope, limit, checks and problems of its route, and no second implementation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from fks.interfaces.api.graphql.reads import Read, filled

if TYPE_CHECKING:
    from starlette.types import Message, Scope

#: What a call takes over from the request that it is part of.
_SAME = (
    *("type", "asgi", "http_version", "scheme", "client", "server", "root_path", "extensions", "app"),
    *("starlette.exception_handlers", "fastapi_middleware_astack"),
)
#: Headers about the body and the form of the answer, which are the outer request's own.
_DROPPED = frozenset(
    {
        *(b"content-length", b"content-type", b"transfer-encoding", b"accept", b"accept-encoding", b"expect"),
        *(b"idempotency-key", b"if-none-match", b"range"),
    }
)


@dataclass(frozen=True, slots=True)
class RouteReply:
    """The answer of a route: status, headers (lower case) and JSON value."""

    status: int
    headers: Mapping[str, str]
    value: Any


async def call(outer: Scope, read: Read, arguments: Mapping[str, Any]) -> RouteReply:
    """Return what `read` answers the caller of `outer` to `arguments` (None is left out).

    Errors: ValueError for an answer that is not JSON; unexpected exceptions of the route.
    """
    given = {name: _text(value) for name, value in arguments.items() if value is not None}
    in_path = {argument.name: given.pop(argument.name) for argument in read.arguments if argument.is_in_path}
    state = dict(outer.get("state") or {})
    state.pop("allowance", None)
    path = filled(read.path, in_path)
    scope: Scope = {
        **{name: outer[name] for name in _SAME if name in outer},
        "method": "GET",
        "path": path,
        "raw_path": quote(path, errors="replace").encode(),
        "query_string": urlencode(given, errors="replace").encode(),
        "headers": [*((k, v) for k, v in outer["headers"] if k not in _DROPPED), (b"accept", b"application/json")],
        "path_params": in_path,
        "route": read.route.original_route,
        "endpoint": read.route.endpoint,
        "state": state,
    }
    answer = _Collected()
    await read.route.app(scope, answer.receive, answer.send)
    _keep_lowest(outer, state)
    return RouteReply(answer.status, answer.headers, orjson.loads(b"".join(answer.parts)))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _keep_lowest(outer: Scope, state: Mapping[str, Any]) -> None:
    """Let the outer answer's headers report what is left after this call, where both count in one limit."""
    kept, new = (outer.get("state") or {}).get("allowance"), state.get("allowance")
    if kept is not None and new is not None and (new.limit, new.left) < (kept.limit, kept.left):
        outer["state"]["allowance"] = new


class _Collected:
    """The two ends of a call: an empty request body, and the answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self._is_asked = False

    async def receive(self) -> Message:
        """Return the empty body once; then wait, as for a client that stays."""
        if self._is_asked:
            await asyncio.Event().wait()
        self._is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Keep a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            self.parts.append(message.get("body", b""))
