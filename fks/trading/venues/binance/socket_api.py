"""One connection to the WebSocket API: signed requests out, answers and user events in, many under way at once.

A request whose bytes may have left is never sent again: when the connection ends, every request that waits fails, and
what the venue did with it is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson

from fks.clock import Clock
from fks.clock.waiting import end_task
from fks.model.errors import PeerError
from fks.trading.venues.binance.calls import SUBSCRIBE, SUBSCRIPTIONS, VenueCall
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.http import tls_of

_MESSAGE_MAX = 32 * 1024 * 1024  # a page of 1,000 orders is about 500 kB
_CLOSE_S = 1.0


class VenueError(Exception):
    """The venue answered with an error: code and text are on the wire's record."""


class SocketApi:
    """One connection at a time; `connect` after `drop` makes the next one. It is the source of a UserStream."""

    errors: tuple[type[Exception], ...] = (aiohttp.ClientError, VenueError, ConnectionError)

    def __init__(
        self, url: str, config: SessionConfig, clock: Clock, on_event: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._url = url
        self._config = config
        self._clock = clock
        self._on_event = on_event
        self._mac = hmac.new(config.api_secret.encode(), digestmod="sha256")
        self._http: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._broken: asyncio.Future[Any] | None = None
        self._pending: dict[str, tuple[asyncio.Future[Any], CallCourse]] = {}
        self._numbers = itertools.count(1)
        self._is_leaving = False  # the venue announced that it closes this connection
        self.skew_ms = 0

    @property
    def is_up(self) -> bool:
        """Return whether a request may be sent."""
        return self._ws is not None and not self._ws.closed and not self._is_leaving

    @property
    def is_idle(self) -> bool:
        """Return whether no request waits for its answer."""
        return not self._pending

    def use_key(self, config: SessionConfig) -> None:
        """Sign with the key of this configuration from now on."""
        self._config = config
        self._mac = hmac.new(config.api_secret.encode(), digestmod="sha256")

    async def connect(self) -> asyncio.Future[Any]:
        """Connect and return a future that ends with the connection. Errors: aiohttp's, OSError."""
        if self._http is None:
            connector = aiohttp.TCPConnector(ssl=tls_of(self._url))
            self._http = aiohttp.ClientSession(connector=connector, trust_env=False)
        ws = await self._http.ws_connect(self._url, max_msg_size=_MESSAGE_MAX, compress=0)
        self._ws, self._is_leaving = ws, False
        self._broken = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(ws, self._broken), name=f"{self._config.name} socket")
        return self._broken

    async def drop(self) -> None:
        """Close the connection; what waits for an answer fails."""
        ws, self._ws = self._ws, None
        try:
            if self._reading is not None:
                await end_task(self._reading)
                self._reading = None
            if ws is not None:
                with contextlib.suppress(TimeoutError, ConnectionError, aiohttp.ClientError):
                    async with asyncio.timeout(_CLOSE_S):
                        await ws.close()
        finally:
            self._fail(ConnectionError("the connection was closed"))

    async def close(self) -> None:
        """Close for good."""
        await self.drop()
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def subscribe(self) -> None:
        """Subscribe to user events on this connection. Errors: VenueError, ConnectionError."""
        await (await self.begin(SUBSCRIBE, {}, CallCourse()))

    async def probe(self) -> None:
        """Ask for the connection's subscriptions. Errors: ConnectionError. An error of the venue is an answer, too."""
        with contextlib.suppress(VenueError):
            await (await self.begin(SUBSCRIPTIONS, {}, CallCourse()))

    async def begin(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        """Send a request once and return the future of its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ws = self._ws
        if ws is None or not self.is_up:
            future.set_exception(ConnectionError("there is no connection"))
            return future
        number = str(next(self._numbers))
        values = self.sign(params) if call.is_signed else params
        frame = orjson.dumps({"id": number, "method": call.socket, "params": values})
        if wire.may_leave is not None and not wire.may_leave():
            wire.is_held_back = True
            future.set_exception(ConnectionError("the lease is not held: nothing is sent"))
            return future
        self._pending[number] = (future, wire)
        wire.note_first_byte()
        sending = ws.send_frame(frame, aiohttp.WSMsgType.TEXT)
        try:
            # the frame is written before the first suspension, which would wait until a full buffer is read: no caller
            # does
            sending.send(None)
            sending.close()
        except StopIteration:
            pass
        except (ConnectionError, aiohttp.ClientError) as error:
            del self._pending[number]
            future.set_exception(error)
        return future

    def sign(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters with key, window, time and signature: HMAC-SHA256 over them, sorted by name."""
        values = {
            **params,
            "apiKey": self._config.api_key,
            "recvWindow": self._config.recv_window_ms,
            "timestamp": self._clock.now_ns() // 1_000_000 + self.skew_ms,
        }
        payload = "&".join(
            [
                f"{name}={'true' if value is True else 'false' if value is False else value}"
                for name, value in sorted(values.items())
            ]
        )
        values["signature"] = self.signature(payload)
        return values

    def signature(self, payload: str) -> str:
        """Return the signature of exactly these characters."""
        mac = self._mac.copy()
        mac.update(payload.encode())
        return mac.hexdigest()

    async def _read(self, ws: aiohttp.ClientWebSocketResponse, broken: asyncio.Future[Any]) -> None:
        error: Exception | None = None
        try:
            async for message in ws:
                self._take(message.data)
        except Exception as raised:  # the boundary to their bytes: any fault ends this connection, aloud
            is_known = isinstance(raised, (*self.errors, PeerError))
            error = (
                raised if is_known else PeerError(f"a message could not be handled ({type(raised).__name__}: {raised})")
            )
        finally:
            if not broken.done():
                broken.set_exception(error) if error is not None else broken.set_result(None)
            self._fail(error or ConnectionError("the venue closed the connection"))

    def _take(self, data: Any) -> None:
        """Handle one frame. Errors: PeerError, which ends the connection."""
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise PeerError(f"a frame is no JSON ({error})") from error
        if not isinstance(message, dict):
            raise PeerError(f"a frame is no object: {str(message)[:200]}")
        if message.get("id") is not None:
            self._answer(message, data)
            return
        event = message.get("event", message)
        if not isinstance(event, dict) or "e" not in event:
            raise PeerError(f"a frame is neither answer nor event: {str(message)[:200]}")
        if event["e"] == "serverShutdown":
            self._is_leaving = True
        self._on_event(event)
        if event["e"] == "eventStreamTerminated":
            raise ConnectionError("the venue ended the user stream")

    def _answer(self, message: dict[str, Any], data: Any) -> None:
        future, wire = self._pending.pop(str(message["id"]), (None, None))
        if future is None or wire is None or future.done():
            return
        status, error = message.get("status"), message.get("error")
        wire.status = status if isinstance(status, int) else None
        wire.note_limits(message.get("rateLimits"))
        if error is None and wire.status is not None and wire.status < 300:
            future.set_result(message.get("result"))
            return
        wire.body = (data if isinstance(data, str) else str(data))[:2000]
        wire.payload = error
        wire.note_retry(error)
        shown = orjson.dumps(error).decode()[:500]
        future.set_exception(VenueError(f"status {status} {shown}"))

    def _fail(self, error: Exception) -> None:
        for future, _ in list(self._pending.values()):
            if not future.done():
                future.set_exception(ConnectionError(f"no answer: {error}"))
        self._pending.clear()


def plain(value: Any) -> str:
    """Return a parameter as it is signed."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
