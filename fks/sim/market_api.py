"""The public endpoints: time, symbols, books, trades, klines, tickers. Each takes parameters and returns JSON."""

from __future__ import annotations

from fks.sim.atoms import show
from fks.sim.desk import Desk
from fks.sim.errors import ApiError, refusal
from fks.sim.exchange import Exchange
from fks.sim.faults import Target
from fks.sim.intervals import INTERVALS
from fks.sim.market import RAW_OFFSET
from fks.sim.params import Params
from fks.sim.prints import Trade
from fks.sim.publisher import depth_rows
from fks.sim.tickers import rest_ticker

_HOUR_MS = 3_600_000
_MINI = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)


def ping(_exchange: Exchange, _params: Params) -> object:
    """Return {}."""
    return {}


def server_time(exchange: Exchange, _params: Params) -> object:
    """Return the server's (wall) time."""
    return {"serverTime": exchange.wall_ms()}


def nothing(_exchange: Exchange, _params: Params) -> object:
    """Return []: products this exchange does not have."""
    return []


def no_symbols(exchange: Exchange, _params: Params) -> object:
    """Return an exchangeInfo without symbols: the derivatives this exchange does not have."""
    return {
        "timezone": "UTC",
        "serverTime": exchange.wall_ms(),
        "rateLimits": [],
        "exchangeFilters": [],
        "assets": [],
        "symbols": [],
    }


def exchange_info(exchange: Exchange, params: Params) -> object:
    """Return the symbols wanted, or all."""
    desks = _wanted(exchange, params)
    permissions = params.maybe("permissions")
    if permissions and "SPOT" not in permissions:
        desks = []
    status = params.maybe("symbolStatus")
    rows = [desk.market.listing.info(status=_status(exchange, desk)) for desk in desks]
    return {
        "timezone": "UTC",
        "serverTime": exchange.wall_ms(),
        "rateLimits": exchange.limits.rules,
        "exchangeFilters": [],
        "symbols": [row for row in rows if not status or row["status"] == status],
    }


def _status(exchange: Exchange, desk: Desk) -> str:
    halted = exchange.faults.holds("halt", exchange.clock.monotonic(), Target(symbol=desk.symbol))
    return "BREAK" if halted else "TRADING"


def _wanted(exchange: Exchange, params: Params) -> list[Desk]:
    """Return the desks that `symbol` or `symbols` name; all without either. Errors: −1121, −1128."""
    symbol, symbols = params.maybe("symbol"), params.names("symbols")
    if symbol and symbols:
        raise refusal("bad_combination")
    if symbol or symbols:
        return [exchange.desk(name) for name in symbols or [symbol]]
    return list(exchange.desks.values())


def _one_or_all(exchange: Exchange, params: Params, rows: list[dict[str, object]]) -> object:
    return rows[0] if params.maybe("symbol") else rows


def _desk(exchange: Exchange, params: Params) -> Desk:
    return exchange.desk(params.text("symbol"))


def depth(exchange: Exchange, params: Params) -> object:
    """Return the book; its number fits the diff stream."""
    desk = _desk(exchange, params)
    limit = params.limit(100, 5000)
    if not exchange.publisher.follows_book(desk.symbol) or not desk.book.depth.bids:
        desk.book.refresh(desk.market.now_ms, desk.own_limits())
    return depth_rows(desk, desk.book.depth, limit)


def depth_weight(params: Params) -> int:
    """Return the weight of a depth request by its limit."""
    limit = params.limit(100, 5000)
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _raw(desk: Desk, trade: Trade) -> dict[str, object]:
    row = desk.aggregate(trade)
    quote = trade.price * trade.lots * desk.market.listing.quote_factor
    return {
        "id": row["f"],
        "price": row["p"],
        "qty": row["q"],
        "quoteQty": show(quote),
        "time": trade.time_ms,
        "isBuyerMaker": trade.is_maker,
        "isBestMatch": True,
    }


def trades(exchange: Exchange, params: Params) -> object:
    """Return the last raw trades."""
    desk = _desk(exchange, params)
    market = desk.market
    return [_raw(desk, t) for t in market.between(market.id_next - params.limit(500, 1000), market.id_next)]


def historical_trades(exchange: Exchange, params: Params) -> object:
    """Return raw trades from an id on."""
    from_id = params.number("fromId")
    if from_id is None:
        return trades(exchange, params)
    desk = _desk(exchange, params)
    start = max(from_id - RAW_OFFSET, desk.market.id_first)
    return [_raw(desk, t) for t in desk.market.between(start, start + params.limit(500, 1000))]


def aggregate_trades(exchange: Exchange, params: Params) -> object:
    """Return aggregate trades, ascending: from an id, from a time, or the last ones."""
    desk = _desk(exchange, params)
    market, limit = desk.market, params.limit(500, 1000)
    from_id, start, end = params.number("fromId"), params.number("startTime"), params.number("endTime")
    if from_id is not None:
        if start is not None or end is not None:
            raise refusal("bad_combination")
        first = max(from_id, market.id_first)
        return [desk.aggregate(t) for t in market.between(first, first + limit)]
    _check_window(start, end)
    stop = market.id_next if end is None else market.id_at(end + 1)
    first = stop - limit if start is None else market.id_at(start)
    return [desk.aggregate(t) for t in market.between(first, min(stop, first + limit))]


def _check_window(start: int | None, end: int | None) -> None:
    if start is not None and end is not None and start > end:
        raise ApiError(-1100, "Illegal parameter combination: startTime must be before endTime.")


async def klines(exchange: Exchange, params: Params) -> object:
    """Return klines, ascending; the last may be unfinished."""
    desk = _desk(exchange, params)
    interval = params.text("interval")
    if interval not in INTERVALS:
        raise refusal("bad_interval")
    start, end = params.number("startTime"), params.number("endTime")
    found = await desk.klines.fetch(interval, start, end, params.limit(500, 1000))
    return [bar.wire(desk.market) for bar in found]


def average_price(exchange: Exchange, params: Params) -> object:
    """Return the five minutes' average price."""
    desk = _desk(exchange, params)
    return {"mins": 5, "price": show(desk.average_price()), "closeTime": desk.market.last.time_ms}


def ticker_24h(exchange: Exchange, params: Params) -> object:
    """Return rolling day statistics."""
    rows = [rest_ticker(desk) for desk in _wanted(exchange, params)]
    if params.maybe("type") == "MINI":
        rows = [{name: row[name] for name in _MINI} for row in rows]
    return _one_or_all(exchange, params, rows)


def ticker_price(exchange: Exchange, params: Params) -> object:
    """Return last prices."""
    rows: list[dict[str, object]] = [
        {"symbol": desk.symbol, "price": show(desk.market.last_price)} for desk in _wanted(exchange, params)
    ]
    return _one_or_all(exchange, params, rows)


def ticker_book(exchange: Exchange, params: Params) -> object:
    """Return best bids and asks."""
    rows: list[dict[str, object]] = []
    for desk in _wanted(exchange, params):
        if not exchange.publisher.follows_book(desk.symbol) or not desk.book.depth.bids:
            desk.book.refresh(desk.market.now_ms, desk.own_limits())
        top = depth_rows(desk, desk.book.depth, 1)
        bid, ask = top["bids"][0], top["asks"][0]  # type: ignore[index]
        rows.append({"symbol": desk.symbol, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1]})
    return _one_or_all(exchange, params, rows)
