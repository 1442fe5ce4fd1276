"""Orders out to Binance spot, real or local, over our own session; its dialect is shared with the ccxt session.

`calls` is the table of the calls, `dialect` and `account` Binance's words for our values, `classify` the one
function that reads outcomes (docs/venues.md), `venue` the port over any transport, `session` our own transport: the
WebSocket API (`socket_api`) with REST before the first byte (`http`), `stream` the user stream.
"""
