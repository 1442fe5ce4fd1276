"""Shared by all venues: the bounded queue behind `events()`, exact numbers as text, rate limits, and our own
refusals."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from fks.clock import Clock
from fks.model.codes import Code
from fks.model.order import Answer, Order, OrderType, Outcome, Refusal, Role
from fks.model.ports import Priority, SessionBack, SessionLost, VenueBudget, VenueEvent

EVENTS_MAX = 20_000
BANNED_STATUS = 418
_RESERVED = frozenset({Role.EXIT, Role.STOP_LOSS, Role.TAKE_PROFIT, Role.KILL})
#: how long a request waits for the rate limit before it is refused, or a read fails
ENTRY_WAIT_S, RESERVE_WAIT_S, READ_WAIT_S = 0.25, 1.0, 1.0


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


def refused(code: Code | str, refusal: Refusal, detail: str) -> Answer:
    """Return a definitive no of which no byte left, or of an order that is not open any more."""
    return Answer(Outcome.REFUSED, code=str(code), detail=detail, refusal=refusal)


def priority_of(order: Order) -> Priority:
    """Return RESERVE for an order that ends or protects a position, else ENTRY."""
    return Priority.RESERVE if order.is_reduce_only or order.role in _RESERVED else Priority.ENTRY


def gate_refusal(status: int | None) -> Refusal:
    """Return what a 429 or a 418 means: slower, or locked out."""
    return Refusal.BANNED if status == BANNED_STATUS else Refusal.RATE_LIMITED


async def hold_back(budget: VenueBudget, weight: int, priority: Priority, orders: int = 0) -> Answer | None:
    """Take `weight` from the venue's rate limit for a send or a cancel; return the refusal when there is too long a
    wait."""
    wait_max_s = ENTRY_WAIT_S if priority is Priority.ENTRY else RESERVE_WAIT_S
    wait_s = await budget.take(weight, priority, orders, wait_max_s=wait_max_s)
    if wait_s == 0:
        return None
    detail = f"nothing was sent: the venue's rate limit has room in {wait_s:.1f} s"
    refusal = gate_refusal(budget.paused_by)
    return Answer(Outcome.REFUSED, code=Code.RATE_VENUE.value, detail=detail, retry_after_s=wait_s, refusal=refusal)


class PauseOnly:
    """A VenueBudget of one session on its own: it counts nothing and keeps to the venue's Retry-After."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s = 0.0
        self.paused_by = 0

    def wait_s(self, weight: int, priority: Priority, orders: int = 0) -> float:
        return max(self._until_s - self._clock.monotonic(), 0.0)

    async def take(self, weight: int, priority: Priority, orders: int = 0, *, wait_max_s: float) -> float:
        wait_s = self.wait_s(weight, priority)
        if 0 < wait_s <= wait_max_s:
            await self._clock.sleep(wait_s)
            wait_s = self.wait_s(weight, priority)
        return wait_s

    def seen(self, weight: int | None, orders: int | None = None, *, sent_s: float) -> None:
        pass

    def pause(self, seconds: float, status: int) -> None:
        self._until_s, self.paused_by = max(self._until_s, self._clock.monotonic() + seconds), status

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def mistake_in(order: Order, types: frozenset[OrderType]) -> str | None:
    """Return what makes `order` unsendable at any venue, or None. Pre-trade checks come before; this is the last
    look."""
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
