"""The user stream: subscribed, watched and mended for ever; what it says goes to one sink as our values.

There is no `watch_orders` here: it drops the last update of a burst (§6.4.3) and fills caches we do not read. The
subscription is made through ccxt, events are tapped raw, and the socket's end is a future that ccxt rejects. Silence
is normal on this stream, so every `probe_s` a signed question goes over the same socket (C7), and every order the venue
acknowledged over REST must be heard of here within `echo_s`: a socket that does not answer, or that answers but has
stopped telling, is torn down like a closed one. After each loss: SessionLost; after each (re)subscription: SessionBack.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from fks.clock import Clock
from fks.model.errors import PeerError
from fks.model.order import Report
from fks.model.ports import BalancesSeen, Log, SessionBack, SessionLost, VenueEvent
from fks.venues.ccxt.classify import Wire, describe
from fks.venues.ccxt.config import CcxtConfig
from fks.venues.ccxt.dialect import FillReader, balances_of, report_of_event
from fks.venues.ccxt.library import ccxt
from fks.venues.ccxt.session import BROKEN, BinanceSession

_SUBSCRIBE_TIMEOUT_S = 10.0
_PROBE = "account.status"
_HEARD_MAX = 1000
_FIRST = asyncio.FIRST_COMPLETED


class UserStream:
    """One session's user stream. `run` ends only by cancellation. `note` hears of every report first (id book)."""

    def __init__(
        self, session: BinanceSession, config: CcxtConfig, clock: Clock, log: Log,
        *, sink: Callable[[VenueEvent], None], fills: FillReader, note: Callable[[Report], None],
    ) -> None:  # fmt: skip
        self._session = session
        self._config = config
        self._clock = clock
        self._log = log
        self._sink = sink
        self._fills = fills
        self._note = note
        self._failures = 0
        self._heard: OrderedDict[str, None] = OrderedDict()  # client ids the stream spoke of lately
        self._expected: dict[str, float] = {}  # client id -> monotonic time by which it must
        self._wake = asyncio.Event()
        self.is_up = False
        session.on_user_event = self._take

    async def run(self) -> None:
        """Keep the subscription alive. Waits between dials grow to `backoff_max_s`, with jitter."""
        try:
            while True:
                detail = await self._live_once()
                if self.is_up:
                    self.is_up = False
                    self._sink(SessionLost(detail))
                self._log.warning("venue.stream_lost", venue=self._config.name, detail=detail, failures=self._failures)
                await self._session.drop_socket()
                self._session.ws_dial_backoff = {}  # we wait ourselves; ccxt's own grows to 30 s
                limit = min(self._config.backoff_first_s * 2**self._failures, self._config.backoff_max_s)
                self._failures = min(self._failures + 1, 16)
                await self._clock.sleep(limit * random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret
        finally:
            self.is_up = False

    def expect(self, client_order_id: str) -> None:
        """Take note that the venue acknowledged an order: the stream must speak of it soon, if it has not yet."""
        if self.is_up and client_order_id not in self._heard:
            self._expected[client_order_id] = self._clock.monotonic() + self._config.echo_s
            self._wake.set()

    async def _live_once(self) -> str:
        """Subscribe and hold; return why it ended."""
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await self._session.ensure_user_data_stream_ws_subscribe_signature("spot")
            broken = self._session.client(self._session.stream_url).future(BROKEN)
            self.is_up = True
            self._failures = 0
            self._sink(SessionBack())
            self._log.info("venue.stream_up", venue=self._config.name)
            await self._hold(broken)
        except (ccxt.BaseError, TimeoutError, OSError, PeerError) as error:
            return describe(Wire(), error)
        return "the socket closed"

    async def _hold(self, broken: asyncio.Future[Any]) -> None:
        """Return or raise when the socket is gone, does not answer a probe, or keeps an acknowledged order to itself."""
        self._expected.clear()
        next_probe = self._clock.monotonic() + self._config.probe_s
        while True:
            due = min([next_probe, *self._expected.values()])
            self._wake.clear()
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait({broken, wake}, timeout=max(due - self._clock.monotonic(), 0), return_when=_FIRST)
            finally:
                wake.cancel()
            if broken.done():
                if not broken.cancelled() and (error := broken.exception()) is not None:
                    raise error
                return
            now = self._clock.monotonic()
            for client_order_id, limit in self._expected.items():
                if now >= limit:
                    raise PeerError(f"the stream said nothing of order {client_order_id}, which the venue has")
            if now >= next_probe:
                await self._probe()
                next_probe = self._clock.monotonic() + self._config.probe_s

    async def _probe(self) -> None:
        """Ask the socket something signed. Errors: what the silence or a lost session raised."""
        try:
            async with asyncio.timeout(self._config.probe_timeout_s):
                await self._session.ask_socket(_PROBE, {})
        except (ccxt.NetworkError, TimeoutError, ccxt.AuthenticationError):
            raise
        except ccxt.BaseError as error:  # it answered, if only to complain: the socket lives
            self._log.debug("venue.probe_refused", venue=self._config.name, detail=describe(Wire(), error))

    def _take(self, event: Mapping[str, Any]) -> None:
        """Turn one raw user event into ours. Errors: PeerError, which ends the connection (the guard sees to it)."""
        kind = event["e"]
        if kind == "executionReport":
            report = report_of_event(event)
            self._note(report)
            self._hear(report.client_order_id)
            fill = self._fills.from_event(event)
            if fill is not None:
                self._sink(fill)
            self._sink(report)
        elif kind == "outboundAccountPosition":
            self._sink(BalancesSeen(tuple(balances_of(event.get("B") or (), keys=("a", "f", "l")))))

    def _hear(self, client_order_id: str) -> None:
        self._expected.pop(client_order_id, None)
        self._heard[client_order_id] = None
        self._heard.move_to_end(client_order_id)
        if len(self._heard) > _HEARD_MAX:
            self._heard.popitem(last=False)
