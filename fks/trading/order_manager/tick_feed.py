"""Trades or quotes for venues that fill from market data (paper), as the collectors publish and store them.

With `paper.fills = "trades"` resting orders meet every stored trade, in order, each once; the newest price, for market
orders, comes with the collectors' messages. With `"quotes"` buys meet the ask and sells the bid of each message. Any
collected symbol is served, with or without a strategy instance. A price older than the feed limit fills nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Protocol, runtime_checkable

from fks.clock.waiting import wait_for_event
from fks.model.account import Account
from fks.model.errors import OutageError
from fks.model.order import LIVE, Order
from fks.model.signal import Signal
from fks.model.timeframe import to_ns
from fks.store.latest import PRICES, QUOTES
from fks.trading.order_manager.bar_feed import BarFeed
from fks.trading.order_manager.context import OrderManagerContext

_POLL_S = 0.25  # how often stored trades are read for symbols in which orders rest
_BATCH = 5000


@runtime_checkable
class TickVenue(Protocol):
    """A venue that fills from trades or quotes."""

    name: str

    def on_price(self, symbol: str, price: Decimal, *, at_ns: int = 0) -> None: ...
    def on_quote(self, symbol: str, bid: Decimal, ask: Decimal, *, at_ns: int) -> None: ...


class TickFeed:
    """Feeds one venue; `bars` rebuilds it from the journal. Soft state: how far each symbol's trades were read."""

    def __init__(self, context: OrderManagerContext, bars: BarFeed, venue: TickVenue) -> None:
        self._context = context
        self._bars = bars
        self._venue = venue
        self._is_quotes = context.settings.paper.fills == "quotes"
        self._cursors: dict[str, tuple[int, int]] = {}  # symbol -> time (ns) and id of the last trade that was read
        self._wake = asyncio.Event()

    async def restore(self, account: Account | None) -> None:
        """Give the venue back what the journal says it holds and what rests there; trades since then are read."""
        await self._bars.restore(account)
        for order in self._resting():
            since_ns = min(order.created_ns, self._cursors.get(order.symbol, (order.created_ns, 0))[0])
            self._cursors[order.symbol] = (since_ns, 0)

    def wake(self) -> None:
        """Look for trades now."""
        self._wake.set()

    async def catch_up(self, signal: Signal) -> None:
        """Give the venue the newest known price of a signal's symbol."""
        if signal.venue == self._venue.name:
            self._give_mark(signal.exchange, signal.symbol)

    async def run(self) -> None:
        """Feed for ever; an outage pauses it."""
        listening = asyncio.ensure_future(self._listen())
        try:
            while not listening.done():
                self._wake.clear()
                self._bars.learn()
                try:
                    await self._bars.note_nights(self._context.clock.now_ns())
                    for exchange, symbol in list(self._context.cache.marks):
                        self._give_mark(exchange, symbol)
                    if not self._is_quotes:
                        await self._read_trades()
                except OutageError as error:
                    self._context.log.warning("paper.feed_paused", error=str(error))
                await wait_for_event(self._wake, _POLL_S, self._context.clock)
            listening.result()
        finally:
            listening.cancel()

    # ── messages ─────────────────────────────────────────────────────────────────────────────────
    async def _listen(self) -> None:
        async for _, message in self._context.bus.subscribe(QUOTES if self._is_quotes else PRICES):
            try:
                self._take(message)
            except (KeyError, TypeError, ValueError, InvalidOperation):
                self._context.log.warning("paper.message_skipped", message=str(message)[:200])

    def _take(self, message: Mapping[str, object]) -> None:
        symbol = str(message["symbol"])
        if message["exchange"] != self._exchange_of(symbol):
            return
        at_ns = to_ns(datetime.fromisoformat(str(message["received"])))
        if self._is_quotes:
            self._venue.on_quote(symbol, Decimal(str(message["bid"])), Decimal(str(message["ask"])), at_ns=at_ns)
        else:
            self._venue.on_price(symbol, Decimal(str(message["price"])), at_ns=at_ns)

    def _give_mark(self, exchange: str, symbol: str) -> None:
        """Give the price that the order manager's checks see: it is there without Redis, too."""
        mark = self._context.cache.marks.get((exchange, symbol))
        if mark is None or mark.price is None or mark.message_ns is None or exchange != self._exchange_of(symbol):
            return
        if not self._is_quotes:
            self._venue.on_price(symbol, mark.price, at_ns=mark.message_ns)

    def _exchange_of(self, symbol: str) -> str:
        """Return the exchange whose market a symbol's orders meet: that of a resting order, else the one collected."""
        for order in self._resting():
            if order.symbol == symbol:
                return order.exchange
        listed = self._context.cache.instruments_of(symbol)
        main = self._context.settings.data.exchange
        return main if main in listed or not listed else min(listed)

    # ── trades ───────────────────────────────────────────────────────────────────────────────────
    async def _read_trades(self) -> None:
        resting = {order.symbol: order for order in self._resting()}
        for symbol in [symbol for symbol in self._cursors if symbol not in resting]:
            del self._cursors[symbol]
        for symbol, order in resting.items():
            cursor = self._cursors.setdefault(symbol, (order.created_ns, 0))
            while True:
                trades = await self._context.facts.trades_after(order.exchange, symbol, *cursor, _BATCH)
                for trade in trades:
                    self._venue.on_quote(symbol, trade.price, trade.price, at_ns=trade.time_ns)
                    cursor = (trade.time_ns, trade.trade_id)
                self._cursors[symbol] = cursor
                await asyncio.sleep(0)
                if len(trades) < _BATCH:
                    break

    def _resting(self) -> list[Order]:
        name = self._venue.name
        return [o for o in self._context.cache.orders.values() if o.venue == name and o.state in LIVE]
