"""Request weights and order counts, their headers, and the refusal of clients that exceed them."""

from __future__ import annotations

from collections.abc import Callable

from fks.lab.sim.errors import ApiError

WEIGHT_PER_MINUTE = 6_000
ORDERS_PER_10S = 100
ORDERS_PER_DAY = 200_000
_STRIKES_MAX = 20
_BAN_S = 120


class Window:
    """A count that starts again with each span of the clock."""

    def __init__(self, span_ms: int) -> None:
        self.span_ms = span_ms
        self._slot = -1
        self._count = 0

    def add(self, amount: int, now_ms: int) -> int:
        """Add and return the count of this span."""
        slot = now_ms // self.span_ms
        if slot != self._slot:
            self._slot, self._count = slot, 0
        self._count += amount
        return self._count


class DecayingCount:
    """A count that falls with time, `decay_per_s` a second, to zero and no lower."""

    def __init__(self, decay_per_s: float, monotonic: Callable[[], float]) -> None:
        self._decay_per_s = decay_per_s
        self._monotonic = monotonic
        self._count = 0.0
        self._at_s = monotonic()

    def add(self, amount: float, most: float) -> float:
        """Return the count as it was before `amount` was added; it never gets above `most`."""
        now = self._monotonic()
        before = max(0.0, self._count - (now - self._at_s) * self._decay_per_s)
        self._count, self._at_s = min(before + amount, most), now
        return before


class AddressLimits:
    """The limits of one address (every client here is on this machine). `is_on` False counts and never refuses."""

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        is_on: bool,
        weight_per_minute: int = WEIGHT_PER_MINUTE,
        orders_per_10s: int = ORDERS_PER_10S,
    ) -> None:
        self._now_ms = now_ms
        self._weight_most, self._orders_most = weight_per_minute, orders_per_10s
        self.rules: list[dict[str, object]] = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_per_minute},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": orders_per_10s},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": ORDERS_PER_DAY},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61_000},
        ]
        self._is_on = is_on
        self._weight = Window(60_000)
        self._orders_10s = Window(10_000)
        self._orders_day = Window(86_400_000)
        self._strikes = 0
        self._banned_until_ms = 0

    def spend(self, weight: int) -> None:
        """Count a request. Errors: 429 or 418 with −1003 and Retry-After."""
        now = self._now_ms()
        used = self._weight.add(weight, now)
        if not self._is_on:
            return
        if now < self._banned_until_ms:
            raise self.banned(self._banned_until_ms, now)
        if used <= self._weight_most:
            self._strikes = 0
            return
        self._strikes += 1
        if self._strikes > _STRIKES_MAX:
            self._banned_until_ms = now + _BAN_S * 1000
            raise self.banned(self._banned_until_ms, now)
        raise self.too_much(60 - now // 1000 % 60)

    def spend_order(self) -> None:
        """Count a new order. Errors: 429 with −1015."""
        now = self._now_ms()
        short, day = self._orders_10s.add(1, now), self._orders_day.add(1, now)
        if not self._is_on:
            return
        if short > self._orders_most:
            raise self.too_many_orders()
        if day > ORDERS_PER_DAY:
            raise self.too_many_orders(ORDERS_PER_DAY, "1 DAY")

    def headers(self, *, with_orders: bool) -> dict[str, str]:
        """Return the headers of an answer."""
        now = self._now_ms()
        used = str(self._weight.add(0, now))
        found = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        if with_orders:
            found["X-MBX-ORDER-COUNT-10S"] = str(self._orders_10s.add(0, now))
            found["X-MBX-ORDER-COUNT-1D"] = str(self._orders_day.add(0, now))
        return found

    def counts(self, *, with_orders: bool) -> list[dict[str, object]]:
        """Return the `rateLimits` of the WebSocket API."""
        now = self._now_ms()
        counts = [self.rules[0] | {"count": self._weight.add(0, now)}]
        if with_orders:
            counts = [
                self.rules[1] | {"count": self._orders_10s.add(0, now)},
                self.rules[2] | {"count": self._orders_day.add(0, now)},
                *counts,
            ]
        return counts

    def too_much(self, wait_s: int) -> ApiError:
        """Return the 429."""
        text = (
            f"Too much request weight used; current limit is {self._weight_most} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        return ApiError(-1003, text, status=429, headers={"Retry-After": str(wait_s)})

    def too_many_orders(self, most: int | None = None, span: str = "10 SECOND") -> ApiError:
        """Return the 429 of a new order."""
        limit = self._orders_most if most is None else most
        return ApiError(-1015, f"Too many new orders; current limit is {limit} orders per {span}.", status=429)

    @staticmethod
    def banned(until_ms: int, now_ms: int) -> ApiError:
        """Return the 418."""
        text = (
            f"Way too much request weight used; IP banned until {until_ms}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        wait_s = max(1, (until_ms - now_ms) // 1000)
        return ApiError(-1003, text, status=418, headers={"Retry-After": str(wait_s)})
