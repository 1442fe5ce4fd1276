"""OKX spot market data: `wire` decodes the streams, `exchange` is the port."""
