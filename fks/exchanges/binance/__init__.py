"""Binance spot market data: `wire` reads the stream, `exchange` is the port."""

from fks.exchanges.binance.exchange import BinanceExchange, CcxtBinance
from fks.exchanges.binance.wire import BinanceWire

__all__ = ["BinanceExchange", "BinanceWire", "CcxtBinance"]
