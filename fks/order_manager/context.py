"""Context that the parts of the order manager share: services, memory and the journal, in one frozen value."""

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
from fks.orders.crash_points import At
from fks.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of one order manager. `at` is called at the labelled points of the order path."""

    runtime: Runtime
    venues: Mapping[str, Venue]
    cache: OrderCache
    ledger: Ledger
    publisher: Publisher
    tasks: Tasks
    at: At

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    @property
    def clock(self) -> Clock:
        return self.runtime.clock

    @property
    def meter(self) -> Meter:
        return self.runtime.meter

    @property
    def log(self) -> Log:
        return self.runtime.log

    @property
    def lease(self) -> Lease:
        return self.runtime.lease

    @property
    def can_commit(self) -> bool:
        """Return whether the lease is held and the journal takes commits."""
        return self.lease.holds() and self.cache.is_journal_up
