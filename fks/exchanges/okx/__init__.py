"""OKX spot market data: `wire` reads the streams, `exchange` is the port."""
