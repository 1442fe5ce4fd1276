"""The NinjaTrader 8 wire session, sans I/O: bytes in, events out. Not built yet."""
