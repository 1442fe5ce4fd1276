"""A venue of an exchange that does not exist: the start of a plug-in (docs/add-a-venue.md)."""

from fks.trading.venues.ccxt.dialect import StandIn
from fks.trading.venues.listing import dialect_row
from fks_venue_template.dialect import DIALECT

VENUE = dialect_row(
    DIALECT,
    StandIn(
        symbol="BTC-USDT",
        place="/template/v1/orders",
        open_orders="/template/v1/open_orders",
        front="fks_venue_template.stand_in:TemplateFront",
    ),
)
