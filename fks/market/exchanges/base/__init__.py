"""Parts shared by all exchange modules: exact values (`values`), the wire protocol (`wire`), typed decoding (`reader`),
order books (`levels`, `book_resync`), connections (`socket`, `event_queue`), REST through ccxt (`rest`), and a base
class (`exchange`). `socket`, `rest` and `exchange` import aiohttp or ccxt, so they are imported by name.
"""

from fks.market.exchanges.base.book_resync import BookResync
from fks.market.exchanges.base.event_queue import ArrivedEvents
from fks.market.exchanges.base.levels import Levels
from fks.market.exchanges.base.reader import BROKEN, MessageReader
from fks.market.exchanges.base.values import (
    HUGE,
    ID_MAX,
    MS,
    ZERO,
    ExchangeAddresses,
    Numbers,
    check_ascending,
    check_bar,
    check_trade,
    exact,
    instrument_of_filters,
    ns_of_iso,
)
from fks.market.exchanges.base.wire import SubscriptionsAnswered, Wire, suspect_message
from fks.model.market import ConnectionCounters

__all__ = [
    "BROKEN",
    "HUGE",
    "ID_MAX",
    "MS",
    "ZERO",
    "ArrivedEvents",
    "BookResync",
    "ConnectionCounters",
    "ExchangeAddresses",
    "Levels",
    "MessageReader",
    "Numbers",
    "SubscriptionsAnswered",
    "Wire",
    "check_ascending",
    "check_bar",
    "check_trade",
    "exact",
    "instrument_of_filters",
    "ns_of_iso",
    "suspect_message",
]
