"""What every venue shares: the bounded queue behind `events()`, exact numbers as text, and the answers we give ourselves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from decimal import Decimal

from fks.model.codes import Code
from fks.model.order import Answer, Order, OrderType, Outcome
from fks.model.ports import SessionBack, SessionLost, VenueEvent

EVENTS_MAX = 20_000


class EventQueue:
    """Venue events waiting for their one reader, oldest first, at most `limit`.

    When the reader falls behind by more than that, what waits is dropped and replaced by SessionLost and SessionBack:
    the reader then re-reads open orders and fills, so nothing is lost, and memory stays bounded (C14).
    """

    def __init__(self, limit: int = EVENTS_MAX) -> None:
        self._limit = limit
        self._events: deque[VenueEvent] = deque()
        self._wake = asyncio.Event()

    def put(self, event: VenueEvent) -> None:
        """Add an event; never blocks."""
        if len(self._events) >= self._limit:
            self._events.clear()
            self._events.append(SessionLost(f"more than {self._limit} events waited: read again"))
            self._events.append(SessionBack())
        self._events.append(event)
        self._wake.set()

    def __len__(self) -> int:
        return len(self._events)

    async def read(self) -> AsyncIterator[VenueEvent]:
        """Yield events for ever."""
        while True:
            while self._events:
                yield self._events.popleft()
            self._wake.clear()
            await self._wake.wait()


def text(value: Decimal) -> str:
    """Return the shortest plain decimal of `value`: no exponent, no trailing zeros."""
    plain = format(value, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def refused(code: Code | str, detail: str) -> Answer:
    """Return our own definitive no: nothing left the building."""
    return Answer(Outcome.REFUSED, code=str(code), detail=detail)


def mistake_in(order: Order, types: frozenset[OrderType]) -> str | None:
    """Return what makes `order` unsendable at any venue, or None. Pre-trade checks come before; this is the last look."""
    if order.type not in types:
        return f"type {order.type.value} is not offered here"
    if not order.quantity.is_finite() or order.quantity <= 0:
        return f"quantity {order.quantity} is not positive"
    needs_price = order.type in (OrderType.LIMIT, OrderType.STOP_LIMIT, OrderType.TAKE_PROFIT)
    needs_stop = order.type in (OrderType.STOP, OrderType.STOP_LIMIT)
    for name, value, is_needed in (("price", order.price, needs_price), ("stop_price", order.stop_price, needs_stop)):
        if is_needed and (value is None or not value.is_finite() or value <= 0):
            return f"{name} {value} is not positive"
    return None
