"""The public endpoints: time, symbols, books, trades, klines, tickers. Each takes parameters and returns JSON."""

from __future__ import annotations

from fks.lab.sim.atoms import show
from fks.lab.sim.errors import ApiError, refusal
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.faults import Target
from fks.lab.sim.intervals import INTERVALS
from fks.lab.sim.market import RAW_OFFSET
from fks.lab.sim.params import Params
from fks.lab.sim.prints import AggregateTrade
from fks.lab.sim.publisher import depth_rows
from fks.lab.sim.symbol_state import SymbolState
from fks.lab.sim.tickers import rest_ticker

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


def ping(_exchange: LocalExchange, _params: Params) -> object:
    """Return {}."""
    return {}


def server_time(exchange: LocalExchange, _params: Params) -> object:
    """Return the server's (wall) time."""
    return {"serverTime": exchange.wall_ms()}


def nothing(_exchange: LocalExchange, _params: Params) -> object:
    """Return []: products this exchange does not have."""
    return []


def no_symbols(exchange: LocalExchange, _params: Params) -> object:
    """Return an exchangeInfo without symbols: the derivatives this exchange does not have."""
    return {
        "timezone": "UTC",
        "serverTime": exchange.wall_ms(),
        "rateLimits": [],
        "exchangeFilters": [],
        "assets": [],
        "symbols": [],
    }


def exchange_info(exchange: LocalExchange, params: Params) -> object:
    """Return the symbols wanted, or all."""
    states = _wanted(exchange, params)
    permissions = params.maybe("permissions")
    if permissions and "SPOT" not in permissions:
        states = []
    status = params.maybe("symbolStatus")
    rows = [state.market.listing.info(status=_status(exchange, state)) for state in states]
    return {
        "timezone": "UTC",
        "serverTime": exchange.wall_ms(),
        "rateLimits": exchange.limits.rules,
        "exchangeFilters": [],
        "symbols": [row for row in rows if not status or row["status"] == status],
    }


def _status(exchange: LocalExchange, state: SymbolState) -> str:
    halted = exchange.faults.holds("halt", exchange.clock.monotonic(), Target(symbol=state.symbol))
    return "BREAK" if halted else state.market.listing.status


def execution_rules(exchange: LocalExchange, params: Params) -> object:
    """Return the price range rules of the symbols wanted, or of all that have one."""
    if len([name for name in ("symbol", "symbols", "symbolStatus") if name in params]) > 1:
        raise refusal("bad_combination")
    status = params.maybe("symbolStatus")
    states = [state for state in _wanted(exchange, params) if not status or _status(exchange, state) == status]
    found = [(state.symbol, state.market.listing.price_range()) for state in states]
    rules = [
        {"symbol": symbol, "rules": [{"ruleType": "PRICE_RANGE", **{name: show(x) for name, x in limits.items()}}]}
        for symbol, limits in found
        if limits
    ]
    return {"symbolRules": rules}


def reference_price(exchange: LocalExchange, params: Params) -> object:
    """Return the price that the price range rule compares with. Errors: −2043 without a rule."""
    state = exchange.current_state(params.text("symbol"), is_new=False)
    listing = state.market.listing
    if not (listing.reference_price or listing.price_range()):
        raise refusal("no_reference")
    price = listing.reference_price or state.average_price()
    return {"symbol": state.symbol, "referencePrice": show(price), "timestamp": exchange.wall_ms()}


def _wanted(exchange: LocalExchange, params: Params) -> list[SymbolState]:
    """Return the states of the symbols that `symbol` or `symbols` name; all without either. Errors: −1121, −1128."""
    symbol, symbols = params.maybe("symbol"), params.names("symbols")
    if symbol and symbols:
        raise refusal("bad_combination")
    if symbol or symbols:
        return [exchange.state(name) for name in symbols or [symbol]]
    return list(exchange.states.values())


def _one_or_all(exchange: LocalExchange, params: Params, rows: list[dict[str, object]]) -> object:
    return rows[0] if params.maybe("symbol") else rows


def _state(exchange: LocalExchange, params: Params) -> SymbolState:
    return exchange.state(params.text("symbol"))


def depth(exchange: LocalExchange, params: Params) -> object:
    """Return the book; its number fits the diff stream."""
    state = _state(exchange, params)
    limit = params.limit(100, 5000)
    if not exchange.publisher.follows_book(state.symbol) or not state.book.depth.bids:
        state.book.refresh(state.market.now_ms, state.own_limits())
    return depth_rows(state, state.book.depth, limit)


def depth_weight(params: Params) -> int:
    """Return the weight of a depth request by its limit."""
    limit = params.limit(100, 5000)
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250


def _raw(state: SymbolState, trade: AggregateTrade) -> dict[str, object]:
    row = state.aggregate(trade)
    quote = trade.price * trade.lots * state.market.listing.quote_factor
    return {
        "id": row["f"],
        "price": row["p"],
        "qty": row["q"],
        "quoteQty": show(quote),
        "time": trade.time_ms,
        "isBuyerMaker": trade.is_maker,
        "isBestMatch": True,
    }


def trades(exchange: LocalExchange, params: Params) -> object:
    """Return the last raw trades."""
    state = _state(exchange, params)
    market = state.market
    return [_raw(state, t) for t in market.between(market.id_next - params.limit(500, 1000), market.id_next)]


def historical_trades(exchange: LocalExchange, params: Params) -> object:
    """Return raw trades from an id on."""
    from_id = params.number("fromId")
    if from_id is None:
        return trades(exchange, params)
    state = _state(exchange, params)
    start = max(from_id - RAW_OFFSET, state.market.id_first)
    return [_raw(state, t) for t in state.market.between(start, start + params.limit(500, 1000))]


def aggregate_trades(exchange: LocalExchange, params: Params) -> object:
    """Return aggregate trades, ascending: from an id, from a time, or the last ones."""
    state = _state(exchange, params)
    market, limit = state.market, params.limit(500, 1000)
    from_id, start, end = params.number("fromId"), params.number("startTime"), params.number("endTime")
    if from_id is not None:
        if start is not None or end is not None:
            raise refusal("bad_combination")
        first = max(from_id, market.id_first)
        return [state.aggregate(t) for t in market.between(first, first + limit)]
    _check_window(start, end)
    stop = market.id_next if end is None else market.id_at(end + 1)
    first = stop - limit if start is None else market.id_at(start)
    return [state.aggregate(t) for t in market.between(first, min(stop, first + limit))]


def _check_window(start: int | None, end: int | None) -> None:
    if start is not None and end is not None and start > end:
        raise ApiError(-1100, "Illegal parameter combination: startTime must be before endTime.")


async def klines(exchange: LocalExchange, params: Params) -> object:
    """Return klines, ascending; the last may be unfinished."""
    state = _state(exchange, params)
    interval = params.text("interval")
    if interval not in INTERVALS:
        raise refusal("bad_interval")
    start, end = params.number("startTime"), params.number("endTime")
    found = await state.klines.fetch(interval, start, end, params.limit(500, 1000))
    return [bar.wire(state.market) for bar in found]


def average_price(exchange: LocalExchange, params: Params) -> object:
    """Return the five minutes' average price."""
    state = _state(exchange, params)
    return {"mins": 5, "price": show(state.average_price()), "closeTime": state.market.last.time_ms}


def ticker_24h(exchange: LocalExchange, params: Params) -> object:
    """Return rolling day statistics."""
    rows = [rest_ticker(state) for state in _wanted(exchange, params)]
    if params.maybe("type") == "MINI":
        rows = [{name: row[name] for name in _MINI} for row in rows]
    return _one_or_all(exchange, params, rows)


def ticker_price(exchange: LocalExchange, params: Params) -> object:
    """Return last prices."""
    rows: list[dict[str, object]] = [
        {"symbol": state.symbol, "price": show(state.market.last_price)} for state in _wanted(exchange, params)
    ]
    return _one_or_all(exchange, params, rows)


def ticker_book(exchange: LocalExchange, params: Params) -> object:
    """Return best bids and asks."""
    rows: list[dict[str, object]] = []
    for state in _wanted(exchange, params):
        if not exchange.publisher.follows_book(state.symbol) or not state.book.depth.bids:
            state.book.refresh(state.market.now_ms, state.own_limits())
        top = depth_rows(state, state.book.depth, 1)
        bid, ask = top["bids"][0], top["asks"][0]  # type: ignore[index]
        rows.append(
            {"symbol": state.symbol, "bidPrice": bid[0], "bidQty": bid[1], "askPrice": ask[0], "askQty": ask[1]}
        )
    return _one_or_all(exchange, params, rows)
