"""Rate limits of a venue session: shared buckets of `budgets`, with tokens leased ahead to spare orders a round trip.

Request weight is counted by address, together with market data; new orders by API key.
"""

from __future__ import annotations

import asyncio
import contextlib

from fks.clock import Clock
from fks.clock.waiting import wait_for_event
from fks.model.market import Allowance, RateLimits
from fks.model.ports import Priority
from fks.store.bus import BUDGETS, Bus
from fks.system.rate_limits.budgets import TAKE, bucket_of

#: up to which part of the venue's limit each kind of request may fill the shared bucket; market data stays below SHARE
CEILINGS: dict[Priority, float] = {Priority.ENTRY: 0.75, Priority.READ: 0.8, Priority.RESERVE: 0.87}
#: the guardian's own part, outside all ceilings; the rest is slack for requests under way
GUARDIAN_SHARE = 0.1
#: what an order manager may use of the limit while Redis is away
ORDERS_ALONE_SHARE = 0.25
_LEASED_WEIGHT, _LEASED_ORDERS = 40, 8
_LEASED = (Priority.ENTRY, Priority.RESERVE)
ASK_TIMEOUT_S = 0.1  # an order waits no longer for Redis itself
_TURN_S = 0.001  # another task took the leased tokens: try again
_GRACE_S = 0.5  # how long leased tokens outlive their window, while the next ones are on their way
_REPORT_STEP = 0.05  # what the venue reports as used is passed on at once when it rose by this part of the limit


class LeasedBudget:
    """Part of one process in a shared bucket, with tokens leased ahead for entries and for the reserve.

    `own_share` (the guardian's) is counted here and used first; the shared reserve is used when it is spent.
    Guarantees: `wait_s` and `spend` are synchronous; without Redis no more than `alone_share` of the limit is used.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        name: str,
        allowance: Allowance,
        *,
        leased: int = _LEASED_WEIGHT,
        own_share: float = 0.0,
        alone_share: float = ORDERS_ALONE_SHARE,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._name = name
        self._most = allowance.weight
        self._span_s = allowance.window_s
        self._leased = max(1, min(leased, allowance.weight // 10))
        self._leases_ahead = own_share == 0
        self._own = _Counter(int(allowance.weight * own_share), allowance.window_s)
        self._alone = _Counter(int(allowance.weight * alone_share), allowance.window_s)
        self._tokens: dict[Priority, int] = dict.fromkeys(Priority, 0)
        # until when nothing is free, as far as known
        self._full_s: dict[Priority, float] = dict.fromkeys(Priority, 0.0)
        self._window, self._ends_s = -1, 0.0  # of Redis' clock; monotonic
        self._reported, self._passed_on = (-1, 0), 0
        self._paused_s = 0.0
        self.paused_by = 429
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._pauses: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Lease ahead and follow pauses that other processes publish, until `stop`."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._refill()), asyncio.create_task(self._follow())]

    async def stop(self) -> None:
        """Lease no more."""
        tasks = [*self._tasks, *self._pauses]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []

    def wait_s(self, weight: int, priority: Priority) -> float:
        """Return how long such a request would wait, by the state of this process."""
        now_s = self._clock.monotonic()
        if self._paused_s > now_s:
            return self._paused_s - now_s
        if self._own.left(now_s) >= weight or self._left(priority, now_s) >= weight:
            return 0.0
        return max(self._full_s[priority] - now_s, 0.0)

    def has(self, weight: int, priority: Priority) -> bool:
        """Return whether `spend` would succeed."""
        now_s = self._clock.monotonic()
        is_here = self._own.left(now_s) >= weight or self._left(priority, now_s) >= weight
        return is_here and self._paused_s <= now_s

    def spend(self, weight: int, priority: Priority) -> bool:
        """Spend tokens that are here already; return whether there were enough."""
        now_s = self._clock.monotonic()
        if self._paused_s > now_s:
            return False
        if self._own.spend(weight, now_s):
            return True
        left = self._left(priority, now_s)
        if left * 2 < self._leased or left < weight:
            self._wake.set()
        if left < weight:
            return False
        self._tokens[priority] = left - weight
        return True

    def give_back(self, weight: int, priority: Priority) -> None:
        """Undo a `spend` whose request was not sent."""
        self._tokens[priority] += weight

    async def obtain(self, weight: int, priority: Priority) -> float:
        """Make `spend` possible: ask Redis for tokens, or count by ourselves without it. Return the wait, 0 when
        granted."""
        now_s = self._clock.monotonic()
        if self._paused_s > now_s:
            return self._paused_s - now_s
        answer = await self._ask(
            weight, priority, self._leased if self._leases_ahead and priority in _LEASED else weight
        )
        now_s = self._clock.monotonic()
        if answer is None:
            if not self._alone.spend(weight, now_s):
                wait_s = self._alone.wait_s(now_s)
                self._full_s[priority] = now_s + wait_s
                return wait_s
            self._tokens[priority] = self._left(priority, now_s) + weight
            self._ends_s = max(self._ends_s, now_s + _GRACE_S)
            return 0.0
        wait_ms, window, granted, left_ms, status = answer
        if window != self._window:
            self._tokens = dict.fromkeys(Priority, 0)
            self._window, self._passed_on = window, 0
        self._ends_s = now_s + left_ms / 1000
        if wait_ms:
            if status:
                self._pause_here(wait_ms / 1000, status)
            self._full_s[priority] = now_s + wait_ms / 1000
            return wait_ms / 1000
        if self._reported[0] == window and self._reported[1] >= self._most * CEILINGS[priority]:
            self._full_s[priority] = self._ends_s  # the venue reported it while Redis was asked
            return left_ms / 1000
        self._full_s[priority] = 0.0
        self._tokens[priority] += granted
        return 0.0

    def seen(self, used: int, *, sent_s: float) -> None:
        """Record the weight that the venue reports as used, unless the request was sent in an earlier window."""
        now_s = self._clock.monotonic()
        if self._window < 0 or now_s >= self._ends_s or sent_s < self._ends_s - self._span_s:
            return
        self._reported = max(self._reported, (self._window, used))
        for priority in _LEASED:
            if used >= self._most * CEILINGS[priority]:
                self._tokens[priority] = 0
                self._full_s[priority] = self._ends_s
        if used - self._passed_on >= self._most * _REPORT_STEP:
            self._wake.set()

    def pause(self, seconds: float, status: int) -> None:
        """Pause here at once, and everywhere as soon as Redis published it."""
        self._pause_here(seconds, status)
        task = asyncio.get_running_loop().create_task(self._publish_pause(seconds, status))
        self._pauses.add(task)
        task.add_done_callback(self._pauses.discard)

    async def _publish_pause(self, seconds: float, status: int) -> None:
        span_ms, pause_ms = int(self._span_s * 1000), int(seconds * 1000)
        values: list[float | str] = [0, self._most, span_ms, 0, -1, pause_ms, status, 0, BUDGETS]
        await self._bus.script(TAKE, [self._name], values)

    def _pause_here(self, seconds: float, status: int) -> None:
        until_s = self._clock.monotonic() + seconds
        if until_s > self._paused_s:
            self._paused_s, self.paused_by = until_s, status

    def _left(self, priority: Priority, now_s: float) -> int:
        return self._tokens[priority] if now_s < self._ends_s + _GRACE_S else 0

    async def _ask(self, weight: int, priority: Priority, wanted: int) -> tuple[int, int, int, int, int] | None:
        window, used = self._reported
        limit = max(1, int(self._most * CEILINGS[priority]))
        span_ms = int(self._span_s * 1000)
        values: list[float | str] = [weight, limit, span_ms, used, window, 0, 429, wanted, BUDGETS]
        answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                answer = await self._bus.script(TAKE, [self._name], values)
        if not isinstance(answer, list):
            return None
        self._passed_on = max(self._passed_on, used)
        wait_ms, at, granted, left_ms, status = map(int, answer)
        return wait_ms, at, granted, left_ms, status

    async def _refill(self) -> None:
        """Keep tokens for the next orders here, window after window."""
        while True:
            for priority in _LEASED if self._leases_ahead else ():
                now_s = self._clock.monotonic()
                is_low = now_s >= self._ends_s or self._tokens[priority] * 2 < self._leased
                if is_low and self._full_s[priority] <= now_s and self._paused_s <= now_s:
                    await self.obtain(1, priority)
            left_s = self._ends_s - self._clock.monotonic()
            self._wake.clear()
            await wait_for_event(self._wake, left_s + 0.002 if left_s > 0 else _GRACE_S)

    async def _follow(self) -> None:
        async for _, payload in self._bus.subscribe(BUDGETS):
            if isinstance(payload, dict) and payload.get("bucket") == self._name:
                with contextlib.suppress(KeyError, TypeError, ValueError):  # anyone with the password may publish
                    self._pause_here(float(payload["seconds"]), int(payload["status"]))


class _Counter:
    """Weight that one process used of a share of its own; a window begins with the first use after the last one."""

    def __init__(self, limit: int, span_s: float) -> None:
        self._limit = limit
        self._span_s = span_s
        self._from_s, self._used = float("-inf"), 0

    def left(self, now_s: float) -> int:
        return self._limit if now_s - self._from_s >= self._span_s else self._limit - self._used

    def spend(self, weight: int, now_s: float) -> bool:
        if now_s - self._from_s >= self._span_s:
            self._from_s, self._used = now_s, 0
        if self._used + weight > self._limit:
            return False
        self._used += weight
        return True

    def wait_s(self, now_s: float) -> float:
        return max(self._from_s + self._span_s - now_s, 0.0)


class RedisVenueBudget:
    """The budget of one venue session: request weight and new orders. For the guardian every request is in the
    reserve."""

    def __init__(self, weight: LeasedBudget, orders: LeasedBudget, clock: Clock, *, is_guardian: bool = False) -> None:
        self._weight = weight
        self._orders = orders
        self._clock = clock
        self._is_guardian = is_guardian

    async def start(self) -> None:
        await self._weight.start()
        await self._orders.start()

    async def stop(self) -> None:
        await self._weight.stop()
        await self._orders.stop()

    @property
    def paused_by(self) -> int:
        return self._weight.paused_by

    def wait_s(self, weight: int, priority: Priority, orders: int = 0) -> float:
        """Return how long such a request would wait now, by the state of this process."""
        priority = Priority.RESERVE if self._is_guardian else priority
        wait_s = self._weight.wait_s(weight, priority)
        return max(wait_s, self._orders.wait_s(orders, priority)) if orders else wait_s

    async def take(self, weight: int, priority: Priority, orders: int = 0, *, wait_max_s: float) -> float:
        """Spend, waiting at most `wait_max_s`: return 0.0, or the seconds it would still take, and nothing is spent."""
        priority = Priority.RESERVE if self._is_guardian else priority
        if self._spend(weight, priority, orders):
            return 0.0
        ends_s = self._clock.monotonic() + wait_max_s
        while True:
            wait_s = 0.0
            for bucket, count in ((self._weight, weight), (self._orders, orders)):
                if count and not bucket.has(count, priority):
                    wait_s = max(wait_s, await bucket.obtain(count, priority))
            if self._spend(weight, priority, orders):
                return 0.0
            wait_s = max(wait_s, _TURN_S)
            if self._clock.monotonic() + wait_s > ends_s:
                return wait_s
            await self._clock.sleep(wait_s)

    def _spend(self, weight: int, priority: Priority, orders: int) -> bool:
        if not self._weight.spend(weight, priority):
            return False
        if orders and not self._orders.spend(orders, priority):
            self._weight.give_back(weight, priority)
            return False
        return True

    def seen(self, weight: int | None, orders: int | None = None, *, sent_s: float) -> None:
        """Record the weight and orders that the venue reports as used."""
        if weight is not None:
            self._weight.seen(weight, sent_s=sent_s)
        if orders is not None:
            self._orders.seen(orders, sent_s=sent_s)

    def pause(self, seconds: float, status: int) -> None:
        """Send nothing for so long, in any process."""
        self._weight.pause(seconds, status)


def venue_budget(
    bus: Bus,
    clock: Clock,
    exchange: str,
    address: str | None,
    key: str,
    *,
    limits: RateLimits,
    is_guardian: bool = False,
) -> RedisVenueBudget:
    """Return the budget of a venue session at `address` (None: the exchange's own), within the exchange's `limits`.

    Request weight is shared with market data from that address, new orders with every session of the key. Where the
    exchange counts an account's requests by key, the guardian's weight and the order manager's are each their own.
    """
    weight = bucket_of(exchange, address)
    if limits.is_account_by_key:
        weight = bucket_of(f"{exchange}.{'guardian' if is_guardian else 'orders'}_key", address, key)
    own, alone = (GUARDIAN_SHARE, 0.0) if is_guardian else (0.0, ORDERS_ALONE_SHARE)
    return RedisVenueBudget(
        LeasedBudget(bus, clock, weight, limits.requests, own_share=own, alone_share=alone),
        LeasedBudget(
            bus,
            clock,
            bucket_of(f"{exchange}.orders", address, key),
            limits.orders,
            leased=_LEASED_ORDERS,
            own_share=own,
            alone_share=alone,
        ),
        clock,
        is_guardian=is_guardian,
    )
