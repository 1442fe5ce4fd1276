"""Binance spot over ccxt: the same venue as `fks.trading.venues.binance`, with ccxt as its transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fks.clock import Clock
from fks.clock.waiting import end_task
from fks.model.ports import Log, VenueEvent
from fks.trading.venues.binance.calls import VenueCall
from fks.trading.venues.binance.classify import CallCourse
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.http import on_wire
from fks.trading.venues.binance.stream import EventReader, UserStream
from fks.trading.venues.binance.venue import SpotVenue
from fks.trading.venues.ccxt.library import ccxt
from fks.trading.venues.ccxt.session import BROKEN, BinanceSession

_PROBE = "account.status"


class CcxtTransport:
    """Calls over ccxt's REST methods, user events over its WebSocket API client. It is the source of its UserStream."""

    errors: tuple[type[Exception], ...] = (ccxt.BaseError,)

    def __init__(self, config: SessionConfig, clock: Clock, log: Log) -> None:
        self.config = config
        self._log = log
        self.session = BinanceSession(config, clock)
        self._stream = UserStream(self, config, clock, log)
        self._streaming: asyncio.Task[None] | None = None

    @property
    def skew_ms(self) -> int:
        """Return venue time minus ours, which requests are signed with."""
        return -int(self.session.options["timeDifference"])

    @skew_ms.setter
    def skew_ms(self, value: int) -> None:
        self.session.options["timeDifference"] = -value

    async def open(self) -> None:
        """Make the HTTP session. Sends nothing."""
        await self.session.connect()

    async def close(self) -> None:
        """End the stream and all calls."""
        if self._streaming is not None:
            await end_task(self._streaming)
            self._streaming = None
        await self.session.disconnect()

    async def begin(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        """Make one HTTP call in a task of its own, so that nothing cuts its bytes in two."""
        method = getattr(self.session, call.ccxt)
        return asyncio.create_task(on_wire(wire, lambda: method(dict(params))))

    def is_network(self, error: BaseException | None) -> bool:
        """Return whether the network was at fault for a call of which no byte left."""
        return isinstance(error, ccxt.NetworkError | OSError)

    def suspect(self) -> None:
        """Calls go over connections of their own: the stream is watched by itself."""

    def stream(self, reader: EventReader, sink: Callable[[VenueEvent], None]) -> None:
        """Start the user stream."""
        self._stream.read_with(reader, sink)
        self.session.on_user_event = self._stream.take
        self._streaming = asyncio.create_task(self._stream.run(), name=f"{self.config.name} user stream")

    def use_key(self, config: SessionConfig) -> None:
        """Sign with another key from now on; the user stream is opened anew."""
        self.session.apiKey, self.session.secret = config.api_key, config.api_secret
        self._stream.renew()

    # ── the source of the stream ─────────────────────────────────────────────────────────────────
    @property
    def is_idle(self) -> bool:
        """Return True: requests have connections of their own."""
        return True

    async def connect(self) -> asyncio.Future[Any]:
        """Subscribe through ccxt, which connects; return the future that ends with the connection."""
        await self.session.ensure_user_data_stream_ws_subscribe_signature("spot")
        broken: asyncio.Future[Any] = self.session.client(self.session.stream_url).future(BROKEN)
        return broken

    async def subscribe(self) -> None:
        """`connect` subscribed already."""

    async def probe(self) -> None:
        """Ask the connection something signed. Errors: those of the silence or of a lost session."""
        try:
            await self.session.ask_socket(_PROBE, {})
        except (ccxt.NetworkError, ccxt.AuthenticationError):
            raise
        except ccxt.BaseError as error:  # it answered, if only to complain: the connection lives
            self._log.debug("venue.probe_refused", venue=self.config.name, detail=str(error))

    async def drop(self) -> None:
        """Close the connection, so that the next use opens a new one."""
        await self.session.drop_socket()
        self.session.ws_dial_backoff = {}  # we wait ourselves; ccxt's own grows to 30 s


class CcxtVenue(SpotVenue):
    """Orders out over ccxt's Binance, which has no call that amends."""

    capabilities = replace(SpotVenue.capabilities, can_amend=False, has_entry_lists=False)
    connected_by = staticmethod(CcxtTransport)
