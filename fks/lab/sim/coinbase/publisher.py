"""Coinbase's market channels: subscriptions, their answers, and the events of each channel as the market moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from fks.lab.sim.coinbase.market import trade_row
from fks.lab.sim.coinbase.orders import Product, iso
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import Target
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.publisher import Levels, LiveKline, TradeFaults, book_changes, book_levels
from fks.lab.sim.sockets import Socket
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.tickers import day_ticker

PATH = "/advanced-trade-ws"
CHANNELS = ("market_trades", "candles", "ticker", "level2")
_DEPTH = 60  # every level of the market
_CANDLES = "5m"  # no others
_SNAPSHOT_TRADES = 50
_SHUTDOWN = orjson.dumps({"type": "error", "message": "the server restarts"})
Row = dict[str, object]


@dataclass(slots=True)
class _Connection:
    """`sequence` numbers all messages of a connection, from 0."""

    wanted: dict[str, list[str]] = field(default_factory=dict)
    sequence: int = 0
    second: int = 0
    beats: int = 0


class CoinbasePublisher:
    """Subscriptions and events. The channel `user` is refused: there is none."""

    def __init__(self, exchange: LocalExchange, products: dict[str, Product]) -> None:
        self._exchange = exchange
        self._products = products
        self._by_symbol = {product.state.symbol: product for product in products.values()}
        self._connections: dict[Socket, _Connection] = {}
        self._struck = TradeFaults(exchange.faults)
        self._bars: dict[str, LiveKline] = {}
        self._books: dict[str, tuple[Levels, Levels]] = {}
        self._tops: dict[str, Row] = {}

    # ── connections ──────────────────────────────────────────────────────────────────────────────
    def connected(self, socket: Socket) -> None:
        """Note a connection; Coinbase does not greet it."""
        socket.shutdown_frame = _SHUTDOWN
        self._connections[socket] = _Connection()

    def gone(self, socket: Socket) -> None:
        """Forget a connection."""
        self._connections.pop(socket, None)

    def sockets(self) -> set[Socket]:
        """Return every open connection."""
        return set(self._connections)

    def command(self, socket: Socket, text: str) -> None:
        """Subscribe or unsubscribe; answer with the subscriptions of now, and send the snapshots."""
        try:
            message = orjson.loads(text)
        except ValueError:
            message = None
        given: dict[str, Any] = message if isinstance(message, dict) else {}
        channel, names = given.get("channel"), given.get("product_ids", [])
        if given.get("type") not in ("subscribe", "unsubscribe") or channel not in (*CHANNELS, "heartbeats"):
            self._refuse(socket, "authentication failure" if channel == "user" else "failure to subscribe")
            return
        if not isinstance(names, list) or not all(isinstance(name, str) and name in self._products for name in names):
            self._refuse(socket, f"{names} are no products")
            return
        connection = self._connections[socket]
        held = connection.wanted.setdefault(channel, [])
        added = [name for name in names if name not in held] if given["type"] == "subscribe" else []
        held += added
        if given["type"] == "unsubscribe":
            connection.wanted[channel] = [name for name in held if names and name not in names]
        for name in added:
            self._send(socket, channel, self._snapshot(channel, self._products[name]))
        standing = {name: of or ["heartbeats"] for name, of in connection.wanted.items() if of or name == "heartbeats"}
        self._send(socket, "subscriptions", [{"subscriptions": standing}])

    @staticmethod
    def _refuse(socket: Socket, why: str) -> None:
        socket.send(orjson.dumps({"type": "error", "message": why}))

    def _snapshot(self, channel: str, product: Product) -> list[Row]:
        market = product.state.market
        if channel == "market_trades":
            newest = market.between(market.id_next - _SNAPSHOT_TRADES, market.id_next)
            return [{"type": "snapshot", "trades": [trade_row(product, trade) for trade in newest[::-1]]}]
        if channel == "candles":
            live = self._bars.setdefault(product.id, LiveKline(product.state, _CANDLES))
            return [{"type": "snapshot", "candles": [_candle(product, live)]}]
        if channel == "ticker":
            return [{"type": "snapshot", "tickers": [_ticker(product)]}]
        book = self._books.setdefault(product.id, book_levels(product.state, _DEPTH))
        return [_book(product, "snapshot", book)]

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None:
        """Publish trades as they happen, newest first, in one message. A lost one leaves a gap in the sequence."""
        product = self._by_symbol[state.symbol]
        if (live := self._bars.get(product.id)) is not None:
            for trade in trades:
                live.add(trade)
        if not self._wanted("market_trades", product):
            return
        sent, lost = self._struck.sent(state.symbol, trades)
        if lost:
            for socket in self._wanted("market_trades", product):
                self._connections[socket].sequence += 1
        if sent:
            rows = [trade_row(product, trade) for trade in sent[::-1]]
            self._publish("market_trades", product, [{"type": "update", "trades": rows}])

    def klines(self, state: SymbolState, now_ms: int, *, is_final: bool = False) -> None:
        """Publish the open bar if it changed, at most once a second."""
        product = self._by_symbol[state.symbol]
        live = self._bars.get(product.id)
        if live is None:
            return
        ended = live.roll(now_ms)
        if live.is_new and (ended or is_final or now_ms - live.published_ms >= 1000):
            live.is_new, live.published_ms = False, now_ms
            self._publish("candles", product, [{"type": "update", "candles": [_candle(product, live)]}])

    def tick(self, state: SymbolState, *, is_final: bool = False) -> None:
        """Publish everything that is due at the market's now, and each connection's heartbeat once a second."""
        product = self._by_symbol[state.symbol]
        self.klines(state, state.market.now_ms, is_final=is_final)
        if (old := self._books.get(product.id)) is not None and self._wanted("level2", product):
            new = self._books[product.id] = book_levels(state, _DEPTH)
            if old != new:
                self._publish("level2", product, [_book(product, "update", book_changes(old, new))])
        else:
            self._books.pop(product.id, None)
        if self._wanted("ticker", product) and self._tops.get(product.id) != (top := _top(product)):
            self._tops[product.id] = top
            self._publish("ticker", product, [{"type": "update", "tickers": [_ticker(product)]}])
        second = int(self._exchange.clock.monotonic())
        for socket, connection in self._connections.items():
            if connection.second != second and "heartbeats" in connection.wanted:
                connection.second, connection.beats = second, connection.beats + 1
                beat = {"current_time": iso(self._exchange.wall_ms()), "heartbeat_counter": connection.beats}
                self._send(socket, "heartbeats", [beat])

    def _wanted(self, channel: str, product: Product) -> list[Socket]:
        return [one for one, held in self._connections.items() if product.id in held.wanted.get(channel, ())]

    def _publish(self, channel: str, product: Product, events: list[Row]) -> None:
        at = Target(path=PATH, symbol=product.state.symbol, event=channel)
        sockets = self._wanted(channel, product)
        if sockets and self._exchange.faults.holds("freeze_stream", self._exchange.clock.monotonic(), at) is None:
            for socket in sockets:
                self._send(socket, channel, events)

    def _send(self, socket: Socket, channel: str, events: list[Row]) -> None:
        connection = self._connections[socket]
        frame: Row = {
            "channel": "l2_data" if channel == "level2" else channel,
            "client_id": "",
            "timestamp": iso(self._exchange.wall_ms()),
            "sequence_num": connection.sequence,
            "events": events,
        }
        connection.sequence += 1
        socket.send(orjson.dumps(frame))


def _candle(product: Product, live: LiveKline) -> Row:
    bar = live.bar
    prices = {name: product.price(getattr(bar, name)) for name in ("high", "low", "open", "close")}
    return {
        "start": str(bar.start_ms // 1000),
        **prices,
        "volume": product.size(bar.volume),
        "product_id": product.id,
    }


def _top(product: Product) -> Row:
    bids, asks = book_levels(product.state, 1)
    ((bid, bid_lots),), ((ask, ask_lots),) = bids.items(), asks.items()
    return {
        "best_bid": product.price(bid),
        "best_bid_quantity": product.size(bid_lots),
        "best_ask": product.price(ask),
        "best_ask_quantity": product.size(ask_lots),
    }


def _ticker(product: Product) -> Row:
    day = day_ticker(product.state)
    return {
        "type": "ticker",
        "product_id": product.id,
        "price": str(day["c"]),
        "volume_24_h": str(day["v"]),
        "low_24_h": str(day["l"]),
        "high_24_h": str(day["h"]),
        "low_52_w": str(day["l"]),
        "high_52_w": str(day["h"]),
        "price_percent_chg_24_h": str(day["P"]),
        **_top(product),
    }


def _book(product: Product, kind: str, levels: tuple[Levels, Levels]) -> Row:
    time = iso(product.state.market.now_ms)
    updates = [
        {"side": side, "event_time": time, "price_level": product.price(ticks), "new_quantity": product.size(lots)}
        for side, held in zip(("bid", "offer"), levels, strict=True)
        for ticks, lots in held.items()
    ]
    return {"type": kind, "product_id": product.id, "updates": updates}
