"""The local exchange for tests and first steps: Binance spot's wire protocol, with faults on demand.

It shares only `fks.model` and `fks.clock` with the code that it tests: generator, matching and accounts are its own.
"""
