"""Orders out: each venue takes orders as data and reports what it hears. Deciding happens before it.

`registry.make_venue` builds one by name; `base` is what they share; `paper` and `ccxt` know nothing of each other.
"""
