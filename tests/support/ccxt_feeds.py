"""Results of ccxt.pro's own handlers on recorded frames: an independent check of our wires, and the speed they are held
against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT | {"coinbase", "kraken"}):
    from ccxt.pro.binance import binance
    from ccxt.pro.coinbase import coinbase
    from ccxt.pro.kraken import kraken

KINDS = {"binance": binance, "coinbase": coinbase, "kraken": kraken}
URLS = {
    "binance": "wss://stream.binance.com:9443/stream",
    "coinbase": "wss://advanced-trade-ws.coinbase.com",
    "kraken": "wss://ws.kraken.com/v2",
}


@dataclass
class Client:
    """As much of a ccxt connection as its handlers touch."""

    url: str
    subscriptions: dict[str, Any] = field(default_factory=dict)
    futures: dict[str, Any] = field(default_factory=dict)
    lastPong: int = 0

    def resolve(self, result: Any, message_hash: str) -> Any:
        return result

    def reject(self, result: Any, message_hash: str | None = None) -> Any:
        raise AssertionError(f"ccxt rejected: {result!r}")


def feed_of(name: str, symbols: dict[str, str]) -> tuple[Any, Client]:
    """Return ccxt.pro's exchange `name`, knowing these markets (its id -> BASE/QUOTE) without asking, and a client of
    it."""
    exchange = KINDS[name]({"options": {"tradesLimit": 1_000_000}})
    markets = {}
    for id_, symbol in symbols.items():
        base, quote = symbol.split("/")
        markets[symbol] = exchange.safe_market_structure(
            {
                "id": id_,
                "symbol": symbol,
                "base": base,
                "quote": quote,
                "baseId": base,
                "quoteId": quote,
                "type": "spot",
                "spot": True,
                "active": True,
                "precision": {"amount": 1e-8, "price": 1e-8},
            }
        )
    exchange.markets, exchange.symbols, exchange.ids = markets, list(markets), [m["id"] for m in markets.values()]
    exchange.markets_by_id = {m["id"]: [m] for m in markets.values()}
    return exchange, Client(URLS[name])


def trades_of(exchange: Any) -> list[dict[str, Any]]:
    """Return all trades that the handlers kept, by symbol, in their order."""
    return [trade for kept in exchange.trades.values() for trade in kept]
