"""Kraken spot market data: `shape` is the messages as types, `wire` reads the stream, `exchange` is the port."""
