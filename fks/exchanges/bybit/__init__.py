"""Bybit spot market data: `wire` reads the stream, `exchange` is the port."""

from fks.exchanges.bybit.exchange import BybitExchange
from fks.exchanges.bybit.wire import BybitWire

__all__ = ["BybitExchange", "BybitWire"]
