"""Request ids and W3C trace context (https://www.w3.org/TR/trace-context/): the caller's, else new ones.

The trace id of a request goes into the signal that it makes, and from there into the order, its events and the logs.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that a request is part of: its id (32 hex digits), our span in it (16) and the flags."""

    trace_id: str
    span_id: str
    flags: str = "00"

    @property
    def header(self) -> str:
        """Return the traceparent of our span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def trace_of(traceparent: str | None) -> Trace:
    """Return the trace of a `traceparent` header with a new span; a new trace without one, or when it is not valid."""
    found = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    span_id = _random(8)
    if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
        return Trace(_random(16), span_id)
    if found[1] == "00" and found[5] is not None:  # version 00 has four parts; later ones may have more
        return Trace(_random(16), span_id)
    return Trace(found[2], span_id, "01" if int(found[4], 16) & 1 else "00")


def request_id_of(given: str | None) -> str:
    """Return the caller's request id when it is at most 64 letters, digits, dots, dashes and underscores; else a new
    one."""
    return given if given and _REQUEST_ID.fullmatch(given) else _random(8)


class CheckedRequestId:
    """ASGI middleware for Serve's proxy, which logs and echoes the request id as the client sent it: one that is not
    usable, or not the only one, is removed, and the proxy makes another."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] in ("http", "websocket"):
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"]
            if given and not (len(given) == 1 and _REQUEST_ID.fullmatch(given[0])):
                kept = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
                scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)


def _random(size: int) -> str:
    """Return random hex digits of so many bytes, never all zero."""
    return f"{secrets.randbits(size * 8) or 1:0{size * 2}x}"
