"""A simulated NinjaTrader 8 with a bridge in it, for tests: the platform, the bridge's decisions, its sessions, its
port.

The platform behaves as NinjaTrader and brokers do on bad days; every such behaviour can be switched on by itself.
"""
