"""The user stream of Binance spot: its events as our values, and the loop that keeps its connection alive.

`watch_orders` of ccxt is not used: it drops the last update of a burst (docs/venues.md). Events are read raw.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fks.clock import Clock
from fks.model.backoff import Backoff
from fks.model.errors import PeerError
from fks.model.order import Report
from fks.model.ports import BalancesSeen, Log, SessionBack, SessionLost, VenueEvent
from fks.trading.venues.binance.classify import CallCourse, describe
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.dialect import FillReader, balances_of, report_of_event

_MENTIONED_MAX = 1000
_CONNECT_TIMEOUT_S = 10.0
_RENEW_S, _IDLE_LOOK_S = 5.0, 0.02


class EventReader:
    """Reads raw user events. `note` gets every report first (the map of ids)."""

    def __init__(self, sink: Callable[[VenueEvent], None], fills: FillReader, note: Callable[[Report], None]) -> None:
        self._sink = sink
        self._fills = fills
        self._note = note
        self._mentioned: OrderedDict[str, None] = OrderedDict()  # client ids the stream mentioned lately
        self.expected: dict[str, float] = {}  # client id -> monotonic time by which the stream must mention it
        # set while the stream is up: the deadline for an order sent now
        self.echo_by: Callable[[], float] | None = None
        self.wake = asyncio.Event()  # set when `expected` grew

    def take(self, event: Mapping[str, Any]) -> None:
        """Turn one raw user event into ours. Errors: PeerError, which ends the connection."""
        kind = event["e"]
        if kind == "executionReport":
            report = report_of_event(event)
            self._note(report)
            self.expected.pop(report.client_order_id, None)
            self._mentioned[report.client_order_id] = None
            self._mentioned.move_to_end(report.client_order_id)
            if len(self._mentioned) > _MENTIONED_MAX:
                self._mentioned.popitem(last=False)
            fill = self._fills.from_event(event)
            if fill is not None:
                self._sink(fill)
            self._sink(report)
        elif kind == "outboundAccountPosition":
            self._sink(BalancesSeen(tuple(balances_of(event.get("B") or (), keys=("a", "f", "l")))))

    def expect(self, client_order_id: str) -> None:
        """Note that the venue acknowledged an order: the stream must mention it soon, if it has not yet."""
        if self.echo_by is not None and client_order_id not in self._mentioned:
            self.expected[client_order_id] = self.echo_by()
            self.wake.set()

    def overdue(self, now_s: float) -> str | None:
        """Return an order that the stream should have mentioned by now."""
        return next((name for name, limit_s in self.expected.items() if now_s >= limit_s), None)


class StreamSource(Protocol):
    """The connection that a UserStream keeps. `errors`: what its methods raise when it is gone or does not answer."""

    errors: tuple[type[Exception], ...]

    @property
    def is_idle(self) -> bool:
        """Return whether no request of ours waits for its answer on the connection."""
        ...

    async def connect(self) -> asyncio.Future[Any]:
        """Connect and return a future that ends with the connection."""
        ...

    async def subscribe(self) -> None:
        """Subscribe to user events on it."""
        ...

    async def probe(self) -> None:
        """Ask something that a live connection answers."""
        ...

    async def drop(self) -> None:
        """Close it."""
        ...


class UserStream:
    """Keeps a connection up, subscribed and answering, for ever.

    Silence is normal on it, so every `probe_s` a question goes over the same connection (C7), and every order that the
    venue acknowledged must be mentioned within `echo_s`: a connection that does not answer, or that answers and sends
    no events, is dropped like a closed one. After each loss SessionLost, after each subscription SessionBack.
    """

    def __init__(self, source: StreamSource, config: SessionConfig, clock: Clock, log: Log) -> None:
        self._source = source
        self._config = config
        self._clock = clock
        self._log = log
        self._failures = 0
        self._reader: EventReader | None = None
        self._sink: Callable[[VenueEvent], None] = lambda event: None
        self._wake = asyncio.Event()
        self._is_suspect = False
        self._renew_by_s: float | None = None  # the connection is made anew when it is idle, at the latest then
        self.is_up = False
        self.tried = asyncio.Event()  # the first connect succeeded or failed

    def read_with(self, reader: EventReader, sink: Callable[[VenueEvent], None]) -> None:
        """Subscribe to user events, now or when the connection is there."""
        self._reader, self._sink = reader, sink
        reader.wake = self._wake
        self._wake.set()

    def take(self, event: Mapping[str, Any]) -> None:
        """Pass one raw user event on. Errors: PeerError."""
        if self._reader is not None:
            self._reader.take(event)

    def suspect(self) -> None:
        """Probe now: a request was not answered in time."""
        self._is_suspect = True
        self._wake.set()

    def renew(self) -> None:
        """Make the connection anew, with another key, when no request waits for its answer; after _RENEW_S in any
        case."""
        self._renew_by_s = self._clock.monotonic() + _RENEW_S
        self._wake.set()

    async def run(self) -> None:
        """Keep the connection. Waits between connects grow to `backoff_max_s`, with jitter."""
        try:
            while True:
                detail = await self._live_once()
                self._end(detail)
                self.tried.set()
                self._log.warning("venue.stream_lost", venue=self._config.name, detail=detail, failures=self._failures)
                await self._source.drop()
                self._failures += 1
                backoff = Backoff(self._config.backoff_first_s, self._config.backoff_max_s, jitter=0.5)
                await self._clock.sleep(backoff.wait_s(self._failures, draw=random.random()))  # noqa: S311  jitter, no secret
        finally:
            self.is_up = False

    def _end(self, detail: str) -> None:
        if self._reader is not None:
            self._reader.echo_by = None
        if self.is_up:
            self.is_up = False
            self._sink(SessionLost(detail))

    async def _live_once(self) -> str:
        """Connect, subscribe and hold; return why it ended."""
        errors: tuple[type[Exception], ...] = (*self._source.errors, TimeoutError, OSError, PeerError)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                broken = await self._source.connect()
            self.tried.set()
            await self._hold(broken)
        except errors as error:
            return describe(CallCourse(), error)
        return "the connection closed"

    async def _hold(self, broken: asyncio.Future[Any]) -> None:
        """Return or raise when the connection is gone, does not answer a probe, or keeps an acknowledged order to
        itself."""
        next_probe_s = self._clock.monotonic() + self._config.probe_s
        while True:
            if self._reader is not None and not self.is_up:
                await self._subscribe(self._reader)
            expected = self._reader.expected if self._reader is not None else {}
            due_s = min([next_probe_s, *expected.values()])
            if self._renew_by_s is not None:
                if self._source.is_idle or self._clock.monotonic() >= self._renew_by_s:
                    self._renew_by_s = None
                    raise ConnectionError("the API key was replaced")
                due_s = self._clock.monotonic() + _IDLE_LOOK_S
            self._wake.clear()
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait(
                    {broken, wake}, timeout=max(due_s - self._clock.monotonic(), 0), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                wake.cancel()
            if broken.done():
                if not broken.cancelled() and (error := broken.exception()) is not None:
                    raise error
                return
            now_s = self._clock.monotonic()
            if self._reader is not None and (silent := self._reader.overdue(now_s)) is not None:
                raise PeerError(f"the stream did not mention order {silent}, which the venue has")
            if now_s >= next_probe_s or self._is_suspect:
                self._is_suspect = False
                async with asyncio.timeout(self._config.probe_timeout_s):
                    await self._source.probe()
                next_probe_s = self._clock.monotonic() + self._config.probe_s

    async def _subscribe(self, reader: EventReader) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await self._source.subscribe()
        reader.expected.clear()
        reader.echo_by = lambda: self._clock.monotonic() + self._config.echo_s
        self.is_up, self._failures = True, 0
        self._sink(SessionBack())
        self._log.info("venue.stream_up", venue=self._config.name)
