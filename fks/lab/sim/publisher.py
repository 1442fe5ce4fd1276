"""Market streams: subscriptions of each connection, and the events of each stream as the market moves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

import orjson

from fks.lab.sim.atoms import show
from fks.lab.sim.faults import Faults, Target
from fks.lab.sim.intervals import INTERVALS, end_of, start_of
from fks.lab.sim.klines import Kline
from fks.lab.sim.market import RAW_OFFSET
from fks.lab.sim.order_book import Depth
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.sockets import Socket
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.tickers import day_ticker, mini_ticker

_KLINE = re.compile(r"([a-z0-9]+)@kline_(\w+)")
_LEAPS_MAX = 600
_SECOND_MS = 1000


class MarketPublisher(Protocol):
    """Publishes what happens in the markets to the connections of one wire."""

    def trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None: ...
    def klines(self, state: SymbolState, now_ms: int, *, is_final: bool = False) -> None: ...
    def tick(self, state: SymbolState, *, is_final: bool = False) -> None: ...
    def sockets(self) -> set[Socket]: ...


class Publishers:
    """The publishers of all wires, as one."""

    def __init__(self, items: list[MarketPublisher]) -> None:
        self.items = items

    def trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None:
        """Publish trades on every wire."""
        for publisher in self.items:
            publisher.trades(state, trades)

    def klines(self, state: SymbolState, now_ms: int, *, is_final: bool = False) -> None:
        """Publish bars on every wire."""
        for publisher in self.items:
            publisher.klines(state, now_ms, is_final=is_final)

    def tick(self, state: SymbolState, *, is_final: bool = False) -> None:
        """Publish what is due on every wire."""
        for publisher in self.items:
            publisher.tick(state, is_final=is_final)

    def sockets(self) -> set[Socket]:
        """Return the connections of all wires."""
        return set().union(*(publisher.sockets() for publisher in self.items))


Levels = dict[int, int]  # ticks -> lots


class TradeFaults:
    """Trades of a wire as they go out: faults lose, repeat and swap some."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._held: dict[str, AggregateTrade] = {}

    def sent(self, symbol: str, trades: list[AggregateTrade]) -> tuple[list[AggregateTrade], int]:
        """Return the trades to send, and how many were lost."""
        at, sent, lost = Target(symbol=symbol), list[AggregateTrade](), 0
        for trade in trades:
            if self._faults.strike(("trade_gap",), at):
                lost += 1
                continue
            waiting = self._held.pop(symbol, None)
            if waiting is None and self._faults.strike(("reorder_trades",), at):
                self._held[symbol] = trade
                continue
            sent.append(trade)
            if self._faults.strike(("duplicate_trades",), at):
                sent.append(trade)
            if waiting is not None:
                sent.append(waiting)
        return sent, lost


def book_levels(state: SymbolState, depth: int) -> tuple[Levels, Levels]:
    """Return the best levels of both sides, best first."""
    bids, asks = (dict(state.book.levels(side, state.market.now_ms)[:depth]) for side in ("bid", "ask"))
    return bids, asks


def book_changes(old: tuple[Levels, Levels], new: tuple[Levels, Levels]) -> tuple[Levels, Levels]:
    """Return the levels that are new or changed, and with quantity zero those that are gone."""
    bids, asks = (
        {p: after.get(p, 0) for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        for before, after in zip(old, new, strict=True)
    )
    return bids, asks


class LiveKline:
    """The open bar of one (symbol, interval); it is published with x=true exactly once, when its time is over."""

    def __init__(self, state: SymbolState, interval: str) -> None:
        self._state = state
        self.interval = interval
        self.bar = state.klines.current(interval)
        self.published_ms = 0
        self.is_new = True

    def add(self, trade: AggregateTrade) -> list[Kline]:
        """Add a trade; return the bars that it ended."""
        ended = self.roll(trade.time_ms)
        self.bar.add(trade)
        self.is_new = True
        return ended

    def roll(self, now_ms: int) -> list[Kline]:
        """Return the bars whose time is over at `now_ms`, no-trade bars between included."""
        ended: list[Kline] = []
        while now_ms >= self.bar.end_ms:
            ended.append(self.bar)
            if len(ended) > _LEAPS_MAX:  # after a suspend, missed bars are history
                self.bar = self._state.klines.current(self.interval)
                break
            self.bar = self._next()
        return ended

    def _next(self) -> Kline:
        start, close, source = self.bar.end_ms, self.bar.close, self._state.market.source
        if source.row_end is not None and (INTERVALS[self.interval] or source.unit_ms) >= source.unit_ms:
            row = source.row_at(start - 1) + 1  # a tape has no bars where the record has none
            if row < source.row_end:
                start = start_of(int(source.rows(row, row + 1).time_ms[0]), self.interval)
        return Kline(start, end_of(start, self.interval), close, close, close, close)


class StreamPublisher:
    """Subscriptions and events. Times in events are market time."""

    def __init__(self, states: dict[str, SymbolState], faults: Faults, monotonic: Callable[[], float]) -> None:
        self._states = {symbol.lower(): state for symbol, state in states.items()}
        self._faults = faults
        self._monotonic = monotonic
        self._wanted: dict[str, set[Socket]] = {}
        self._klines: dict[str, dict[str, LiveKline]] = {symbol: {} for symbol in self._states}
        self._slow_ms: dict[str, int] = {}
        self._held: dict[str, dict[str, object]] = {}
        self._depth_slow: dict[str, Depth] = {}
        self._tops: dict[str, tuple[int, ...]] = {}

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, socket: Socket, streams: list[str]) -> None:
        """Subscribe a connection to streams; unknown ones never send anything, as on the real exchange."""
        for stream in streams:
            socket.streams.add(stream)
            self._wanted.setdefault(stream, set()).add(socket)
            found = _KLINE.fullmatch(stream.split("@+")[0])
            if found and found[1] in self._klines and found[2] in INTERVALS and found[2] not in self._klines[found[1]]:
                self._klines[found[1]][found[2]] = LiveKline(self._states[found[1]], found[2])

    def unsubscribe(self, socket: Socket, streams: list[str]) -> None:
        """Stop streams of a socket."""
        for stream in streams:
            socket.streams.discard(stream)
            sockets = self._wanted.get(stream)
            if sockets:
                sockets.discard(socket)
                if not sockets:
                    del self._wanted[stream]
                    found = _KLINE.fullmatch(stream)
                    if found and found[1] in self._klines:
                        self._klines[found[1]].pop(found[2], None)

    def follows_book(self, symbol: str) -> bool:
        """Return whether a connection follows a symbol's book, so that only `tick` may move it on."""
        prefix = f"{symbol.lower()}@"
        return any(s.startswith(prefix) and ("@depth" in s or s.endswith("@bookTicker")) for s in self._wanted)

    def sockets(self) -> set[Socket]:
        """Return every socket that has a stream."""
        return set().union(*self._wanted.values()) if self._wanted else set()

    def _publish(self, stream: str, data: object) -> None:
        sockets = self._wanted.get(stream)
        if not sockets:
            return
        symbol, _, kind = stream.partition("@")
        if self._faults.holds(
            "freeze_stream", self._monotonic(), Target(path="/ws", symbol=symbol.upper(), event=kind)
        ):
            return
        plain = orjson.dumps(data)
        wrapped = b'{"stream":"' + stream.encode() + b'","data":' + plain + b"}"
        for socket in sockets:
            socket.send(wrapped if socket.is_combined else plain)

    # -- what happens ------------------------------------------------------------------------------------------------

    def trades(self, state: SymbolState, trades: list[AggregateTrade]) -> None:
        """Publish trades as they happen: raw, aggregate, and in the klines."""
        name, market = state.symbol.lower(), state.market
        raw, aggregate = f"{name}@trade", f"{name}@aggTrade"
        wants_raw, wants_aggregate = raw in self._wanted, aggregate in self._wanted
        lives = list(self._klines[name].values())
        for trade in trades:
            for live in lives:
                for bar in live.add(trade):
                    self._publish_kline(state, live, bar, is_closed=True)
            if not (wants_raw or wants_aggregate) or self._is_lost(state.symbol):
                continue
            if wants_raw:
                self._publish(
                    raw,
                    {
                        "e": "trade",
                        "E": market.now_ms,
                        "s": state.symbol,
                        "t": trade.id + RAW_OFFSET,
                        "p": market.price(trade.price),
                        "q": market.quantity(trade.lots),
                        "T": trade.time_ms,
                        "m": trade.is_maker,
                        "M": True,
                    },
                )
            if wants_aggregate:
                self._publish_aggregate(
                    state, aggregate, {"e": "aggTrade", "E": market.now_ms, "s": state.symbol, **state.aggregate(trade)}
                )

    def _publish_aggregate(self, state: SymbolState, stream: str, event: dict[str, object]) -> None:
        """Publish a trade once and in order, unless a fault repeats, drops or swaps it."""
        at = Target(symbol=state.symbol)
        waiting = self._held.pop(stream, None)
        if waiting is None and self._faults.strike(("reorder_trades",), at):
            self._held[stream] = event
            return
        self._publish(stream, event)
        if self._faults.strike(("duplicate_trades",), at):
            self._publish(stream, event)
        if waiting is not None:
            self._publish(stream, waiting)

    def _is_lost(self, symbol: str) -> bool:
        return self._faults.strike(("trade_gap",), Target(symbol=symbol)) is not None

    def tick(self, state: SymbolState, *, is_final: bool = False) -> None:
        """Publish everything that is due at the market's now. `is_final`: open klines too, however recently
        published."""
        name, now = state.symbol.lower(), state.market.now_ms
        self.klines(state, now, is_final=is_final)
        is_slow = is_final or now - self._slow_ms.get(name, 0) >= _SECOND_MS
        if is_slow:
            self._slow_ms[name] = now
        self._books(state, name, is_slow=is_slow)
        if is_slow:
            self._tickers(state, name)

    def klines(self, state: SymbolState, now_ms: int, *, is_final: bool = False) -> None:
        """Publish bars that are over at `now_ms`, and open ones that changed, at most once a second."""
        for live in self._klines[state.symbol.lower()].values():
            for bar in live.roll(now_ms):
                self._publish_kline(state, live, bar, is_closed=True)
                live.is_new = True
            if live.is_new and (is_final or now_ms - live.published_ms >= _SECOND_MS):
                self._publish_kline(state, live, live.bar, is_closed=False)

    def _publish_kline(self, state: SymbolState, live: LiveKline, bar: Kline, *, is_closed: bool) -> None:
        live.is_new, live.published_ms = False, state.market.now_ms
        event = bar.event(
            state.market, live.interval, max(state.market.now_ms, bar.end_ms if is_closed else 0), is_closed=is_closed
        )
        self._publish(f"{state.symbol.lower()}@kline_{live.interval}", event)

    def _books(self, state: SymbolState, name: str, *, is_slow: bool) -> None:
        fast, slow, top = f"{name}@depth@100ms", f"{name}@depth", f"{name}@bookTicker"
        partial = [
            (n, tail)
            for n in (5, 10, 20)
            for tail in ("", "@1000ms", "@100ms")
            if f"{name}@depth{n}{tail}" in self._wanted
        ]
        if not partial and not any(s in self._wanted for s in (fast, slow, top, f"{slow}@1000ms")):
            self._depth_slow.pop(name, None)
            return
        now = state.market.now_ms
        old, new = state.book.refresh(now, state.own_limits())
        if old.update != new.update:
            self._publish(fast, _diff(state, old, new, now))
        if is_slow:
            before = self._depth_slow.get(name, old)
            if before.update != new.update:
                event = _diff(state, before, new, now)
                self._publish(slow, event)
                self._publish(f"{slow}@1000ms", event)
            self._depth_slow[name] = new
        for count, tail in partial:
            if is_slow or tail == "@100ms":
                self._publish(f"{name}@depth{count}{tail}", depth_rows(state, new, count))
        if top in self._wanted:
            self._say_top(state, name, new)

    def _say_top(self, state: SymbolState, name: str, depth: Depth) -> None:
        bid, ask = max(depth.bids), min(depth.asks)
        found = (bid, depth.bids[bid], ask, depth.asks[ask])
        if self._tops.get(name) == found:
            return
        self._tops[name] = found
        market = state.market
        self._publish(
            f"{name}@bookTicker",
            {
                "u": depth.update,
                "s": state.symbol,
                "b": market.price(bid),
                "B": market.quantity(found[1]),
                "a": market.price(ask),
                "A": market.quantity(found[3]),
            },
        )

    def _tickers(self, state: SymbolState, name: str) -> None:
        if f"{name}@avgPrice" in self._wanted:
            self._publish(
                f"{name}@avgPrice",
                {
                    "e": "avgPrice",
                    "E": state.market.now_ms,
                    "s": state.symbol,
                    "i": "5m",
                    "w": show(state.average_price()),
                    "T": state.market.last.time_ms,
                },
            )
        if any(s in self._wanted for s in (f"{name}@ticker", f"{name}@miniTicker", "!miniTicker@arr", "!ticker@arr")):
            full = day_ticker(state)
            self._publish(f"{name}@ticker", full)
            self._publish(f"{name}@miniTicker", mini_ticker(full))
            if state is next(reversed(self._states.values())):
                everything = [day_ticker(other) for other in self._states.values()]
                self._publish("!ticker@arr", everything)
                self._publish("!miniTicker@arr", [mini_ticker(one) for one in everything])


def depth_rows(state: SymbolState, depth: Depth, count: int) -> dict[str, object]:
    """Return a snapshot as REST and the partial streams show it."""
    market = state.market
    bids = sorted(depth.bids.items(), reverse=True)[:count]
    asks = sorted(depth.asks.items())[:count]
    return {
        "lastUpdateId": depth.update,
        "bids": [[market.price(ticks), market.quantity(lots)] for ticks, lots in bids],
        "asks": [[market.price(ticks), market.quantity(lots)] for ticks, lots in asks],
    }


def _diff(state: SymbolState, old: Depth, new: Depth, now_ms: int) -> dict[str, object]:
    market = state.market

    def rows(before: dict[int, int], after: dict[int, int]) -> list[list[str]]:
        changed = [(p, after.get(p, 0)) for p in after.keys() | before.keys() if after.get(p) != before.get(p)]
        return [[market.price(ticks), market.quantity(lots)] for ticks, lots in sorted(changed)]

    return {
        "e": "depthUpdate",
        "E": now_ms,
        "s": state.symbol,
        "U": old.update + 1,
        "u": new.update,
        "b": rows(old.bids, new.bids),
        "a": rows(old.asks, new.asks),
    }
