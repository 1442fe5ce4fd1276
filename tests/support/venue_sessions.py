"""Sessions of the Binance venues, and a listener for their events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fks.model.ports import VenueEvent
from fks.trading.venues.binance.session import BinanceVenue
from fks.trading.venues.binance.venue import SpotVenue
from fks.trading.venues.ccxt import CcxtVenue

Open = Callable[..., Awaitable[SpotVenue]]


SESSIONS: dict[str, Callable[..., SpotVenue]] = {"ccxt": CcxtVenue, "binance": BinanceVenue}


@dataclass
class Listener:
    """Collects a venue's events."""

    events: list[VenueEvent] = field(default_factory=list)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
