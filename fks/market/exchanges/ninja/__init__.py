"""Futures prices of NinjaTrader 8, over a session of role `data` with the bridge: `stream` keeps what arrived on it,
`session` is the connection, `exchange` is the port."""
