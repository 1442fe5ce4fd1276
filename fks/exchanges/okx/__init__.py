"""OKX spot market data: `wire` reads the streams, `exchange` is the port."""

from fks.exchanges.okx.exchange import OkxExchange
from fks.exchanges.okx.wire import OkxWire

__all__ = ["OkxExchange", "OkxWire"]
