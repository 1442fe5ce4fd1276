"""Spot of Hyperliquid as a venue: a plug-in made from the vendor's documents alone (docs/add-a-venue.md)."""

from fks.trading.venues.ccxt.dialect import StandIn
from fks.trading.venues.listing import dialect_row
from fks_venue_hyperliquid.dialect import DIALECT

VENUE = dialect_row(
    DIALECT,
    StandIn(
        symbol="BTC/USDT",
        place="/exchange/order",  # the wire has two paths: the stand-in adds the type of the request
        open_orders="/info/frontendOpenOrders",
        front="fks_venue_hyperliquid.stand_in:HyperliquidFront",
        unkind=(({"kind": "error", "msg": "A reason of tomorrow"}, False),),
    ),
)
