"""The order book of one market: levels of lots around the last trade, a function of (market, price, time), plus our
orders.

Levels lie on a coarse grid so that they stay where they are while the price moves through them; each changes its size
every few seconds. What our orders took from a level is missing from it for a moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fks.lab.sim.market import Market
from fks.lab.sim.orders import SimOrder
from fks.model.bar import Ints

LEVELS = 60
_REFRESH_MS = 6_000
_REFILL_MS = 1_500
_ID_EPOCH_MS = 1_577_836_800_000


@dataclass(frozen=True, slots=True)
class Depth:
    """A snapshot: price in ticks -> lots, best first; `update` is its number."""

    update: int
    bids: dict[int, int]
    asks: dict[int, int]


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return well spread numbers, the same for the same input everywhere (splitmix64)."""
    x = values + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class OrderBook:
    """Makes snapshots and diffs. Update numbers grow with time, so they also grow across a restart."""

    def __init__(self, market: Market, now_ms: int) -> None:
        self._market = market
        self._salt = np.uint64(market.seed & 0xFFFFFFFF)
        self._taken: dict[int, int] = {}
        self._taken_ms = 0
        self.depth = Depth(max(1, now_ms - _ID_EPOCH_MS), {}, {})

    def best(self) -> tuple[int, int]:
        """Return the best bid and ask in ticks: the last trade was at one of them."""
        last, spread = self._market.last, self._market.listing.spread_ticks
        return (last.price, last.price + spread) if last.is_maker else (max(1, last.price - spread), last.price)

    def levels(self, side: str, time_ms: int) -> list[tuple[int, int]]:
        """Return (ticks, lots) of the market's own orders on `side` ("bid" or "ask"), best first."""
        bid, ask = self.best()
        grid, steps = self._market.listing.level_ticks, np.arange(LEVELS - 1, dtype=np.int64)
        if side == "bid":
            ticks = np.concatenate([[bid], ((bid - 1) // grid - steps) * grid])
        else:
            ticks = np.concatenate([[ask], (ask // grid + 1 + steps) * grid])
        ticks = ticks[ticks > 0]
        lots = self._lots(ticks, time_ms)
        if self._taken and time_ms - self._taken_ms > _REFILL_MS:
            self._taken.clear()
        pairs = list(zip(ticks.tolist(), lots.tolist(), strict=True))
        if self._taken:
            pairs = [(tick, lot - self._taken.get(tick, 0)) for tick, lot in pairs]
            pairs = [pair for pair in pairs if pair[1] > 0]
        return pairs

    def take(self, ticks: int, lots: int, time_ms: int) -> None:
        """Note that an order of ours took `lots` from a level."""
        self._taken[ticks] = self._taken.get(ticks, 0) + lots
        self._taken_ms = time_ms

    def _lots(self, ticks: Ints, time_ms: int) -> Ints:
        with np.errstate(over="ignore"):
            own = _mix(ticks.astype(np.uint64) + self._salt)
            epoch = (np.uint64(max(time_ms, 0)) + own % np.uint64(_REFRESH_MS)) // np.uint64(_REFRESH_MS)
            draw = _mix(own ^ epoch) >> np.uint64(11)
        share = draw.astype(np.float64) / float(1 << 53)
        size = self._market.listing.minute_volume / 12 * (0.15 + share * share * 2.5)
        found: Ints = np.maximum(1, size * (1 + 0.05 * np.arange(len(ticks)))).astype(np.int64)
        return found

    def refresh(self, time_ms: int, own: Iterable[SimOrder]) -> tuple[Depth, Depth]:
        """Go on to a new snapshot; return the old and the new one. `own` are our open limit orders in this market."""
        bids, asks = dict(self.levels("bid", time_ms)), dict(self.levels("ask", time_ms))
        listing = self._market.listing
        for order in own:
            if order.is_working and order.has_limit:
                side = bids if order.is_buy else asks
                ticks = order.price // listing.tick
                side[ticks] = side.get(ticks, 0) + order.remaining // listing.step
        old = self.depth
        changes = sum(
            1 for a, b in ((old.bids, bids), (old.asks, asks)) for p in a.keys() | b.keys() if a.get(p) != b.get(p)
        )
        if changes:
            self.depth = Depth(old.update + changes, bids, asks)
        return old, self.depth
