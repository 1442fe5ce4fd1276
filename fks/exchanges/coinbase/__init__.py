"""Coinbase spot market data: `shape` is the messages as types, `wire` reads the stream, `exchange` is the port."""

from fks.exchanges.coinbase.exchange import CoinbaseExchange
from fks.exchanges.coinbase.wire import CoinbaseWire

__all__ = ["CoinbaseExchange", "CoinbaseWire"]
