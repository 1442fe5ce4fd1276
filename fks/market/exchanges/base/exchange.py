"""Base class of exchanges that have a Wire: the part of the Exchange port that is the same for all of them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fks.clock import Clock
from fks.market.exchanges.base.rows import read_rows
from fks.market.exchanges.base.socket import Sockets
from fks.market.exchanges.base.values import ExchangeAddresses
from fks.market.exchanges.base.wire import Wire
from fks.model.errors import PeerError, invalid
from fks.model.instrument import Instrument
from fks.model.market import ConnectionCounters, ExchangeCapabilities, MarketEvent, Subscription
from fks.model.ports import Budget, Log


class WireExchange(ABC):
    """Base of the exchange modules. A subclass names itself, gives a fresh `wire()` for each connection, and has the
    REST.

    Where ccxt knows that, see `fks.market.exchanges.base.rest.CcxtExchange`.
    """

    name: str
    capabilities: ExchangeCapabilities

    def __init__(self, endpoint: ExchangeAddresses, clock: Clock, log: Log, budget: Budget | None = None) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._log = log
        self._budget = budget
        self._sockets = Sockets(self.name, clock, log, budget=budget)
        self._around: Callable[[Wire], Wire] | None = None

    @abstractmethod
    def wire(self) -> Wire:
        """Return the protocol of one connection, counting into `self.counters`."""

    @abstractmethod
    async def listing(self) -> list[Any]:
        """Return the rows of all that is listed, as the exchange wrote them. Errors: OutageError, PeerError."""

    @abstractmethod
    def instrument_of(self, row: Any, now_ns: int) -> Instrument:
        """Return the instrument of one row. Any exception for a malformed row is logged and the row is left out."""

    async def instruments(self) -> list[Instrument]:
        """Return all that is listed; a malformed row is left out and logged. Errors: as `listing`."""
        rows, now_ns = await self.listing(), self._clock.now_ns()
        found: list[Instrument] = []
        for row in rows:
            try:
                found += read_rows(self.name, lambda row: self.instrument_of(row, now_ns), [row])
            except PeerError as error:
                self._log.warning("instrument.broken", exchange=self.name, error=f"{str(row)[:80]}: {error}")
        return found

    @property
    def counters(self) -> ConnectionCounters:
        """Return the counters of all connections of this object."""
        return self._sockets.counters

    def record(self, around: Callable[[Wire], Wire] | None) -> None:
        """Wrap the wire of every later connection in `around`, which sees all frames of it; None ends that."""
        self._around = around

    async def close(self) -> None:
        """Close sockets and sessions, waiting at most a second for the peer."""
        await self._sockets.close()

    async def connect_permit(self) -> None:
        """Return when a connection may be opened; see the port."""
        await self._sockets.connect_permit()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these on every connection that carries them; see the port."""
        self._sockets.unsubscribe(gone)

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield batches of one new connection; see the port. Errors: also InputError for an unknown channel."""
        for item in wanted:
            if item.channel not in self.capabilities.channels:
                raise invalid("CHANNEL_UNKNOWN", f"{self.name} has no live {item.channel}")
        wire = self.wire() if self._around is None else self._around(self.wire())
        async with contextlib.aclosing(self._sockets.listen(wire, wanted)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                yield batch
