"""Sockets of the NinjaTrader bridge: the driver of `fks.bridge.ninja.session`, and the check of a connection."""
