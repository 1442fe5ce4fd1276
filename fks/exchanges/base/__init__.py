"""What every exchange module shares: exact values (`values`), the shape of a wire (`wire`), typed decoding (`reader`),
order books (`levels`, `anew`), a wire on a socket (`socket`, `inbox`), REST through ccxt (`rest`), and all of it as a
base class (`exchange`). Of these, `socket`, `rest` and `exchange` bring aiohttp or ccxt and are imported by name where
they are needed.
"""

from fks.exchanges.base.book_resync import Anew
from fks.exchanges.base.event_queue import Inbox
from fks.exchanges.base.levels import Levels
from fks.exchanges.base.reader import BROKEN, Reader
from fks.exchanges.base.values import (
    HUGE,
    ID_MAX,
    MS,
    ZERO,
    Endpoint,
    Numbers,
    check_ascending,
    check_bar,
    check_trade,
    exact,
    instrument_of_filters,
    ns_of_iso,
)
from fks.exchanges.base.wire import Subscribed, Wire, doubted
from fks.model.market import Tally

__all__ = [
    "BROKEN",
    "HUGE",
    "ID_MAX",
    "MS",
    "ZERO",
    "Anew",
    "Endpoint",
    "Inbox",
    "Levels",
    "Numbers",
    "Reader",
    "Subscribed",
    "Tally",
    "Wire",
    "check_ascending",
    "check_bar",
    "check_trade",
    "doubted",
    "exact",
    "instrument_of_filters",
    "ns_of_iso",
]
