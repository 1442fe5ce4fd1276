"""The NinjaTrader 8 wire protocol "fks1", sans I/O: bytes and a clock in, events and bytes out.

framing, strict_json    lines and the JSON in them
messages, fields        every message as a frozen dataclass, with its checks and codes
auth                    the two MACs of mutual authentication
seed                    the seed dialect: one JSON object without a secret, for simulation accounts
machine, signals        the state machines of a connection and of a signal, as tables
session                 the client: tables, heartbeats, clock offset, event log, requests
"""
