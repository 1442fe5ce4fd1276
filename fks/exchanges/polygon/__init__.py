"""Polygon.io (now Massive) US stocks: `wire` reads the stream, `exchange` is the port. A key is needed."""
