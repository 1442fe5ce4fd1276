"""State of one symbol while the exchange runs."""

from __future__ import annotations

from fks.lab.sim.atoms import SCALE
from fks.lab.sim.klines import Klines
from fks.lab.sim.market import RAW_OFFSET, Market
from fks.lab.sim.order_book import OrderBook
from fks.lab.sim.orders import SimOrder
from fks.lab.sim.prints import AggregateTrade

_AVERAGE_MS = 300_000


class SymbolState:
    """A market with its book, its klines and our open orders in it (by order id, oldest first)."""

    def __init__(self, market: Market, now_ms: int) -> None:
        self.market = market
        self.book = OrderBook(market, now_ms)
        self.klines = Klines(market)
        self.orders: dict[int, SimOrder] = {}
        self._average = (-1, 0)

    @property
    def symbol(self) -> str:
        """Return the symbol."""
        return self.market.symbol

    def average_price(self) -> int:
        """Return the volume-weighted price of the last five minutes in atoms; the last price when none traded."""
        market, second = self.market, self.market.now_ms // 1000
        if self._average[0] != second:
            start = max(market.id_first, market.count_until(market.now_ms - _AVERAGE_MS, inclusive=False))
            trades = market.columns(start, max(start, market.shown))
            lots = int(trades.lots.sum()) if len(trades) else 0
            ticks = int((trades.price * trades.lots).sum()) * SCALE // lots if lots else market.last.price * SCALE
            self._average = (second, ticks * market.listing.tick // SCALE)
        return self._average[1]

    def by_client_id(self, client_id: str) -> SimOrder | None:
        """Return the open order of that client order id."""
        return next((order for order in self.orders.values() if order.client_id == client_id), None)

    def algos(self) -> int:
        """Return how many open orders wait for a trigger."""
        return sum(1 for order in self.orders.values() if order.is_conditional)

    def own_limits(self) -> list[SimOrder]:
        """Return our open limit orders."""
        return [order for order in self.orders.values() if order.has_limit and order.is_working]

    def aggregate(self, trade: AggregateTrade) -> dict[str, object]:
        """Return a trade as `aggTrades` shows it."""
        return {
            "a": trade.id,
            "p": self.market.price(trade.price),
            "q": self.market.quantity(trade.lots),
            "f": trade.id + RAW_OFFSET,
            "l": trade.id + RAW_OFFSET,
            "T": trade.time_ms,
            "m": trade.is_maker,
            "M": True,
        }
