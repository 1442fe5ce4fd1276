"""Rate limits of callers: a sliding hour per token, user or address, counted in Redis by one script per request.

The count of the hour before is weighted by the share of it that still lies within the last 60 minutes (the sliding
window counter). The hours of a caller begin with its first request. The counts of tokens and users have no time to
live, so that Redis does not evict them (`volatile-lru`). A flush or restart of Redis loses all counts: then a caller
gets a fresh hour. While Redis is away changes are refused (`fks.interfaces.api.policy`), reads and orders are served
uncounted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fks.config.settings import AuthSettings
from fks.interfaces.api import policy
from fks.model.errors import Problem
from fks.model.ports import Meter
from fks.store.bus import Bus
from fks.store.tokens import Principal
from fks.system.process.callers import network_of

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

PERIOD_S: Final = 3600
_PREFIX: Final = "fks:limit:"
_REFUSAL: Final = "limit_refusal"

# KEYS: the caller's hash. ARGV: limit, cost, period in seconds, 1 when it must not be evicted.
# Returns {1 when counted, what is left, ms until this hour of the caller ends, ms to wait}.
TAKE: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local limit, cost, span = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] * 1000
local has = redis.call('HMGET', KEYS[1], 'since', 'count', 'before')
local since, count, before = tonumber(has[1] or now), tonumber(has[2] or 0), tonumber(has[3] or 0)
local passed = now - since
if passed < 0 or passed >= 2 * span then since, count, before, passed = now, 0, 0, 0
elseif passed >= span then since, before, count, passed = since + span, count, 0, passed - span end
local used = before * (1 - passed / span) + count
if used + cost <= limit then
  redis.call('HSET', KEYS[1], 'since', since, 'count', count + cost, 'before', before)
  if ARGV[4] == '1' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], 2 * span) end
  return {1, math.floor(limit - used - cost), span - passed, 0}
end
local wait
if count + cost <= limit then wait = (1 - (limit - count - cost) / before) * span - passed
else wait = span - passed + (1 - (limit - cost) / count) * span end
return {0, math.max(0, math.floor(limit - used)), span - passed, math.max(1, math.ceil(wait))}
"""


@dataclass(frozen=True, slots=True)
class RequestAllowance:
    """The answer to one request: whether it may go on, the budget left, and when that changes (seconds)."""

    limit: int
    is_allowed: bool
    left: int
    reset_s: float
    wait_s: float

    @property
    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers (IETF draft-ietf-httpapi-ratelimit-headers), and Retry-After when refused."""
        found = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.left),
            "RateLimit-Reset": str(_up(self.reset_s)),
        }
        return found if self.is_allowed else found | {"Retry-After": str(_up(self.wait_s))}


class RequestLimits:
    """Counts requests. Holds no state: all replicas share Redis."""

    def __init__(self, bus: Bus, settings: AuthSettings, meter: Meter) -> None:
        self._bus = bus
        self._settings = settings
        self._meter = meter

    async def take(
        self, connection: HTTPConnection, principal: Principal, route: policy.Route, scope: str
    ) -> RequestAllowance | None:
        """Count a request of `principal`; None when it does not count. The answer's headers will say what is left.

        Past the limit of orders it returns all the same: their handler lets those pass that only reduce a position
        (`refusal_of`). Errors: Problem 429 RATE_LIMITED; 503 LIMITS_UNKNOWN for a change while Redis is away.
        """
        bucket = policy.bucket_of(route)
        own = principal.limit_per_hour
        limit = self._settings.limit_per_hour if own is None else own
        if bucket == "monitoring":
            limit = self._settings.monitoring_per_hour
        return await self._take(connection, f"{bucket}:{principal.key}", limit, route, scope)

    async def take_anonymous(
        self, connection: HTTPConnection, address: str, route: policy.Route
    ) -> RequestAllowance | None:
        """Count a request without a token. Errors: Problem 429 RATE_LIMITED."""
        bucket = policy.bucket_of(route)
        is_monitoring = bucket == "monitoring"
        limit = self._settings.monitoring_per_hour if is_monitoring else self._settings.anonymous_per_hour
        return await self._take(connection, f"{bucket}:address:{network_of(address)}", limit, route, "open")

    async def _take(
        self, connection: HTTPConnection, key: str, limit: int, route: policy.Route, scope: str
    ) -> RequestAllowance | None:
        cost = min(policy.cost_of(route, is_anonymous=scope == "open"), limit)
        if cost == 0:
            return None
        # tokens and users are few and their counts stay; addresses may be any number, and may be evicted
        is_kept = int(scope != "open")
        answer = await self._bus.script(TAKE, [_PREFIX + key], [limit, cost, PERIOD_S, is_kept])
        if answer is None:
            if policy.is_closed_without_limits(route, scope):
                raise Problem(
                    503,
                    "LIMITS_UNKNOWN",
                    "Redis keeps the rate limits and is away: nothing was changed",
                    remedy="try again in a moment; orders, cancels and the kill switch work meanwhile",
                    headers={"Retry-After": "1"},
                )
            return None
        allowed, left, reset_ms, wait_ms = (int(number) for number in answer)
        found = RequestAllowance(limit, bool(allowed), left, reset_ms / 1000, wait_ms / 1000)
        state = connection.scope.setdefault("state", {})
        state["allowance"] = found
        if not found.is_allowed:
            bucket = "anonymous" if scope == "open" else key.partition(":")[0]
            self._meter.count("fks_rate_limited_total", bucket=bucket)
            refusal = Problem(
                429,
                "RATE_LIMITED",
                f"more than {limit} requests in an hour",
                remedy=f"wait {_up(found.wait_s)} s; cancelling orders, reading them, orders that only reduce a "
                "position and the kill switch are not limited",
                headers={"Retry-After": str(_up(found.wait_s))},
            )
            if route not in policy.ORDERS or scope == "open":
                raise refusal
            state[_REFUSAL] = refusal
        return found


def refusal_of(connection: HTTPConnection) -> Problem | None:
    """Return why an order is refused unless it only reduces a position: its caller is past the limit. Else None."""
    refusal: Problem | None = connection.scope.get("state", {}).get(_REFUSAL)
    return refusal


def admit(connection: HTTPConnection) -> None:
    """Take the refusal of an order back: it was proven to only reduce a position."""
    state = connection.scope["state"]
    del state[_REFUSAL]
    state["allowance"] = replace(state["allowance"], is_allowed=True)


def _up(seconds: float) -> int:
    return int(-(-seconds // 1))
