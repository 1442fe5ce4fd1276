"""Serve's HTTP proxy for the gateway: it bounds what a client may send before its request is known, checks request ids,
answers once it has its routes, and follows the files of its certificate.

Ray calls `middlewares` in each proxy process (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), before its server starts.
Serve makes the server and has no settings for these bounds, so uvicorn's own parts are replaced there. The proxy also
answers Serve's health checks: a connection that holds it up for some seconds gets it killed, with every request in it.
Without the middleware a new proxy answers 404 to everything until the controller has sent it the routes: to a client,
that an order does not exist.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import uvicorn.config
import uvicorn.protocols.http.auto
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fks.clock import Clock, RealClock
from fks.config.machine_http import certificate_fault
from fks.interfaces.api.problems import of_error
from fks.interfaces.api.tracing import CheckedRequestId
from fks.model.errors import OutageError, Problem
from fks.model.timeframe import to_datetime
from fks.system.process.callers import is_local

ROUTES_S = 10.0  # the routes are there within a second, or the controller is away
LOOK_S = 0.05
HEAD_MAX = 64 * 1024  # bytes of a request line and its headers; of a chunk's header; of all trailers
HEAD_S = 10.0  # from a connection's start, or the first byte of a later head, to the end of the head
HEADS_MAX = 500  # connections without a complete head, in this process
FRAME_MAX = 64 * 1024  # bytes of a websocket message, however many frames it has
PIECE = 16 * 1024  # bytes that the parser gets at once; a head that begins inside one may be so much longer
READ_S = 0.2  # in which the heads that the kernel holds are read, of connections that came at once
UNREAD_S = 30.0  # without a byte read of an answer that waits
LINGER_S = 0.5  # the client may still be sending, and a connection closed at once takes the answer with it
NOTE_S = 60.0  # between two lines of the log about refused connections
OWN_PATHS = frozenset({"/-/routes", "/-/healthz"})
_LOG = logging.getLogger("ray.serve")  # of the proxy's process: its file is Serve's own
_BODY = (
    b'{"type":"urn:fks:problem:head-too-large","title":"Request Header Fields Too Large","status":431,'
    b'"code":"HEAD_TOO_LARGE","detail":"the address and the headers are longer than 64 KiB","remedy":"send less"}'
)
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, above TLS, with bounds on heads in bytes, seconds and number, and on websocket messages.

    A head is kept whole before an application sees any of it: the request line and the headers, and, in a chunked
    body, a chunk's header and the trailers. The parser joins each header from its pieces and copies it for
    each piece: without a bound a long one costs seconds of the proxy's loop.
    A connection is incomplete while the rest of a head is missing, or of a body whose answer was sent already. It is
    closed after `HEAD_S`, or before, as the oldest of more than `HEADS_MAX`. The body of a request without an answer is
    the application's, which has its own deadline.
    """

    #: The incomplete connections, oldest first, each with the timer that ends it. One server runs in a process.
    _incomplete: ClassVar[dict[BoundedProtocol, asyncio.TimerHandle]] = {}
    _refused: ClassVar[Counter[str]] = Counter()
    _noted_s: ClassVar[float | None] = None

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        config.ws_max_size = FRAME_MAX  # before any websocket is made from it
        self._size = 0  # bytes of the head that is being read
        self._is_in_body = False
        self._is_over = False  # refused, or a websocket by now
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_deadline()
        self._end_watch()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads its answer."""
        super().pause_writing()
        self._watch(None)

    def resume_writing(self) -> None:
        """End the watch: the client reads."""
        self._end_watch()
        super().resume_writing()

    def _watch(self, before: int | None) -> None:
        size = self.transport.get_write_buffer_size()
        if before is not None and size >= before:
            self.transport.abort()
            self._note(f"an answer of which nothing was read for {UNREAD_S:g} s")
            return
        self._unread = self.loop.call_later(UNREAD_S, self._watch, size)

    def _end_watch(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, and count the bytes since a head, or a part of a body, was complete."""
        view = memoryview(data)
        while view and not self._is_over and not self.transport.is_closing():
            if not self._is_in_body:
                self._start_deadline()  # also for empty lines before a head, which the parser skips
            if self._size == HEAD_MAX:
                return self._refuse()
            piece = view[: min(PIECE, HEAD_MAX - self._size)]
            self._size += len(piece)
            super().data_received(piece)  # type: ignore[arg-type]  # any buffer will do
            view = view[len(piece) :]

    def on_message_begin(self) -> None:
        """Begin to wait for a head that may have started within a piece."""
        self._start_deadline()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Leave the rest of the request to the application."""
        self._size, self._is_in_body = 0, True
        self._end_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass the body on, and count from zero: the next chunk header, or all trailers, are bounded as a head is."""
        self._size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request; an idle connection has no deadline here."""
        self._size, self._is_in_body = 0, False
        self._end_deadline()
        super().on_message_complete()
        is_answered = self.cycle is not None and self.cycle.response_complete
        if is_answered and not self.pipeline and not self.parser.should_upgrade():
            # uvicorn ended its timer when the rest of this request arrived, and begins one only with an answer
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Limit the time for the rest of a body that no application reads any more."""
        super().on_response_complete()
        if self._is_in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._start_deadline()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over."""
        self._is_over = True
        self._end_deadline()
        super().handle_websocket_upgrade()

    def _start_deadline(self) -> None:
        if self in self._incomplete:
            return
        self._incomplete[self] = self.loop.call_later(HEAD_S, self._close_overdue)
        if len(self._incomplete) > HEADS_MAX:  # heads that have arrived, and were not read yet, are read before
            self.loop.call_later(READ_S, self._close_oldest)

    def _close_oldest(self) -> None:
        if len(self._incomplete) > HEADS_MAX:
            oldest = next(iter(self._incomplete))
            oldest._end_deadline()
            oldest.transport.abort()
            oldest._note(f"closed as the oldest of {HEADS_MAX} without a complete head")

    def _end_deadline(self) -> None:
        timer = self._incomplete.pop(self, None)
        if timer is not None:
            timer.cancel()

    def _close_overdue(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if (self.flow.read_paused or is_answering) and not self._is_over:  # an earlier request is in work
            self._incomplete[self] = self.loop.call_later(HEAD_S, self._close_overdue)
            return
        self._end_deadline()
        self.transport.abort()
        if not self._is_over:
            self._note(f"closed without a complete head after {HEAD_S:g} s")

    def _refuse(self) -> None:
        self._is_over = True
        self._note(f"a head over {HEAD_MAX} bytes")
        if self._is_in_body or (self.cycle is not None and not self.cycle.response_complete):
            self.transport.abort()  # an answer to an earlier part may be half out
            return
        self.transport.write(_HEAD_TOO_LARGE)
        self.flow.pause_reading()
        self._end_deadline()
        self._incomplete[self] = self.loop.call_later(LINGER_S, self._close_overdue)

    def _note(self, cause: str) -> None:
        """Log how often each limit was met since the last line; a line each would be the attack's own log."""
        self._refused[cause] += 1
        now_s = self.loop.time()
        if self._noted_s is None or now_s - self._noted_s >= NOTE_S:
            BoundedProtocol._noted_s = now_s
            found = ", ".join(f"{count} x {text}" for text, count in self._refused.items())
            self._refused.clear()
            _LOG.warning("connections refused: %s; the last one from %s", found, self.client)


class GuardedProxy:
    """Serve's proxy, of which only this host sees Serve's own paths. Requests are held until it reports itself healthy
    (it has routes), and answered 503 after `ROUTES_S`; then that costs one look at a flag."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._has_routes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, as soon as that makes sense."""
        if scope["type"] in ("http", "websocket"):
            if scope["path"] in OWN_PATHS and not is_local(HTTPConnection(scope)):
                problem = Problem(404, "NOT_FOUND", "this host alone is served this path", remedy="use /health")
                await of_error(problem, scope["path"])(scope, receive, send)
                return
            if not self._has_routes:
                await self._wait()
            if not self._has_routes and scope["path"] not in OWN_PATHS:
                error = OutageError("the gateway is starting on this machine")
                await of_error(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(ROUTES_S):
                while not await self._is_healthy():  # noqa: ASYNC110  # Serve offers no event
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return  # the controller is away, or has no replica yet
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
    """Return what Serve puts around its HTTP proxy; bound its connections, and have the certificate that it presents
    follow its files.

    Errors: AttributeError when another uvicorn has its protocol elsewhere: then look again before trusting it.
    """
    if not callable(uvicorn.protocols.http.auto.AutoHTTPProtocol):
        raise AttributeError("uvicorn.protocols.http.auto.AutoHTTPProtocol")
    uvicorn.protocols.http.auto.AutoHTTPProtocol = BoundedProtocol
    if not hasattr(uvicorn.config.create_ssl_context, "__wrapped__"):
        uvicorn.config.create_ssl_context = follow_files(uvicorn.config.create_ssl_context, RealClock())
    return [Middleware(CheckedRequestId), Middleware(GuardedProxy)]


Made = Callable[..., ssl.SSLContext]


class CertificateFiles:
    """A server's certificate and key, read again when either file has changed.

    Files that cannot be used (half of them replaced, a key of another certificate) change nothing until they change
    again: the certificate before them goes on.
    """

    def __init__(self, cert: Path, key: Path, make: Made, clock: Clock) -> None:
        """`make` returns the context of the files as they are. Errors: as `make`."""
        self._files, self._clock = (cert, key), clock
        self._make = make
        self._seen = self._state()
        self._present = self.context = make()
        # for each connection, also of a client that names no host
        self.context.sni_callback = self._choose

    def _state(self) -> list[tuple[int, int, int]] | None:
        """Return what shows that a file was replaced or written; None while one is missing."""
        try:
            found = [os.stat(file) for file in self._files]
        except OSError:
            return None
        return [(item.st_ino, item.st_mtime_ns, item.st_size) for item in found]

    def _choose(self, connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        state = self._state()
        if state is not None and state != self._seen:
            self._seen = state
            # first: a key with a password would be asked for on a terminal, and hold up every request
            fault = certificate_fault(*self._files, to_datetime(self._clock.now_ns()))
            try:
                if fault is None:
                    self._present = self._make()
                    _LOG.info("the certificate %s was renewed", self._files[0])
            except (OSError, ValueError) as error:  # replaced again meanwhile; SSLError is an OSError
                fault = str(error), ""
            if fault is not None:
                _LOG.warning("the changed certificate is not used: %s", fault[0])
        if self._present is not first:
            connection.context = self._present


def follow_files(create: Made, clock: Clock) -> Made:
    """Return uvicorn's `create_ssl_context` such that a context presents what its files hold at each connection."""

    @functools.wraps(create)
    def created(certfile: Any, keyfile: Any, *args: Any, **options: Any) -> ssl.SSLContext:
        if keyfile is None:  # both in one file: FKS has two settings for them
            return create(certfile, keyfile, *args, **options)
        return CertificateFiles(
            Path(certfile), Path(keyfile), lambda: create(certfile, keyfile, *args, **options), clock
        ).context

    return created
