"""The outside world: a local exchange on Binance's wire; shares no code with what it tests."""
