"""The ccxt venue: real exchanges (and the local one) over ccxt, with our own rules about what an answer means.

`config` is what a session is told, `session` our subclass of ccxt's exchange, `classify` the one function that reads
outcomes (peers.md §6.1), `dialect` Binance's words for our orders and back, `stream` the user stream, `venue` the port.
"""

from fks.venues.ccxt.config import CcxtConfig
from fks.venues.ccxt.venue import CcxtVenue

__all__ = ["CcxtConfig", "CcxtVenue"]
