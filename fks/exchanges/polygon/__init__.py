"""Polygon.io (now Massive) US stocks: `wire` reads the stream, `exchange` is the port. A key is needed."""

from fks.exchanges.polygon.exchange import PolygonExchange
from fks.exchanges.polygon.wire import PolygonWire

__all__ = ["PolygonExchange", "PolygonWire"]
