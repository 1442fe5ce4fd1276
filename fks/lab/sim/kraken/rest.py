"""Kraken's public REST: time, assets, pairs, tickers, bars and trades.

Refusals have status 200 and a text, as Kraken's have.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import orjson

from fks.lab.sim.atoms import show
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.intervals import start_of
from fks.lab.sim.klines import Kline
from fks.lab.sim.kraken.orders import KrakenError
from fks.lab.sim.kraken.pairs import Pair, asset_name, pair_of, short_name
from fks.lab.sim.params import Params

INTERVALS = {1: "1m", 5: "5m", 15: "15m", 30: "30m", 60: "1h", 240: "4h", 1440: "1d"}  # a week of Kraken's is another
BARS_MAX = 720
TRADES_MAX = 1000
WEIGHT = 100  # of 6000 a minute: a request a second
_MS = 1_000_000
_NS = 1_000_000_000
_DAY_MS = 86_400_000


def _answer(found: object) -> dict[str, object]:
    return {"error": [], "result": found}


def server_time(exchange: LocalExchange, _params: Params) -> object:
    """Return the server's time in seconds."""
    now_s = exchange.wall_ms() // 1000
    return _answer({"unixtime": now_s, "rfc1123": f"{datetime.fromtimestamp(now_s, UTC):%a, %d %b %y %H:%M:%S +0000}"})


def system_status(exchange: LocalExchange, _params: Params) -> object:
    """Return that it is online."""
    now_s = exchange.wall_ms() // 1000
    return _answer({"status": "online", "timestamp": f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%dT%H:%M:%SZ}"})


def asset_pairs(exchange: LocalExchange, params: Params) -> object:
    """Return the pairs that `pair` names, comma-separated; all without it."""
    pairs = [pair_of(state) for state in exchange.states.values()]
    named = params.maybe("pair")
    if named:
        pairs = [_pair(exchange, name) for name in named.split(",")]
    return _answer({pair.name: _info(pair) for pair in pairs})


def assets(exchange: LocalExchange, _params: Params) -> object:
    """Return every asset of every pair."""
    listings = [state.market.listing for state in exchange.states.values()]
    names = sorted({asset for listing in listings for asset in (listing.base, listing.quote)})
    row = {"aclass": "currency", "decimals": 8, "display_decimals": 5, "status": "enabled"}
    return _answer({asset_name(name): row | {"altname": short_name(name)} for name in names})


def _info(pair: Pair) -> dict[str, object]:
    listing = pair.listing
    return {
        "altname": pair.altname,
        "wsname": pair.wsname,
        "aclass_base": "currency",
        "base": pair.base,
        "aclass_quote": "currency",
        "quote": pair.quote,
        "lot": "unit",
        "cost_decimals": 8,
        "pair_decimals": pair.price_places,
        "lot_decimals": pair.lot_places,
        "lot_multiplier": 1,
        "fees": [],
        "fees_maker": [],
        "fee_volume_currency": "ZUSD",
        "ordermin": pair.lots_text(listing.lot_min // listing.step),
        "costmin": show(listing.notional_min),
        "tick_size": pair.price_text(1),
        "status": "online",
    }


def _pair(exchange: LocalExchange, name: str) -> Pair:
    for state in exchange.states.values():
        pair = pair_of(state)
        if name in (pair.name, pair.altname, pair.wsname, state.symbol):
            return pair
    raise KrakenError("EQuery:Unknown asset pair")


def _number(params: Params, name: str) -> int | None:
    text = params.maybe(name)
    if text and not text.removeprefix("-").isdigit():
        raise KrakenError(f"EGeneral:Invalid arguments:{name}")
    return int(text) if text else None


async def ohlc(exchange: LocalExchange, params: Params) -> object:
    """Return bars later than `since` (seconds) of the newest 720, the one that forms among them."""
    pair, since_s = _pair(exchange, params.text("pair")), _number(params, "since")
    interval = INTERVALS.get(_number(params, "interval") or 1)
    if interval is None:
        raise KrakenError("EGeneral:Invalid arguments")
    bars = await pair.state.klines.fetch(interval, None, None, BARS_MAX)
    closed_ms = max((bar.start_ms for bar in bars if bar.end_ms <= pair.state.market.now_ms), default=0)
    rows = [_bar(pair, bar) for bar in bars if since_s is None or bar.start_ms > since_s * 1000]
    return _answer({pair.name: rows, "last": closed_ms // 1000})


def _bar(pair: Pair, bar: Kline) -> list[object]:
    prices = [pair.price_text(ticks) for ticks in (bar.open, bar.high, bar.low, bar.close)]
    average = pair.average(bar.quote, bar.volume)
    return [bar.start_ms // 1000, *prices, average, pair.lots_text(bar.volume), bar.count]


def trades(exchange: LocalExchange, params: Params) -> object:
    """Return the first trades later than `since` (ns, or seconds), at most `count`; the newest without it."""
    pair, since = _pair(exchange, params.text("pair")), _number(params, "since")
    count = min(_number(params, "count") or TRADES_MAX, TRADES_MAX)
    market = pair.state.market
    if since is None:
        found = market.between(market.id_next - count, market.id_next)
    else:
        since_ns = since if since > _NS * 1000 else since * _NS
        first = market.id_at(since_ns // _MS + 1)
        found = market.between(first, first + count)
    last_ns = found[-1].time_ms * _MS if found else since or 0
    rows = [
        [
            pair.price_text(trade.price),
            pair.lots_text(trade.lots),
            orjson.Fragment(f"{trade.time_ms // 1000}.{trade.time_ms % 1000:03d}0000"),
            "s" if trade.is_maker else "b",
            "m",
            "",
            trade.id,
        ]
        for trade in found
    ]
    return _answer({pair.name: rows, "last": str(last_ns)})


def ticker(exchange: LocalExchange, params: Params) -> object:
    """Return the ticker of each pair that `pair` names, comma-separated; of all without it. Of two values the first is
    today's, from midnight UTC on, and the second that of the last 24 hours."""
    named = params.maybe("pair")
    pairs = [_pair(exchange, name) for name in named.split(",")] if named else map(pair_of, exchange.states.values())
    return _answer({pair.name: _ticker(pair) for pair in pairs})


def _ticker(pair: Pair) -> dict[str, object]:
    state, market = pair.state, pair.state.market
    now_ms = market.now_ms
    spans = [state.klines.span(begin_ms, now_ms) for begin_ms in (start_of(now_ms, "1d"), now_ms - _DAY_MS)]
    bid, ask = (state.book.levels(side, now_ms)[0] for side in ("bid", "ask"))
    return {
        "a": _level(pair, *ask),
        "b": _level(pair, *bid),
        "c": [pair.price_text(market.last.price), pair.lots_text(market.last.lots)],
        "v": [pair.lots_text(span.volume) for span in spans],
        "p": [pair.average(span.quote, span.volume) for span in spans],
        "t": [span.count for span in spans],
        "l": [pair.price_text(span.low) for span in spans],
        "h": [pair.price_text(span.high) for span in spans],
        "o": pair.price_text(spans[0].open),
    }


def _level(pair: Pair, ticks: int, lots: int) -> list[str]:
    """Return price, quantity in whole units of the base asset, and quantity."""
    quantity = pair.lots_text(lots)
    return [pair.price_text(ticks), quantity.partition(".")[0], quantity]


_handlers: dict[str, Callable[[LocalExchange, Params], object]] = {
    "Time": server_time,
    "SystemStatus": system_status,
    "Assets": assets,
    "AssetPairs": asset_pairs,
    "OHLC": ohlc,
    "Trades": trades,
    "Ticker": ticker,
}
REST = {("GET", f"/0/public/{name}"): Endpoint(handler, WEIGHT) for name, handler in _handlers.items()}
