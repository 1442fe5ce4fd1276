"""Binance spot over ccxt: `session` is our subclass of ccxt's exchange, `venue` makes it a transport of the Binance
venue.

Rules about what an answer means are not here: they are those of `fks.venues.binance`.
"""

from fks.venues.binance.config import SessionConfig as CcxtConfig
from fks.venues.ccxt.venue import CcxtVenue

__all__ = ["CcxtConfig", "CcxtVenue"]
