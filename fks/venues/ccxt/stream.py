"""The user stream: subscribed, watched and mended for ever; what it says goes to one sink as our values.

There is no `watch_orders` here: it drops the last update of a burst (§6.4.3) and fills caches we do not read. The
subscription is made through ccxt, events are tapped raw, and the socket's end is a future that ccxt rejects. Silence
is normal on this stream, so every `probe_s` a signed question goes over the same socket (C7); a socket that does not
answer in time is torn down like a closed one. After each loss: SessionLost; after each (re)subscription: SessionBack.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import ccxt

from fks.clock import Clock
from fks.model.errors import PeerError
from fks.model.order import Report
from fks.model.ports import BalancesSeen, Log, SessionBack, SessionLost, VenueEvent
from fks.venues.ccxt.classify import Wire, describe
from fks.venues.ccxt.config import CcxtConfig
from fks.venues.ccxt.dialect import FillReader, balances_of, report_of_event
from fks.venues.ccxt.session import BROKEN, BinanceSession

_SUBSCRIBE_TIMEOUT_S = 10.0
_PROBE = "account.status"


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

    async def _live_once(self) -> str:
        """Subscribe and hold; return why it ended."""
        try:
            await asyncio.wait_for(
                self._session.ensure_user_data_stream_ws_subscribe_signature("spot"), _SUBSCRIBE_TIMEOUT_S
            )
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
        """Return or raise when the socket is gone or does not answer a probe."""
        while True:
            done, _ = await asyncio.wait({broken}, timeout=self._config.probe_s)
            if done:
                if not broken.cancelled() and (error := broken.exception()) is not None:
                    raise error
                return
            try:
                await asyncio.wait_for(self._session.ask_socket(_PROBE, {}), self._config.probe_timeout_s)
            except (ccxt.NetworkError, TimeoutError, ccxt.AuthenticationError):
                raise
            except ccxt.BaseError:
                continue  # it answered, if only to complain: the socket lives

    def _take(self, event: Mapping[str, Any]) -> None:
        """Turn one raw user event into ours. Errors: PeerError, which ends the connection (the guard sees to it)."""
        kind = event["e"]
        if kind == "executionReport":
            report = report_of_event(event)
            self._note(report)
            fill = self._fills.from_event(event)
            if fill is not None:
                self._sink(fill)
            self._sink(report)
        elif kind == "outboundAccountPosition":
            self._sink(BalancesSeen(tuple(balances_of(event.get("B") or (), keys=("a", "f", "l")))))
