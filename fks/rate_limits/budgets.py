"""Rate limits shared by all processes that ask an exchange from one address or with one key: token buckets in Redis.

A bucket is refilled with each window of Redis' clock. What the exchange itself reports as used (a response header)
counts when it is more: others ask from the same address too. Each kind of request may fill the bucket up to its own
ceiling, so that history never delays live feeds, these never delay orders, and entries never delay cancels, exits,
protection and kills. A 429 or 418 pauses every process at once. With Redis away every process keeps to a fixed share of
its own.

`RedisBudget` is for market data: each request asks Redis. Orders take theirs through `fks.rate_limits.venue_budgets`.
Connects are taken from a second bucket, which all keys of an address share: exchanges count them by address alone.
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
DIALS_SHARE, DIALS_ALONE_SHARE = (
    0.8,
    0.75,
)  # order streams dial from the same address; one process has nearly all others
ALONE_LOOK_S = 2.0  # without Redis: how often it is asked whether it is back
JITTER_S = 0.25
#: set in a task whose requests can wait for those of live feeds
in_background: ContextVar[bool] = ContextVar("in_background", default=False)
#: the window in which this task's last request got leave: what its answer says was used is of that one, however late it
#: comes
_asked_in: ContextVar[int] = ContextVar("asked_in", default=-1)


# KEYS: the bucket. ARGV: weight, limit, window ms, used as the exchange reports, the window of that report, pause ms,
# the
# status that asked for the pause, the weight wanted (what is free of it is granted, at least `weight`), the channel of
# pauses.
# Answers {ms to wait, the present window, granted, ms left of the window, status of the pause or 0}.
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
redis.call('PEXPIRE', KEYS[1], math.max(span * 2, paused - now + span))
return {wait, window, granted, window + span - now, paused > now and status or 0}
"""


class RedisBudget:
    """A Budget of one process on the shared bucket. Guarantees: without Redis it takes no more than `alone_share`
    allows."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        name: str,
        allowance: Allowance,
        *,
        share: float = SHARE,
        alone_share: float = ALONE_SHARE,
        dials: RedisBudget | None = None,
    ) -> None:
        """`name` is the bucket: see `bucket_of`. `share` of the allowance is ours, of that `alone_share` this process'
        without Redis; `dials`: what each dial takes one of."""
        self._bus = bus
        self._clock = clock
        self._name = name
        self._dials = dials
        self._limit, self._alone_share = max(1, int(allowance.weight * share)), alone_share
        self._span_ms = max(1, int(allowance.window_s * 1000))
        self._said = (-1, 0)  # of the newest window of which something was said: the window, and what was used of it
        self._heard_used, self._heard_s = 0, float("-inf")  # what was said last, and when
        self._paused_s = float("-inf")
        self._alone_from_s, self._alone_used = float("-inf"), 0
        self._turns = {False: asyncio.Lock(), True: asyncio.Lock()}
        self._tasks: set[asyncio.Task[object]] = set()

    async def take(self, weight: int = 1) -> None:
        """Return when a request of this weight may be sent; requests of a process are served in order."""
        is_background = in_background.get()
        limit = max(1, int(self._limit * (BACKGROUND_SHARE if is_background else 1)))
        async with self._turns[is_background]:
            while (wait_s := await self._wait_s(weight, limit)) > 0:
                await self._clock.sleep(wait_s + random.uniform(0, JITTER_S))  # noqa: S311  not all at the same moment

    async def dial(self) -> None:
        """Return when a socket may be dialled; dials of a process are served in order."""
        if self._dials is not None:
            await self._dials.take()

    def seen(self, used: int) -> None:
        """Note what the exchange says was used of the window this task asked in; it is told with the next request."""
        self._said = max(self._said, (_asked_in.get(), used))
        self._heard_used, self._heard_s = used, self._clock.monotonic()

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
        window, used = self._said
        values: list[float | str] = [weight, limit, self._span_ms, used, window, pause_ms, status, weight, BUDGETS]
        answer = await self._bus.script(TAKE, [self._name], values)
        return (int(answer[0]), int(answer[1])) if isinstance(answer, list) else None

    def _alone(self, weight: int, limit: int) -> float:
        """Return the wait by our own count and the exchange's, without Redis."""
        now_s, span_s = self._clock.monotonic(), self._span_ms / 1000
        if now_s - self._heard_s < span_s and self._heard_used + weight > limit:  # its window may have begun just then
            return self._heard_s + span_s - now_s
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
        share=DIALS_SHARE,
        alone_share=DIALS_ALONE_SHARE,
    )
    return RedisBudget(bus, clock, bucket_of(exchange, address, key), limits.requests, dials=connects)


def bucket_of(exchange: str, address: str | None, key: str = "") -> str:
    """Return the name of a bucket; a key is in it as a digest alone."""
    digest = hashlib.sha256(f"{address}|{key}".encode()).hexdigest()
    return f"fks.budget.{exchange}.{digest[:16]}"
