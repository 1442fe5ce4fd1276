"""Our own way to Binance spot: the WebSocket API over one persistent connection, keep-alive REST while it is not up.

The way is chosen before the first byte: a call that may have left on one is never sent on the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from fks.clock import Clock
from fks.clock.waiting import end_task, wait_for_event
from fks.model.errors import PeerError
from fks.model.ports import Log, VenueEvent
from fks.trading.venues.binance.calls import VenueCall
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.http import WIRE, tls_of, trace
from fks.trading.venues.binance.socket_api import SocketApi, VenueError, plain
from fks.trading.venues.binance.stream import EventReader, UserStream
from fks.trading.venues.binance.venue import SpotVenue

_CONNECT_WAIT_S = 2.0  # `open` waits so long for the first connection; it is made in the background after that
_LATE_S = 30.0  # an answer over REST is waited for no longer than this, though its caller left


class OwnTransport:
    """Calls over the WebSocket API, or over REST when it is not up or has no such method."""

    def __init__(self, config: SessionConfig, clock: Clock, log: Log) -> None:
        self._config = config
        self._clock = clock
        self._rest_url, socket_url = config.own_addresses()
        self._socket = SocketApi(socket_url, config, clock, lambda event: self._stream.take(event))
        self._stream = UserStream(self._socket, config, clock, log)
        self._http: aiohttp.ClientSession | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def skew_ms(self) -> int:
        """Return venue time minus ours, which requests are signed with."""
        return self._socket.skew_ms

    @skew_ms.setter
    def skew_ms(self, value: int) -> None:
        self._socket.skew_ms = value

    async def open(self) -> None:
        """Connect in the background, and wait a moment for it. Never raises for a venue that is down."""
        self._is_closed = False
        self._running = asyncio.create_task(self._stream.run(), name=f"{self._config.name} session")
        await wait_for_event(self._stream.tried, _CONNECT_WAIT_S)

    async def close(self) -> None:
        """Send nothing more."""
        self._is_closed = True
        if self._running is not None:
            await end_task(self._running)
            self._running = None
        await self._socket.close()
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def begin(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        """Send the call once, over whichever way is there now, and return the future of its answer."""
        if call.socket is not None and self._socket.is_up:
            return await self._socket.begin(call, params, wire)
        return asyncio.create_task(self._rest(call, params, wire))

    def is_network(self, error: BaseException | None) -> bool:
        """Return whether the network was at fault for a call of which no byte left."""
        return isinstance(error, aiohttp.ClientError | OSError | TimeoutError)

    def suspect(self) -> None:
        """Probe the connection now: a call was not answered in time."""
        self._stream.suspect()

    def stream(self, reader: EventReader, sink: Callable[[VenueEvent], None]) -> None:
        """Subscribe to user events on the connection."""
        self._stream.read_with(reader, sink)

    def use_key(self, config: SessionConfig) -> None:
        """Sign with another key from now on; the connection is made anew once no request waits for its answer."""
        self._socket.use_key(config)
        self._stream.renew()

    def _rest_client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, happy_eyeballs_delay=0.1, ssl=tls_of(self._rest_url)),
                trace_configs=[trace()],
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=_LATE_S),
            )
        return self._http

    async def _rest(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> Any:
        """Make one REST call. Errors: VenueError for an error of the venue, PeerError, aiohttp's."""
        WIRE.set(wire)
        if self._is_closed:
            raise ConnectionError("the session is closed")
        url, headers = f"{self._rest_url}{call.path}", {}
        values = {name: plain(value) for name, value in params.items()}
        if call.is_signed:
            signed = self._socket.sign(values)
            headers["X-MBX-APIKEY"] = signed.pop("apiKey")
            signed.pop("signature")
            query = urlencode({name: plain(value) for name, value in signed.items()})
            query = f"{query}&signature={self._socket.signature(query)}"
        else:
            query = urlencode(values)
        address = URL(f"{url}?{query}" if query else url, encoded=True)
        async with self._rest_client().request(
            call.method, address, headers=headers, allow_redirects=False
        ) as response:
            wire.note(response.status, await response.text(), response.headers)
        if wire.status is None or wire.status >= 300:
            raise VenueError(f"HTTP {wire.status}")
        if wire.payload is None:
            raise PeerError("the answer is no JSON")
        return wire.payload


class BinanceVenue(SpotVenue):
    """Orders out over our own session."""

    connected_by = staticmethod(OwnTransport)
