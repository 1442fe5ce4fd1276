"""The market streams: which sockets want which, and what each stream says as the market goes on."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from fks.sim.atoms import show
from fks.sim.book import Depth
from fks.sim.desk import Desk
from fks.sim.faults import Faults, Target
from fks.sim.intervals import INTERVALS, end_of, start_of
from fks.sim.klines import Kline
from fks.sim.market import RAW_OFFSET
from fks.sim.prints import Trade
from fks.sim.sockets import Socket
from fks.sim.tickers import day_ticker, mini_ticker

_KLINE = re.compile(r"([a-z0-9]+)@kline_(\w+)")
_LEAPS_MAX = 600
_SECOND_MS = 1000


class LiveKline:
    """The open bar of one (symbol, interval): it says x=true exactly once, when its time is over."""

    def __init__(self, desk: Desk, interval: str) -> None:
        self._desk = desk
        self.interval = interval
        self.bar = desk.klines.current(interval)
        self.said_ms = 0
        self.is_new = True

    def add(self, trade: Trade) -> list[Kline]:
        """Count a trade in; return the bars that it ended."""
        ended = self.roll(trade.time_ms)
        self.bar.add(trade)
        self.is_new = True
        return ended

    def roll(self, now_ms: int) -> list[Kline]:
        """Return the bars whose time is over at `now_ms`, silent ones between included."""
        ended: list[Kline] = []
        while now_ms >= self.bar.end_ms:
            ended.append(self.bar)
            if len(ended) > _LEAPS_MAX:  # the machine slept: what was missed is history
                self.bar = self._desk.klines.current(self.interval)
                break
            self.bar = self._next()
        return ended

    def _next(self) -> Kline:
        start, close, source = self.bar.end_ms, self.bar.close, self._desk.market.source
        if source.row_end is not None and (INTERVALS[self.interval] or source.unit_ms) >= source.unit_ms:
            row = source.row_at(start - 1) + 1  # a tape has no bars where the record has none
            if row < source.row_end:
                start = start_of(int(source.rows(row, row + 1).time_ms[0]), self.interval)
        return Kline(start, end_of(start, self.interval), close, close, close, close)


class Publisher:
    """Subscriptions and events. `own` tells a symbol's open orders to the book. Times in events are market time."""

    def __init__(self, desks: dict[str, Desk], faults: Faults, monotonic: Callable[[], float]) -> None:
        self._desks = {symbol.lower(): desk for symbol, desk in desks.items()}
        self._faults = faults
        self._monotonic = monotonic
        self._wanted: dict[str, set[Socket]] = {}
        self._klines: dict[str, dict[str, LiveKline]] = {symbol: {} for symbol in self._desks}
        self._slow_ms: dict[str, int] = {}
        self._held: dict[str, dict[str, object]] = {}
        self._depth_slow: dict[str, Depth] = {}
        self._tops: dict[str, tuple[int, ...]] = {}

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, socket: Socket, streams: list[str]) -> None:
        """Let a socket have streams; unknown ones stay silent, as on the real exchange."""
        for stream in streams:
            socket.streams.add(stream)
            self._wanted.setdefault(stream, set()).add(socket)
            found = _KLINE.fullmatch(stream.split("@+")[0])
            if found and found[1] in self._klines and found[2] in INTERVALS and found[2] not in self._klines[found[1]]:
                self._klines[found[1]][found[2]] = LiveKline(self._desks[found[1]], found[2])

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
        """Return whether someone follows a symbol's book, so that only `tick` may move it on."""
        prefix = f"{symbol.lower()}@"
        return any(s.startswith(prefix) and ("@depth" in s or s.endswith("@bookTicker")) for s in self._wanted)

    def sockets(self) -> set[Socket]:
        """Return every socket that has a stream."""
        return set().union(*self._wanted.values()) if self._wanted else set()

    def _say(self, stream: str, data: object) -> None:
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

    def trades(self, desk: Desk, trades: list[Trade]) -> None:
        """Publish trades as they happen: raw, aggregate, and in the klines."""
        name, market = desk.symbol.lower(), desk.market
        raw, aggregate = f"{name}@trade", f"{name}@aggTrade"
        wants_raw, wants_aggregate = raw in self._wanted, aggregate in self._wanted
        lives = list(self._klines[name].values())
        for trade in trades:
            for live in lives:
                for bar in live.add(trade):
                    self._say_kline(desk, live, bar, is_closed=True)
            if not (wants_raw or wants_aggregate) or self._is_lost(desk.symbol):
                continue
            if wants_raw:
                self._say(
                    raw,
                    {
                        "e": "trade",
                        "E": market.now_ms,
                        "s": desk.symbol,
                        "t": trade.id + RAW_OFFSET,
                        "p": market.price(trade.price),
                        "q": market.quantity(trade.lots),
                        "T": trade.time_ms,
                        "m": trade.is_maker,
                        "M": True,
                    },
                )
            if wants_aggregate:
                self._say_aggregate(
                    desk, aggregate, {"e": "aggTrade", "E": market.now_ms, "s": desk.symbol, **desk.aggregate(trade)}
                )

    def _say_aggregate(self, desk: Desk, stream: str, event: dict[str, object]) -> None:
        """Say a trade, once and in its turn unless a fault wants otherwise."""
        at = Target(symbol=desk.symbol)
        waiting = self._held.pop(stream, None)
        if waiting is None and self._faults.strike(("reorder_trades",), at):
            self._held[stream] = event
            return
        self._say(stream, event)
        if self._faults.strike(("duplicate_trades",), at):
            self._say(stream, event)
        if waiting is not None:
            self._say(stream, waiting)

    def _is_lost(self, symbol: str) -> bool:
        return self._faults.strike(("trade_gap",), Target(symbol=symbol)) is not None

    def tick(self, desk: Desk, *, is_final: bool = False) -> None:
        """Publish everything that is due at the market's now. `is_final`: open klines too, however recently said."""
        name, now = desk.symbol.lower(), desk.market.now_ms
        self.klines(desk, now, is_final=is_final)
        is_slow = is_final or now - self._slow_ms.get(name, 0) >= _SECOND_MS
        if is_slow:
            self._slow_ms[name] = now
        self._books(desk, name, is_slow=is_slow)
        if is_slow:
            self._tickers(desk, name)

    def klines(self, desk: Desk, now_ms: int, *, is_final: bool = False) -> None:
        """Publish bars that are over at `now_ms`, and open ones that changed, at most once a second."""
        for live in self._klines[desk.symbol.lower()].values():
            for bar in live.roll(now_ms):
                self._say_kline(desk, live, bar, is_closed=True)
                live.is_new = True
            if live.is_new and (is_final or now_ms - live.said_ms >= _SECOND_MS):
                self._say_kline(desk, live, live.bar, is_closed=False)

    def _say_kline(self, desk: Desk, live: LiveKline, bar: Kline, *, is_closed: bool) -> None:
        live.is_new, live.said_ms = False, desk.market.now_ms
        event = bar.event(
            desk.market, live.interval, max(desk.market.now_ms, bar.end_ms if is_closed else 0), is_closed=is_closed
        )
        self._say(f"{desk.symbol.lower()}@kline_{live.interval}", event)

    def _books(self, desk: Desk, name: str, *, is_slow: bool) -> None:
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
        now = desk.market.now_ms
        old, new = desk.book.refresh(now, desk.own_limits())
        if old.update != new.update:
            self._say(fast, _diff(desk, old, new, now))
        if is_slow:
            before = self._depth_slow.get(name, old)
            if before.update != new.update:
                event = _diff(desk, before, new, now)
                self._say(slow, event)
                self._say(f"{slow}@1000ms", event)
            self._depth_slow[name] = new
        for count, tail in partial:
            if is_slow or tail == "@100ms":
                self._say(f"{name}@depth{count}{tail}", depth_rows(desk, new, count))
        if top in self._wanted:
            self._say_top(desk, name, new)

    def _say_top(self, desk: Desk, name: str, depth: Depth) -> None:
        bid, ask = max(depth.bids), min(depth.asks)
        found = (bid, depth.bids[bid], ask, depth.asks[ask])
        if self._tops.get(name) == found:
            return
        self._tops[name] = found
        market = desk.market
        self._say(
            f"{name}@bookTicker",
            {
                "u": depth.update,
                "s": desk.symbol,
                "b": market.price(bid),
                "B": market.quantity(found[1]),
                "a": market.price(ask),
                "A": market.quantity(found[3]),
            },
        )

    def _tickers(self, desk: Desk, name: str) -> None:
        if f"{name}@avgPrice" in self._wanted:
            self._say(
                f"{name}@avgPrice",
                {
                    "e": "avgPrice",
                    "E": desk.market.now_ms,
                    "s": desk.symbol,
                    "i": "5m",
                    "w": show(desk.average_price()),
                    "T": desk.market.last.time_ms,
                },
            )
        if any(s in self._wanted for s in (f"{name}@ticker", f"{name}@miniTicker", "!miniTicker@arr", "!ticker@arr")):
            full = day_ticker(desk)
            self._say(f"{name}@ticker", full)
            self._say(f"{name}@miniTicker", mini_ticker(full))
            if desk is next(reversed(self._desks.values())):
                everything = [day_ticker(other) for other in self._desks.values()]
                self._say("!ticker@arr", everything)
                self._say("!miniTicker@arr", [mini_ticker(one) for one in everything])


def depth_rows(desk: Desk, depth: Depth, count: int) -> dict[str, object]:
    """Return a snapshot as REST and the partial streams show it."""
    market = desk.market
    bids = sorted(depth.bids.items(), reverse=True)[:count]
    asks = sorted(depth.asks.items())[:count]
    return {
        "lastUpdateId": depth.update,
        "bids": [[market.price(ticks), market.quantity(lots)] for ticks, lots in bids],
        "asks": [[market.price(ticks), market.quantity(lots)] for ticks, lots in asks],
    }


def _diff(desk: Desk, old: Depth, new: Depth, now_ms: int) -> dict[str, object]:
    market = desk.market

    def rows(before: dict[int, int], after: dict[int, int]) -> list[list[str]]:
        changed = [(p, after.get(p, 0)) for p in after.keys() | before.keys() if after.get(p) != before.get(p)]
        return [[market.price(ticks), market.quantity(lots)] for ticks, lots in sorted(changed)]

    return {
        "e": "depthUpdate",
        "E": now_ms,
        "s": desk.symbol,
        "U": old.update + 1,
        "u": new.update,
        "b": rows(old.bids, new.bids),
        "a": rows(old.asks, new.asks),
    }
