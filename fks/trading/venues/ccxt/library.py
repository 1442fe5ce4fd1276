"""ccxt, as far as Binance needs it: its packages would import every exchange they know."""

from __future__ import annotations

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT):
    import ccxt
    from ccxt.pro.binance import binance

__all__ = ["binance", "ccxt"]
