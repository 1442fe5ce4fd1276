"""Bybit spot market data: `wire` decodes the stream, `exchange` is the port."""
