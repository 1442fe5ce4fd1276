"""Kraken spot market data: `shape` is the messages as types, `wire` reads the stream, `exchange` is the port."""

from fks.exchanges.kraken.exchange import KrakenExchange
from fks.exchanges.kraken.wire import KrakenWire

__all__ = ["KrakenExchange", "KrakenWire"]
