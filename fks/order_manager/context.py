"""What the parts of the order manager share: services, memory and the journal, in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fks.clock import Clock
from fks.config.settings import Settings
from fks.model.ports import Lease, Log, Meter, Venue
from fks.order_manager.cache import OrderCache
from fks.order_manager.ledger import Ledger
from fks.order_manager.publisher import Publisher
from fks.order_manager.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of one order manager."""

    venues: Mapping[str, Venue]
    settings: Settings
    clock: Clock
    meter: Meter
    log: Log
    lease: Lease
    cache: OrderCache
    ledger: Ledger
    publisher: Publisher
    tasks: Tasks

    @property
    def can_commit(self) -> bool:
        """Return whether the lease is held and the journal takes commits."""
        return self.lease.holds() and self.cache.is_journal_up
