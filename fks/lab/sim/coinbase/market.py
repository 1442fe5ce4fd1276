"""Coinbase's public REST: time, products, tickers, books and candles, and the lists of currencies that ccxt loads."""

from __future__ import annotations

from collections.abc import Callable

from fks.lab.sim.coinbase.orders import CoinbaseError, Product, iso, plain, product_of
from fks.lab.sim.endpoints import Endpoint
from fks.lab.sim.exchange import LocalExchange
from fks.lab.sim.params import Params
from fks.lab.sim.prints import AggregateTrade

PUBLIC, PRIVATE = "/api/v3/brokerage/market/", "/api/v3/brokerage/"
GRANULARITIES = {
    "ONE_MINUTE": "1m",
    "FIVE_MINUTE": "5m",
    "FIFTEEN_MINUTE": "15m",
    "THIRTY_MINUTE": "30m",
    "ONE_HOUR": "1h",
    "TWO_HOUR": "2h",
    "SIX_HOUR": "6h",
    "ONE_DAY": "1d",
}
CANDLES_MAX, TRADES_MAX = 350, 1000
WEIGHT = 10  # of 6000 a minute: ten requests a second
_TIME_MAX_S = 1 << 40


def server_time(exchange: LocalExchange, _params: Params) -> object:
    """Return the server's time."""
    now_ms = exchange.wall_ms()
    return {"iso": iso(now_ms), "epochSeconds": str(now_ms // 1000), "epochMillis": str(now_ms)}


def product_named(exchange: LocalExchange, name: str) -> Product:
    """Return a product by Coinbase's id. Errors: CoinbaseError NOT_FOUND."""
    for state in exchange.states.values():
        product = product_of(state)
        if product.id == name:
            return product
    raise CoinbaseError("NOT_FOUND", f"valid product_id is required: {name}", status=404)


def products(exchange: LocalExchange, params: Params) -> object:
    """Return all spot products; none of another type."""
    is_spot = params.maybe("product_type") in ("", "SPOT")
    found = [_row(product_of(state)) for state in exchange.states.values()] if is_spot else []
    return {"products": found, "num_products": len(found)}


def product(exchange: LocalExchange, params: Params) -> object:
    """Return one product."""
    return _row(product_named(exchange, params.text("product_id")))


def _row(product: Product) -> dict[str, object]:
    listing = product.listing  # the day's figures, which cost a moment, are left out
    is_closed = listing.status == "CANCEL_ONLY"
    return {
        "product_id": product.id,
        "price": product.price(product.state.market.last.price),
        "base_increment": plain(listing.step),
        "quote_increment": plain(listing.tick),
        "price_increment": plain(listing.tick),
        "quote_min_size": plain(listing.notional_min),
        "quote_max_size": plain(listing.notional_max),
        "base_min_size": plain(listing.lot_min),
        "base_max_size": plain(listing.qty_max),
        "base_name": listing.base,
        "quote_name": listing.quote,
        "watched": False,
        "is_disabled": False,
        "new": False,
        "status": "online",
        "cancel_only": is_closed,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": is_closed,
        "auction_mode": False,
        "product_type": "SPOT",
        "base_currency_id": listing.base,
        "quote_currency_id": listing.quote,
        "fcm_trading_session_details": None,
        "mid_market_price": "",
        "alias": "",
        "alias_to": [],
        "base_display_symbol": listing.base,
        "quote_display_symbol": listing.quote,
        "view_only": False,
        "display_name": product.id,
    }


def trade_row(product: Product, trade: AggregateTrade) -> dict[str, object]:
    """Return a public trade. `side` is the maker's."""
    return {
        "trade_id": str(trade.id),
        "product_id": product.id,
        "price": product.price(trade.price),
        "size": product.size(trade.lots),
        "time": iso(trade.time_ms),
        "side": "BUY" if trade.is_maker else "SELL",
    }


def ticker(exchange: LocalExchange, params: Params) -> object:
    """Return trades, newest first, with the best prices: the newest, of those from `start` to `end` (seconds) if they
    are named."""
    found = product_named(exchange, params.text("product_id"))
    market = found.state.market
    count = min(params.number("limit") or 100, TRADES_MAX)
    start, end = (min(params.number(name) or 0, _TIME_MAX_S) for name in ("start", "end"))
    stop = market.id_at((end + 1) * 1000) if end else market.id_next
    first = max(stop - count, market.id_at(start * 1000) if start else 0)
    bid, ask = found.state.book.best()
    trades = [trade_row(found, trade) | {"bid": "", "ask": ""} for trade in market.between(first, stop)[::-1]]
    return {"trades": trades, "best_bid": found.price(bid), "best_ask": found.price(ask)}


def product_book(exchange: LocalExchange, params: Params) -> object:
    """Return the book of a product, `limit` levels a side."""
    found = product_named(exchange, params.text("product_id"))
    now_ms, depth = found.state.market.now_ms, params.number("limit")
    sides = {
        f"{side}s": [
            {"price": found.price(ticks), "size": found.size(lots)}
            for ticks, lots in found.state.book.levels(side, now_ms)[:depth]
        ]
        for side in ("bid", "ask")
    }
    return {"pricebook": {"product_id": found.id, **sides, "time": iso(now_ms)}}


async def candles(exchange: LocalExchange, params: Params) -> object:
    """Return the bars that open from `start` to `end` (seconds), newest first, at most 350; those without a trade are
    missing."""
    found = product_named(exchange, params.text("product_id"))
    interval = GRANULARITIES.get(params.text("granularity"))
    start, end = (min(params.number(name) or 0, _TIME_MAX_S) for name in ("start", "end"))
    if interval is None or not start or not end or start > end:
        raise CoinbaseError("INVALID_ARGUMENT", "start, end and granularity are required")
    bars = await found.state.klines.fetch(interval, start * 1000, end * 1000, CANDLES_MAX + 1)
    if len(bars) > CANDLES_MAX:
        raise CoinbaseError("INVALID_ARGUMENT", f"number of candles requested should be less than {CANDLES_MAX}")
    rows = [
        {
            "start": str(bar.start_ms // 1000),
            "low": found.price(bar.low),
            "high": found.price(bar.high),
            "open": found.price(bar.open),
            "close": found.price(bar.close),
            "volume": found.size(bar.volume),
        }
        for bar in bars[::-1]
        if bar.count
    ]
    return {"candles": rows}


def currencies(exchange: LocalExchange, _params: Params) -> object:
    """Return no money currency: the quote is a coin here."""
    return {"data": []}


def coins(exchange: LocalExchange, _params: Params) -> object:
    """Return every asset of every product."""
    listings = [state.market.listing for state in exchange.states.values()]
    names = sorted({asset for listing in listings for asset in (listing.base, listing.quote)})
    return {
        "data": [{"asset_id": name, "code": name, "name": name, "exponent": "8", "type": "crypto"} for name in names]
    }


def exchange_rates(exchange: LocalExchange, _params: Params) -> object:
    """Return no rates."""
    return {"data": {"currency": "USD", "rates": {}}}


_Handler = Callable[[LocalExchange, Params], object]
_V2: dict[str, _Handler] = {
    "/v2/currencies": currencies,
    "/v2/currencies/crypto": coins,
    "/v2/exchange-rates": exchange_rates,
}
#: public and, by the same names, with credentials
_PRODUCTS: dict[str, _Handler] = {
    "products": products,
    "product_book": product_book,
    "products/{product_id}": product,
    "products/{product_id}/candles": candles,
    "products/{product_id}/ticker": ticker,
}
REST = {
    ("GET", f"{PRIVATE}time"): Endpoint(server_time, WEIGHT),
    **{("GET", path): Endpoint(handler, WEIGHT) for path, handler in _V2.items()},
    **{("GET", PUBLIC + name): Endpoint(handler, WEIGHT) for name, handler in _PRODUCTS.items()},
    **{("GET", PRIVATE + name): Endpoint(handler, 1, "signed") for name, handler in _PRODUCTS.items()},
}
