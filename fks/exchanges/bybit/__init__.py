"""Bybit spot market data: `wire` reads the stream, `exchange` is the port."""
