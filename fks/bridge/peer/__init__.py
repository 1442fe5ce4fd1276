"""The bridge's side of the wire `fks1`: signals, journal, events, sessions and market data of one trading platform.

The simulated NinjaTrader and the agent of MetaTrader 5 use it, each behind the port
`fks.bridge.peer.platform.Platform`.
"""
