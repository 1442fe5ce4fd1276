"""Rate limits shared by all processes of one exchange address or key: token buckets in Redis.

A bucket is refilled with each window of Redis' clock. The weight that the exchange reports as used (a response header)
counts when it is more: other programs may use the same address. Each kind of request may fill the bucket up to its own
ceiling, so history never delays live feeds, live feeds never delay orders, and entries never delay cancels, exits,
protection and kills. A 429 or 418 pauses every process at once. Without Redis each process keeps to a fixed share.

Buckets have no time to live: Redis evicts keys that have one (`volatile-lru`) and never these, which are few.

`RedisBudget` is for market data: each request asks Redis. Orders use `fks.system.rate_limits.venue_budgets`. Connects
are taken from a second bucket, which all keys of an address share, because exchanges count connects by address.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextvars import ContextVar

from fks.clock import Clock
from fks.model.market import Allowance, RateLimits
from fks.store.bus import BUDGETS, Bus

SHARE, BACKGROUND_SHARE, ALONE_SHARE = 0.6, 0.5, 0.15
CONNECTS_SHARE, CONNECTS_ALONE_SHARE = 0.8, 0.75  # the rest is for order streams, which use the same address
ALONE_LOOK_S = 2.0  # without Redis: how often to try it again
JITTER_S = 0.25
#: set in a task whose requests are less urgent than those of live feeds
in_background: ContextVar[bool] = ContextVar("in_background", default=False)
#: window of this task's last request: the used weight in its answer belongs to that window
_asked_in: ContextVar[int] = ContextVar("asked_in", default=-1)


# KEYS: the bucket. ARGV: weight, limit, window ms, used as the exchange reports, the window of that report, pause ms,
# the status that caused the pause, the weight wanted (the free part of it is granted, at least `weight`), the channel
# of pauses.
# Returns {ms to wait, the present window, granted, ms left of the window, status of the pause or 0}.
TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local weight, limit, span = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window = now - now % span
local has = redis.call('HMGET', KEYS[1], 'window', 'used', 'paused', 'status')
local used, paused, status = 0, tonumber(has[3] or '0'), tonumber(has[4] or '429')
if tonumber(has[1] or '-1') == window then used = tonumber(has[2]) end
if tonumber(ARGV[5]) == window then used = math.max(used, tonumber(ARGV[4])) end
if tonumber(ARGV[6]) > 0 then
  if now + tonumber(ARGV[6]) > paused then paused, status = now + tonumber(ARGV[6]), tonumber(ARGV[7]) end
  redis.call('PUBLISH', ARGV[9], cjson.encode({bucket = KEYS[1], seconds = (paused - now) / 1000, status = status}))
end
local wait, granted = 0, 0
if paused > now then wait = paused - now
elseif used > 0 and used + weight > limit then wait = window + span - now
else
  granted = math.max(weight, math.min(tonumber(ARGV[8]), limit - used))
  used = used + granted
end
redis.call('HSET', KEYS[1], 'window', window, 'used', used, 'paused', paused, 'status', status)
redis.call('PERSIST', KEYS[1])
return {wait, window, granted, window + span - now, paused > now and status or 0}
"""


class RedisBudget:
    """Budget of one process on the shared bucket. Guarantees: at most `alone_share` of the limit without Redis."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        name: str,
        allowance: Allowance,
        *,
        share: float = SHARE,
        alone_share: float = ALONE_SHARE,
        connects: RedisBudget | None = None,
    ) -> None:
        """Set up a budget on the bucket `name` (see `bucket_of`).

        All processes together use `share` of the allowance; of that, this process uses `alone_share` without Redis.
        `connects` is the budget of connects.
        """
        self._bus = bus
        self._clock = clock
        self._name = name
        self._connects = connects
        self._limit, self._alone_share = max(1, int(allowance.weight * share)), alone_share
        self._span_ms = max(1, int(allowance.window_s * 1000))
        self._reported = (-1, 0)  # newest window with a report, and the weight used in it
        self._last_used, self._last_used_s = 0, float("-inf")  # the last report, and its time
        self._paused_s = float("-inf")
        self._alone_from_s, self._alone_used = float("-inf"), 0
        self._locks = {False: asyncio.Lock(), True: asyncio.Lock()}
        self._tasks: set[asyncio.Task[object]] = set()

    async def take(self, weight: int = 1) -> None:
        """Return when a request of this weight may be sent; requests of a process are served in order."""
        is_background = in_background.get()
        limit = max(1, int(self._limit * (BACKGROUND_SHARE if is_background else 1)))
        async with self._locks[is_background]:
            while (wait_s := await self._wait_s(weight, limit)) > 0:
                await self._clock.sleep(wait_s + random.uniform(0, JITTER_S))  # noqa: S311  not all at the same moment

    async def take_connect(self) -> None:
        """Return when a connection may be opened; connects of a process are served in order."""
        if self._connects is not None:
            await self._connects.take()

    def seen(self, used: int) -> None:
        """Record the used weight that the exchange reports for this task's window; the next request passes it on."""
        self._reported = max(self._reported, (_asked_in.get(), used))
        self._last_used, self._last_used_s = used, self._clock.monotonic()

    def pause(self, seconds: float, status: int = 429) -> None:
        """Send nothing for so long: here at once, elsewhere as soon as Redis knows."""
        self._paused_s = max(self._paused_s, self._clock.monotonic() + seconds)
        asking = self._ask(0, self._limit, int(seconds * 1000), status)
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(asking)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_s(self, weight: int, limit: int) -> float:
        paused_s = self._paused_s - self._clock.monotonic()
        if paused_s > 0:
            return paused_s
        answer = await self._ask(weight, limit, 0)
        if answer is None:
            return min(self._alone(weight, limit), ALONE_LOOK_S)
        wait_ms, window = answer
        _asked_in.set(window)
        return wait_ms / 1000

    async def _ask(self, weight: int, limit: int, pause_ms: int, status: int = 429) -> tuple[int, int] | None:
        window, used = self._reported
        values: list[float | str] = [weight, limit, self._span_ms, used, window, pause_ms, status, weight, BUDGETS]
        answer = await self._bus.script(TAKE, [self._name], values)
        return (int(answer[0]), int(answer[1])) if isinstance(answer, list) else None

    def _alone(self, weight: int, limit: int) -> float:
        """Return the wait without Redis, by our own count and by the exchange's."""
        now_s, span_s = self._clock.monotonic(), self._span_ms / 1000
        # the exchange's window may have begun just then
        if now_s - self._last_used_s < span_s and self._last_used + weight > limit:
            return self._last_used_s + span_s - now_s
        if now_s - self._alone_from_s >= span_s:
            self._alone_from_s, self._alone_used = now_s, 0
        if self._alone_used and self._alone_used + weight > limit * self._alone_share:
            return self._alone_from_s + span_s - now_s
        self._alone_used += weight
        return 0.0


def budget_of(
    bus: Bus, clock: Clock, exchange: str, address: str | None, key: str = "", *, limits: RateLimits
) -> RedisBudget:
    """Return the budget of one exchange at one address (None: its public one) for one API key, within `limits`."""
    connects = RedisBudget(
        bus,
        clock,
        bucket_of(f"{exchange}.dials", address),
        limits.connects,
        share=CONNECTS_SHARE,
        alone_share=CONNECTS_ALONE_SHARE,
    )
    return RedisBudget(bus, clock, bucket_of(exchange, address, key), limits.requests, connects=connects)


def bucket_of(exchange: str, address: str | None, key: str = "") -> str:
    """Return the name of a bucket; it contains the key only as a digest."""
    digest = hashlib.sha256(f"{address}|{key}".encode()).hexdigest()
    return f"fks.budget.{exchange}.{digest[:16]}"
