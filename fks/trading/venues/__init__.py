"""Orders out: each venue takes orders as data and reports what it receives. Deciding happens before it.

`registry.make_venue` builds one by name; `base` is shared by all; `paper` fills by itself; `binance` is Binance spot
over our own session, and `ccxt` a second transport of the same venue.
"""
