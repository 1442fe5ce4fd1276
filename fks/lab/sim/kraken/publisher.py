"""Kraken's WebSocket v2: subscriptions, their answers, and the events of each channel as the market moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import orjson

from fks.lab.sim.faults import Faults, Target
from fks.lab.sim.klines import Kline
from fks.lab.sim.kraken.pairs import Pair, iso_us, pair_of
from fks.lab.sim.kraken.rest import INTERVALS
from fks.lab.sim.kraken.user_stream import CHANNELS, PRIVATE_PATH, KrakenUserStream
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.publisher import Levels, LiveKline, TradeFaults, book_changes, book_levels
from fks.lab.sim.sockets import Socket
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.tickers import day_ticker

PATH = "/v2"
DEPTHS = (10, 25)  # of the real 10, 25, 100, 500 and 1000: the market has 60 levels
SHUTDOWN = orjson.dumps({"channel": "status", "type": "update", "data": [{"system": "maintenance", "version": "2.0"}]})
_SNAPSHOT_TRADES = 50
_PRIVATE_ELSEWHERE = "Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"
_PUBLIC_ELSEWHERE = "Public market data subscriptions are unavailable on this endpoint. Try ws.kraken.com"
_SECOND_MS = 1000
Channel = tuple[str, str, int]  # channel, symbol of version 2, interval or depth (0 without)


class KrakenPublisher:
    """Subscriptions and events of version 2. Times in events are market time, those of answers the server's.

    Connections of the private path have the channels of `users`, all others those of the market.
    """

    def __init__(
        self,
        states: dict[str, SymbolState],
        faults: Faults,
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
        users: KrakenUserStream,
    ) -> None:
        self._pairs = {pair.symbol: pair for pair in map(pair_of, states.values())}
        self._by_state = {pair.state.symbol: pair for pair in self._pairs.values()}
        self._faults = faults
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._users = users
        self._wanted: dict[Channel, set[Socket]] = {}
        self._sockets: dict[Socket, int] = {}  # -> the second of its last heartbeat
        self._bars: dict[Channel, LiveKline] = {}
        self._books: dict[Channel, tuple[Levels, Levels]] = {}
        self._tops: dict[str, tuple[int, ...]] = {}
        self._days: dict[str, tuple[int, dict[str, object]]] = {}
        self._struck = TradeFaults(faults)

    # ── connections ──────────────────────────────────────────────────────────────────────────────
    def connected(self, socket: Socket) -> None:
        """Greet a connection: the state of the system."""
        socket.shutdown_frame = SHUTDOWN
        self._sockets[socket] = 0
        status = {"api_version": "v2", "connection_id": id(socket), "system": "online", "version": "2.0.10"}
        socket.send(orjson.dumps({"channel": "status", "type": "update", "data": [status]}))

    def gone(self, socket: Socket) -> None:
        """Forget a connection."""
        self._sockets.pop(socket, None)
        self._users.gone(socket)
        for channel in list(self._wanted):
            self._leave(socket, channel)

    def sockets(self) -> set[Socket]:
        """Return every open connection."""
        return set(self._sockets)

    def command(self, socket: Socket, text: str) -> None:
        """Answer a request: subscribe, unsubscribe or ping."""
        began = iso_us(self._wall_ms())
        try:
            message = orjson.loads(text)
        except ValueError:
            message = None
        method = message.get("method") if isinstance(message, dict) else None
        if method == "ping":
            self._reply(socket, message, began, {"method": "pong"})
        elif method in ("subscribe", "unsubscribe") and isinstance(message.get("params"), dict):
            self._change(socket, message, began)
        else:
            given = message if isinstance(message, dict) else {}
            why = "Unsupported method" if method else "Malformed request"
            self._reply(socket, given, began, {"method": method or "", "success": False, "error": why})

    def _reply(self, socket: Socket, message: dict[str, Any], began: str, answer: dict[str, object]) -> None:
        number = {"req_id": message["req_id"]} if "req_id" in message else {}
        socket.send(orjson.dumps(answer | number | {"time_in": began, "time_out": iso_us(self._wall_ms())}))

    def _change(self, socket: Socket, message: dict[str, Any], began: str) -> None:
        """Answer once for each symbol, or once for a private channel; then send its snapshot."""
        method, params = message["method"], message["params"]
        is_private = params.get("channel") in CHANNELS
        if is_private != (socket.path == PRIVATE_PATH):
            why = _PRIVATE_ELSEWHERE if is_private else _PUBLIC_ELSEWHERE
            self._reply(socket, message, began, {"method": method, "success": False, "error": why})
            return
        if is_private:
            answer = self._users.change(socket, method, params)
            self._reply(socket, message, began, answer)
            if method == "subscribe" and isinstance(result := answer.get("result"), dict):
                self._users.send_snapshot(socket, result)
            return
        symbols = params.get("symbol")
        for symbol in symbols if isinstance(symbols, list) else [symbols]:
            channel, why = self._channel(params, symbol)
            is_there = channel is not None and socket in self._wanted.get(channel, ())
            if not why and is_there == (method == "subscribe"):
                why = "Already subscribed" if is_there else "Subscription Not Found"
            if why or channel is None:
                refused = {"method": method, "success": False, "error": why, "symbol": symbol}
                self._reply(socket, message, began, refused)
                continue
            result = {"channel": channel[0], "symbol": symbol, "snapshot": bool(params.get("snapshot", True))}
            if channel[0] in ("ohlc", "book"):
                result["interval" if channel[0] == "ohlc" else "depth"] = channel[2]
            elif channel[0] == "ticker":
                result["event_trigger"] = params.get("event_trigger", "trades")
            self._reply(socket, message, began, {"method": method, "success": True, "result": result})
            if method == "unsubscribe":
                self._leave(socket, channel)
            else:
                self._join(socket, channel, with_snapshot=result["snapshot"])

    def _channel(self, params: dict[str, Any], symbol: object) -> tuple[Channel | None, str]:
        """Return the channel that a request names, or why there is none."""
        name = params.get("channel")
        if not isinstance(symbol, str) or symbol not in self._pairs:
            return None, f"Currency pair not supported {symbol}"
        if name == "ohlc":
            interval = params.get("interval", 1)
            is_known = isinstance(interval, int) and interval in INTERVALS
            return ((name, symbol, interval), "") if is_known else (None, f"Interval not supported {interval}")
        if name == "book":
            depth = params.get("depth", 10)
            is_known = isinstance(depth, int) and depth in DEPTHS
            return ((name, symbol, depth), "") if is_known else (None, f"Depth not supported {depth}")
        if name in ("trade", "ticker"):
            return (name, symbol, 0), ""
        return None, f"Channel not supported {name}"

    def _join(self, socket: Socket, channel: Channel, *, with_snapshot: bool) -> None:
        name, symbol, detail = channel
        pair = self._pairs[symbol]
        self._wanted.setdefault(channel, set()).add(socket)
        if name == "ohlc" and channel not in self._bars:
            self._bars[channel] = LiveKline(pair.state, INTERVALS[detail])
        if name == "book":  # without its snapshot a book is of no use: Kraken sends one unless it is refused
            if channel not in self._books:
                self._books[channel] = book_levels(pair.state, detail)
            bids, asks = self._books[channel]
            if with_snapshot:
                self._to_one(socket, channel, "snapshot", [self._book_row(pair, (bids, asks), (bids, asks))])
        elif not with_snapshot:
            return
        elif name == "trade":
            market = pair.state.market
            newest = market.between(market.id_next - _SNAPSHOT_TRADES, market.id_next)
            self._to_one(socket, channel, "snapshot", [_trade(pair, trade) for trade in newest])
        elif name == "ohlc":
            self._to_one(socket, channel, "snapshot", [self._bar_row(pair, detail, self._bars[channel].bar)])
        else:
            self._to_one(socket, channel, "snapshot", [self._ticker_row(pair)])

    def _leave(self, socket: Socket, channel: Channel) -> None:
        sockets = self._wanted.get(channel, set())
        sockets.discard(socket)
        if not sockets:
            for kept in (self._wanted, self._bars, self._books):
                kept.pop(channel, None)

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    def trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None:
        """Publish trades as they happen, in one message, and the bars that they end."""
        pair = self._by_state[state.symbol]
        for channel, live in list(self._bars.items()):
            if channel[1] == pair.symbol:
                for trade in trades:
                    self._ended(channel, pair, live.add(trade))
        channel = ("trade", pair.symbol, 0)
        if channel in self._wanted and (sent := self._struck.sent(state.symbol, trades)[0]):
            self._publish(channel, [_trade(pair, trade) for trade in sent])

    def klines(self, state: SymbolState, now_ms: int, *, is_final: bool = False) -> None:
        """Publish bars that are over at `now_ms`, and open ones that changed, at most once a second."""
        pair = self._by_state[state.symbol]
        for channel, live in list(self._bars.items()):
            if channel[1] != pair.symbol:
                continue
            ended = live.roll(now_ms)
            self._ended(channel, pair, ended)
            if live.is_new and (ended or is_final or now_ms - live.published_ms >= _SECOND_MS):
                live.is_new, live.published_ms = False, now_ms
                self._publish(channel, [self._bar_row(pair, channel[2], live.bar)])

    def _ended(self, channel: Channel, pair: Pair, bars: list[Kline]) -> None:
        """Publish what bars came to; nothing but the next one says that a bar is over."""
        for bar in bars:
            self._publish(channel, [self._bar_row(pair, channel[2], bar)])
            self._bars[channel].is_new = True

    def tick(self, state: SymbolState, *, is_final: bool = False) -> None:
        """Publish everything that is due at the market's now, and each connection's heartbeat once a second."""
        pair, now_ms = self._by_state[state.symbol], state.market.now_ms
        self.klines(state, now_ms, is_final=is_final)
        for channel in [channel for channel in self._books if channel[1] == pair.symbol]:
            old = self._books[channel]
            new = self._books[channel] = book_levels(pair.state, channel[2])
            if old != new:
                self._publish(channel, [self._book_row(pair, new, book_changes(old, new))])
        channel = ("ticker", pair.symbol, 0)
        if channel in self._wanted and self._tops.get(pair.symbol) != (top := _top(pair)):
            self._tops[pair.symbol] = top
            self._publish(channel, [self._ticker_row(pair)])
        second = int(self._monotonic())
        for socket, last in list(self._sockets.items()):
            if last != second:
                self._sockets[socket] = second
                socket.send(b'{"channel":"heartbeat"}')

    def _publish(self, channel: Channel, rows: list[dict[str, object]]) -> None:
        sockets = self._wanted.get(channel, ())
        at = Target(path=PATH, symbol=self._pairs[channel[1]].state.symbol, event=channel[0])
        if sockets and self._faults.holds("freeze_stream", self._monotonic(), at) is None:
            frame = _frame(channel, "update", rows)
            for socket in sockets:
                socket.send(frame)

    def _to_one(self, socket: Socket, channel: Channel, kind: str, rows: list[dict[str, object]]) -> None:
        socket.send(_frame(channel, kind, rows))

    # ── rows ─────────────────────────────────────────────────────────────────────────────────────
    def _bar_row(self, pair: Pair, interval: int, bar: Kline) -> dict[str, object]:
        names = ("open", "high", "low", "close")
        prices = {name: pair.price(getattr(bar, name)) for name in names}
        return {
            "symbol": pair.symbol,
            **prices,
            "trades": bar.count,
            "volume": pair.lots(bar.volume),
            "vwap": orjson.Fragment(pair.average(bar.quote, bar.volume)),
            "interval_begin": iso_us(bar.start_ms),
            "interval": interval,
            "timestamp": iso_us(bar.end_ms),
        }

    def _book_row(self, pair: Pair, book: tuple[Levels, Levels], shown: tuple[Levels, Levels]) -> dict[str, object]:
        sides = [
            [{"price": pair.price(ticks), "qty": pair.lots(lots)} for ticks, lots in side.items()] for side in shown
        ]
        time = iso_us(pair.state.market.now_ms)
        return {
            "symbol": pair.symbol,
            "bids": sides[0],
            "asks": sides[1],
            "checksum": checksum(pair, *book),
            "timestamp": time,
        }

    def _ticker_row(self, pair: Pair) -> dict[str, object]:
        second = pair.state.market.now_ms // 1000
        if self._days.get(pair.symbol, (0, {}))[0] != second:
            day = day_ticker(pair.state)
            names = {"last": "c", "volume": "v", "vwap": "w", "low": "l", "high": "h", "change": "p", "change_pct": "P"}
            self._days[pair.symbol] = (second, {name: orjson.Fragment(str(day[key])) for name, key in names.items()})
        bid, bid_lots, ask, ask_lots = _top(pair)
        return {
            "symbol": pair.symbol,
            "bid": pair.price(bid),
            "bid_qty": pair.lots(bid_lots),
            "ask": pair.price(ask),
            "ask_qty": pair.lots(ask_lots),
            **self._days[pair.symbol][1],
            "timestamp": iso_us(pair.state.market.now_ms),
        }


def checksum(pair: Pair, bids: Levels, asks: Levels) -> int:
    """Return the CRC32 of the best ten levels, asks first: the digits of price and quantity without point and leading
    zeros."""
    texts = [
        text
        for side in (asks, bids)
        for ticks, lots in list(side.items())[:10]
        for text in (pair.price_text(ticks), pair.lots_text(lots))
    ]
    return crc32("".join(text.replace(".", "").lstrip("0") for text in texts).encode())


def _frame(channel: Channel, kind: str, rows: list[dict[str, object]]) -> bytes:
    return orjson.dumps({"channel": channel[0], "type": kind, "data": rows})


def _trade(pair: Pair, trade: AggregateTrade) -> dict[str, object]:
    return {
        "symbol": pair.symbol,
        "side": "sell" if trade.is_maker else "buy",
        "price": pair.price(trade.price),
        "qty": pair.lots(trade.lots),
        "ord_type": "market",
        "trade_id": trade.id,
        "timestamp": iso_us(trade.time_ms),
    }


def _top(pair: Pair) -> tuple[int, int, int, int]:
    bids, asks = book_levels(pair.state, 1)
    return (*next(iter(bids.items())), *next(iter(asks.items())))
