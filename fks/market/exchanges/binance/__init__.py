"""Binance spot market data: `wire` decodes the stream, `exchange` is the port, `capabilities` its value."""
