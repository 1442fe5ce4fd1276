"""Intake of signals: reads those that wait for an outcome and gives them to the cores, in their order within a key.

There is no claimed state: a signal is `ready` until the one statement that writes its outcome, so whatever dies on the
way leaves it where it was.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence

from fks.clock.waiting import wait_for_event
from fks.model.signal import Kind, Signal
from fks.store.signals import SignalRecord
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.copying import Copier
from fks.trading.order_manager.entry_groups import EntryGroups
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.orders.messages import PositionKey
from fks.trading.risk.policy import Reach

_BATCH = 500
_POLL_S = 1.0


class Intake:
    """Soft state: the keys whose signals are being prepared. `prepare` reads what a signal needs and memory lacks."""

    def __init__(
        self,
        context: OrderManagerContext,
        workers: PositionWorkers,
        prepare: Callable[[Signal], Awaitable[None]],
        *,
        learn: Callable[[uuid.UUID, int], None],
        copier: Copier,
        groups: EntryGroups,
    ) -> None:
        self._context = context
        self._workers = workers
        self._prepare = prepare
        self._learn = learn
        self._copier, self._groups = copier, groups
        self._busy: set[PositionKey] = set()
        self._missed: set[PositionKey] = set()  # signals were seen there while it was busy
        self._preparing: set[uuid.UUID] = set()  # of the keys that are busy
        self._wake = asyncio.Event()
        self._is_draining = False

    def wake(self) -> None:
        """Look for signals now instead of at the next poll."""
        self._wake.set()

    def drain(self) -> None:
        """Take no further signal: the rest stays `ready` for the next epoch."""
        self._is_draining = True

    async def run(self) -> None:
        """Take signals for ever. While the lease or the journal is gone, they wait where they are."""
        while True:
            self._wake.clear()
            if self._context.can_commit and not self._is_draining:
                await self._pass()
            await wait_for_event(self._wake, _POLL_S, self._context.clock)

    async def _pass(self) -> None:
        cache, ledger = self._context.cache, self._context.ledger
        venues = list(cache.venues)
        known = [*self._preparing, *self._workers.in_hand()]  # read again, a burst would cost its square
        records = await ledger.patiently(lambda: self._context.signals.ready(venues, _BATCH, known=known))
        records += await ledger.patiently(lambda: self._context.signals.ready_elsewhere(venues, _BATCH))
        if self._copier.is_needed and await self._copier.copy_exits(records):
            self.wake()
        waiting = await self._groups.waiting(records)
        batches: dict[PositionKey, list[SignalRecord]] = {}
        for record in records:
            signal = record.signal
            self._learn(signal.id, record.created_ns)
            batches.setdefault((signal.account_id, signal.venue, signal.symbol), []).append(record)
        for key, batch in batches.items():
            if key in self._busy:
                self._missed.add(key)
            else:
                self._busy.add(key)
                self._preparing.update(record.signal.id for record in batch)
                self._context.tasks.spawn(self._work(key, batch, waiting), f"signals {key[2]}")

    async def _work(
        self, key: PositionKey, batch: Sequence[SignalRecord], waiting_for_legs: Collection[uuid.UUID]
    ) -> None:
        try:
            for record in batch:
                self._workers.value(record.signal)
            for number, record in enumerate(batch):
                is_waiting = record.signal.id in waiting_for_legs or self._waits(record.signal)
                if is_waiting and not any(one.signal.kind is Kind.EXIT for one in batch[number + 1 :]):
                    continue
                for signal in (record.signal, *self._groups.others(record.signal)):
                    await self._prepare(signal)
                if not self._is_draining:
                    self._workers.signal(record)
        finally:
            self._busy.discard(key)
            self._preparing.difference_update(record.signal.id for record in batch)
        waiting = self._workers.waiting().get(key, 0)
        self._context.cache.held[key] = waiting, self._context.clock.monotonic()
        if key in self._missed:
            self._missed.discard(key)
            self.wake()

    def _waits(self, signal: Signal) -> bool:
        """Return whether an entry stays `ready`: its venue's session connects again, and its time is not over.

        One that an exit follows is not wanted any more: it is denied, so that it cannot come after the exit.
        """
        venue, until_ns = self._context.cache.venues.get(signal.venue), signal.valid_until_ns
        if venue is None or venue.refusal or until_ns is None or signal.kind is Kind.EXIT or venue.reach is Reach.READY:
            return False
        return venue.capabilities.waits_for_session and until_ns > self._context.clock.now_ns()
