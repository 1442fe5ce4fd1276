"""Sockets of the NinjaTrader bridge: the driver of `fks.ninja.session`, and the check of a connection."""
