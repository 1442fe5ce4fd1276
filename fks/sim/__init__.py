"""The outside world for tests and first steps: a local exchange that speaks Binance spot's wire, with faults on demand.

It shares only `fks.model` and `fks.clock` with what it tests: its generator, matching and bookkeeping are its own.
"""
