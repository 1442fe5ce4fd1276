"""Polygon.io (now Massive) US stocks: `wire` decodes the stream, `exchange` is the port. A key is needed."""
