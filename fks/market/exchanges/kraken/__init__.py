"""Kraken spot market data: `messages` are its types, `wire` decodes the stream, `exchange` is the port."""
