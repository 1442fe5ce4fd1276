"""Context that the parts of the order manager share: services, memory and the journal, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.model.ports import Venue
from fks.store.facts import FactStore
from fks.store.signals import SignalStore
from fks.system.runtime import Runtime
from fks.trading.order_manager.cache import OrderCache
from fks.trading.order_manager.ledger import Ledger
from fks.trading.order_manager.publisher import Publisher
from fks.trading.order_manager.tasks import Tasks
from fks.trading.orders.crash_points import At
from fks.trading.risk.policy import Action, JournalState, journals_of


@dataclass(frozen=True, slots=True)
class OrderManagerContext(Runtime):
    """The services of the process, and the surroundings of its order manager. `at` is called at the labelled points of
    the order path. Nothing is submitted before the monotonic time `hold_s`."""

    venues: dict[str, Venue]
    cache: OrderCache
    ledger: Ledger
    publisher: Publisher
    tasks: Tasks
    at: At
    hold_s: float = 0.0
    signals: SignalStore = field(init=False)
    facts: FactStore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", SignalStore(self.db, self.lease))
        object.__setattr__(self, "facts", FactStore(self.db, self.lease))

    @property
    def can_commit(self) -> bool:
        """Return whether the lease is held, no predecessor may still send, and the journal takes commits."""
        return self.lease.holds() and self.cache.is_journal_up and not self.is_on_hold

    @property
    def is_on_hold(self) -> bool:
        """Return whether a predecessor may still send protection and exits."""
        return self.hold_s > 0 and self.clock.monotonic() < self.hold_s

    @property
    def journal(self) -> JournalState:
        """Return which journal takes commits."""
        if self.can_commit:
            return JournalState.COMMITS
        return JournalState.SIDE if self.ledger.may_send_by_side_journal and not self.is_on_hold else JournalState.AWAY

    def may_leave(self, action: Action) -> bool:
        """Return whether bytes of a request that is journaled may leave this process now: a fact of its right to send,
        by which the policy lets some actions go."""
        if self.lease.holds():
            return JournalState.COMMITS in journals_of(action)
        return JournalState.SIDE in journals_of(action) and self.ledger.may_send_by_side_journal
