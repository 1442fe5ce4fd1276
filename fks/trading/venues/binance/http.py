"""Observation of an HTTP call on the wire: aiohttp's own trace notes the moment before a request's first byte."""

from __future__ import annotations

import contextvars
import ssl
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import certifi

from fks.trading.venues.binance.classify import CallCourse

WIRE: contextvars.ContextVar[CallCourse | None] = contextvars.ContextVar("fks_wire", default=None)


def tls_of(url: str) -> ssl.SSLContext | bool:
    """Return how to verify the host of `url`: a machine may have no certificates of its own, so certifi's are used."""
    is_secure = url.startswith(("https", "wss"))
    return ssl.create_default_context(cafile=certifi.where()) if is_secure else True


def trace() -> aiohttp.TraceConfig:
    """Return the trace that asks at the moment just before a request's first byte is written whether it may be, marks
    that it is, and refuses redirects."""

    async def on_headers(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        wire = WIRE.get()
        if wire is None:
            return
        if wire.may_leave is not None and not wire.may_leave():
            wire.is_held_back = True
            raise aiohttp.ClientError("the lease is not held: nothing is sent")
        wire.note_first_byte()

    async def on_redirect(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        raise aiohttp.ClientError("the venue redirected; a request is never sent to a second place")

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(on_headers)
    config.on_request_redirect.append(on_redirect)
    return config


async def on_wire(wire: CallCourse, call: Callable[[], Awaitable[Any]]) -> Any:
    """Await `call()` so that what it does on the wire is noted in `wire`. Run it in a task of its own."""
    WIRE.set(wire)
    return await call()
