"""The driver of the order cores: one core per position key (account, venue, symbol).

Events are handled at once, in the order they come, without an await; commands that need the journal or a venue run in
tasks of their own and report back with an event. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from decimal import Decimal
from uuid import UUID

from fks.model.order import Order, Role
from fks.model.signal import Signal
from fks.order_manager.context import OrderManagerContext
from fks.order_manager.submission import Submissions
from fks.order_manager.venue_orders import VenueOrders
from fks.orders import events as e
from fks.orders import messages as m
from fks.orders.core import OrderCore
from fks.orders.freshness import max_age_of
from fks.orders.messages import PositionKey
from fks.orders.trailing import stop_of
from fks.risk.policy import JournalState
from fks.store.facts import FactStore
from fks.store.signals import SignalRecord, SignalStore

_ZERO = Decimal(0)
_UNPROTECTED = "position.unprotected"
_CONDITIONS = frozenset({_UNPROTECTED})  # alerts that last until `EndAlert`
#: Called with each event that a core handled, and what it commanded: how recorded histories are made.
Recorder = Callable[[PositionKey, m.Event, m.Now, m.Facts, list[m.Command]], None]


@dataclass(slots=True)
class _Worker:
    """One core, and what its commands refer to."""

    key: PositionKey
    core: OrderCore
    events: deque[m.Event] = field(default_factory=deque)
    records: dict[UUID, SignalRecord] = field(default_factory=dict)
    is_handling: bool = False
    wake_at_s: float | None = None


class PositionWorkers:
    """Gives each core its events and carries its commands out. Soft state: the cores."""

    def __init__(
        self,
        context: OrderManagerContext,
        submissions: Submissions,
        venue_orders: VenueOrders,
        signals: SignalStore,
        facts: FactStore,
        *,
        limits: m.Limits,
        flattened_here: Collection[str],
        recorder: Recorder | None = None,
    ) -> None:
        self._context = context
        self._cache = context.cache
        self._clock = context.clock
        self._submissions = submissions
        self._venue_orders = venue_orders
        self._signals = signals
        self._facts = facts
        self._limits = limits
        self._flattened_here = frozenset(flattened_here)  # venues where only the order manager has a session
        self._recorder = recorder
        self._workers: dict[PositionKey, _Worker] = {}
        self._is_draining = False
        self._in_flight = 0
        self._alarm = asyncio.Event()
        self._tape_venues = context.settings.sim.fills == "tape"

    # ── in ───────────────────────────────────────────────────────────────────────────────────────
    def post(self, key: PositionKey, event: m.Event) -> None:
        """Have the key's core handle an event now. While draining nothing is handled: the next epoch reads the
        journal."""
        worker = self._worker(key)
        worker.events.append(event)
        if not worker.is_handling and not self._is_draining:
            self._work(worker)

    def _worker(self, key: PositionKey) -> _Worker:
        worker = self._workers.get(key)
        if worker is None:
            worker = self._workers[key] = _Worker(key, OrderCore(key, self._limits))
        return worker

    def signal(self, record: SignalRecord) -> None:
        """Post a signal that waits for its outcome; one that the core has already is left to it."""
        signal = record.signal
        key = (signal.account_id, signal.venue, signal.symbol)
        worker = self._worker(key)
        if signal.id in worker.records:
            return
        worker.records[signal.id] = record
        decided_ns, max_age_s = max_age_of(record, self._context.settings.risk)
        self.post(key, m.SignalReady(signal, decided_ns, max_age_s))

    def order_changed(self, order: Order) -> None:
        """Post an order's newest committed state."""
        key = (order.account_id, order.venue, order.symbol)
        self.post(key, m.OrderChanged(order, self._cache.buckets(key)))

    def positions_changed(self, key: PositionKey) -> None:
        """Post quantities that changed without an order of ours."""
        if key in self._workers:
            self.post(key, m.PositionsChanged(self._cache.buckets(key)))

    def recheck(self, venue: str | None = None) -> None:
        """Have every core (of one venue) look again now."""
        for key in [key for key in self._workers if venue in (None, key[1])]:
            self.post(key, m.PositionsChanged(self._cache.buckets(key)))
            self.post(key, m.Recheck())

    @property
    def keys(self) -> list[PositionKey]:
        """Return the keys that have a core."""
        return list(self._workers)

    def held_entries(self, key: PositionKey) -> dict[str, list[Order]]:
        """Return the entries with protections that each instance's position at a key is made of, newest first."""
        worker = self._workers.get(key)
        return {} if worker is None else worker.core.held_entries()

    def end_exit(self, signal: Signal, by: str) -> bool | None:
        """Post that a person ended a signal's exit. Return whether it ends; None = draining: the next epoch answers."""
        if self._is_draining:
            return None
        key = (signal.account_id, signal.venue, signal.symbol)
        if key not in self._workers:
            return False
        self.post(key, m.ExitEndRequested(signal.id, by))
        return self._workers[key].core.is_ended_by_person(signal.id)

    async def restore(self) -> None:
        """Give every core what the journal says of its key. Errors: OutageError."""
        store = self._context.ledger.store
        paged = await self._paged()
        keys: set[PositionKey] = {(o.account_id, o.venue, o.symbol) for o in self._cache.orders.values()} | {
            key[:3] for key, position in self._cache.positions.items() if position.quantity
        }
        keys |= set(paged)
        for key in sorted(keys):
            orders = list(self._cache.open_at(key))
            instances = {order.instance for order in orders} | {
                instance for instance, quantity in self._cache.buckets(key).items() if quantity
            }
            entries: list[Order] = []
            exits: list[m.ResumedExit] = []
            for instance in sorted(instances):
                held = self._cache.buckets(key).get(instance, _ZERO)
                entries += await store.entries_of(key[0], key[1], key[2], instance, abs(held))
                resumed = await self._resumed(key, instance, held)
                exits += [resumed] if resumed is not None else []
            parents = {entry.client_order_id for entry in entries}
            for name in sorted({o.parent_id for o in orders if o.parent_id} - parents):
                parent = await store.get(name)
                orders += [parent] if parent is not None else []
                parents.add(name)
            known = {order.client_order_id for order in orders}
            orders += [leg for leg in await store.legs(sorted(parents)) if leg.client_order_id not in known]
            buckets = self._cache.buckets(key)
            self.post(key, m.Restored(tuple(orders), tuple(entries), buckets, tuple(exits), tuple(paged.get(key, ()))))

    async def _paged(self) -> dict[PositionKey, list[str]]:
        """Return the instances whose page about a missing stop is open: an earlier process left it."""
        found: dict[PositionKey, list[str]] = {}
        for condition in await self._facts.open_conditions(_UNPROTECTED):
            _, account_id, venue, symbol, instance = condition.split("|", 4)
            found.setdefault((int(account_id), venue, symbol), []).append(instance)
        return found

    async def _resumed(self, key: PositionKey, instance: str, held: Decimal) -> m.ResumedExit | None:
        """Return the exit that an earlier process had begun and that is not done: the instance's last decision was
        one. Entries and persons' orders wait for the end of an exit: one of these after it says that it was done."""
        store = self._context.ledger.store
        last = await store.last_decision(key[0], key[2], instance)
        if last is None or last.role is not Role.EXIT or last.venue != key[1] or last.signal_id is None:
            return None
        known = self._cache.orders.get(last.client_order_id)
        end = await self._signals.end_of(last.signal_id)
        is_ended = (end is not None and end.finished_ns is not None) or await store.is_ended_by_person(
            last.client_order_id
        )
        if known is None and (held == 0 or is_ended):
            return None
        record = await self._signals.get(last.signal_id)
        if record is None:
            return None
        closes = () if record.signal.size_share is None else tuple(await store.closes(last.signal_id))
        return m.ResumedExit(record.signal, known or last, closes, ended_by="" if end is None else end.by)

    # ── state for others ─────────────────────────────────────────────────────────────────────────
    def drain(self) -> None:
        """Handle no further event."""
        self._is_draining = True

    @property
    def is_drained(self) -> bool:
        """Return whether nothing that was commanded is on its way."""
        return self._in_flight == 0

    def is_idle(self, key: PositionKey) -> bool:
        """Return whether the key's core waits for nothing that it commanded."""
        worker = self._workers.get(key)
        return worker is None or (worker.core.is_idle and not worker.events)

    def in_hand(self) -> list[UUID]:
        """Return the signals that wait for nothing but their turn. Those of a key with an exit in progress are left
        out: that may wait for a fact that has to be read first."""
        return [id for worker in self._workers.values() if not worker.core.has_exits for id in worker.records]

    def waiting(self) -> dict[PositionKey, int]:
        """Return how many signals wait at each key for something that no restart brings."""
        return {key: waiting for key, worker in self._workers.items() if (waiting := worker.core.waiting_on_exit)}

    async def settled(self, venue: str, timeout_s: float) -> bool:
        """Return whether the cores of a venue finished what they commanded within `timeout_s`."""
        deadline = self._clock.monotonic() + timeout_s
        while not all(self.is_idle(key) for key in self._workers if key[1] == venue):
            if self._clock.monotonic() > deadline:
                return False
            await self._clock.sleep(0.005)
        return True

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────
    async def run(self) -> None:
        """Give cores their ticks, for ever."""
        while True:
            self._alarm.clear()
            now_s = self._clock.monotonic()
            due = [w for w in self._workers.values() if w.wake_at_s is not None and w.wake_at_s <= now_s]
            for worker in due:
                self.post(worker.key, m.Tick())
            times = [w.wake_at_s for w in self._workers.values() if w.wake_at_s is not None]
            if not times:
                await self._alarm.wait()
                continue
            wait_s = max(min(times) - self._clock.monotonic(), 0.005)
            sleeper = asyncio.ensure_future(self._clock.sleep(wait_s))
            waiter = asyncio.ensure_future(self._alarm.wait())
            try:
                await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeper.cancel()
                waiter.cancel()

    def _work(self, worker: _Worker) -> None:
        worker.is_handling = True
        try:
            while worker.events and not self._is_draining:
                event, now = worker.events.popleft(), m.Now(self._clock.now_ns(), self._clock.monotonic())
                facts = self.facts(worker.key)
                commands = worker.core.handle(event, now, facts)
                if self._recorder is not None:
                    self._recorder(worker.key, event, now, facts, commands)
                for command in commands:
                    self._carry_out(worker, command)
        finally:
            worker.is_handling = False
        before, worker.wake_at_s = worker.wake_at_s, worker.core.wake_at_s
        if worker.wake_at_s is not None and (before is None or worker.wake_at_s < before):
            self._alarm.set()

    # ── commands ─────────────────────────────────────────────────────────────────────────────────
    def _carry_out(self, worker: _Worker, command: m.Command) -> None:
        name, key = type(command).__name__, worker.key
        if isinstance(command, m.RaiseAlert):
            self._context.publisher.alert(
                command.severity,
                command.event,
                command.message,
                symbol=key[2],
                venue=key[1],
                instance=command.instance,
                client_order_id=command.client_order_id,
                condition=_condition(key, command) if command.event in _CONDITIONS else None,
            )
        elif isinstance(command, m.EndAlert):
            self._context.publisher.end_alert(_condition(key, command), command.message)
        elif isinstance(command, m.QueryOrder):
            self._venue_orders.query_soon(command.client_order_id, is_forced=True)
        elif isinstance(command, m.SubmitEntry):
            self._spawn(self._submit_entry(worker, command), f"submit {key[2]}")
        elif isinstance(command, m.SubmitClose):
            self._spawn(self._submit_close(worker, command), f"close {key[2]}")
        elif isinstance(command, m.SubmitKill):
            self._spawn(self._submit_kill(worker, command), f"kill {key[2]}")
        elif isinstance(command, m.PlaceProtection):
            self._spawn(self._place_protection(worker, command), f"protect {key[2]}")
        elif isinstance(command, m.AmendLegs):
            self._spawn(self._venue_orders.amend(command.client_order_ids, command.quantity), name)
        elif isinstance(command, m.ReplaceStop):
            self._spawn(self._replace_stop(worker, command), f"replace {key[2]}")
        elif isinstance(command, m.ReadEntries):
            self._spawn(self._read_entries(worker, command), name)
        elif isinstance(command, m.CancelOrder):
            self._spawn(self._venue_orders.cancel(command.client_order_id, by="", reason=command.reason), name)
        elif isinstance(command, m.WithdrawCancel):
            self._spawn(self._venue_orders.withdraw(command.client_order_id), name)
        elif isinstance(command, m.AbandonOrder):
            event = e.Abandoned(**self._context.ledger.stamp("abandon"), reason=command.reason)
            self._spawn(self._context.ledger.apply(command.client_order_id, event), name)
        elif isinstance(command, m.RefreshBalances):
            self._spawn(self._submissions.refresh_balances(key[1]), name)
        elif isinstance(command, m.FinishSignal):
            record = worker.records.pop(command.signal_id, None)
            if record is not None:
                self._spawn(self._submissions.finish(record, command.state, None, command.detail), name)
        elif isinstance(command, m.RecordExitEnd):
            self._spawn(self._submissions.record_exit_end(command), name)
        else:
            record = worker.records.pop(command.signal_id, None)
            if record is not None:
                self._spawn(self._submissions.deny_signal(record, command), name)

    def _spawn(self, work: object, name: str) -> None:
        async def counted() -> None:
            try:
                await work  # type: ignore[misc]
            finally:
                self._in_flight -= 1

        self._in_flight += 1
        if self._context.tasks.spawn(counted(), name) is None:
            self._in_flight -= 1
            work.close()  # type: ignore[attr-defined]

    async def _submit_entry(self, worker: _Worker, command: m.SubmitEntry) -> None:
        record = worker.records[command.signal_id]
        signal = record.signal
        if signal.is_add and signal.trail is not None:  # it gets the stop that the position has by now
            stop = stop_of(worker.core.held_entries().get(signal.instance, ()))
            record = record if stop is None else replace(record, signal=replace(signal, stop_loss=stop))
        await self._submissions.entry(record)
        worker.records.pop(command.signal_id, None)
        self.post(worker.key, m.EntryDone(command.signal_id))

    async def _submit_close(self, worker: _Worker, command: m.SubmitClose) -> None:
        exit_ = worker.core.exit_of(command.instance)
        assert exit_ is not None, "an exit that submits is in progress"
        lost = worker.core.unresolvable(command.instance)
        done = await self._submissions.close(worker.key, command, exit_.signal, lost=lost)
        if not done.code and not done.is_used:  # else its signal waits for its outcome still
            worker.records.pop(command.signal_id, None)
        self.post(worker.key, done)

    async def _submit_kill(self, worker: _Worker, command: m.SubmitKill) -> None:
        self.post(worker.key, await self._submissions.kill(worker.key, command))

    async def _place_protection(self, worker: _Worker, command: m.PlaceProtection) -> None:
        self.post(worker.key, await self._submissions.protection(worker.key, command))

    async def _replace_stop(self, worker: _Worker, command: m.ReplaceStop) -> None:
        self.post(worker.key, await self._submissions.replace_stop(command))

    async def _read_entries(self, worker: _Worker, command: m.ReadEntries) -> None:
        ledger = self._context.ledger
        account_id, venue, symbol = worker.key
        entries = await ledger.patiently(
            lambda: ledger.store.entries_of(account_id, venue, symbol, command.instance, command.held)
        )
        legs = await ledger.patiently(lambda: ledger.store.legs([entry.client_order_id for entry in entries]))
        self.post(worker.key, m.EntriesRead(command.instance, tuple(entries), tuple(legs)))

    # ── facts ────────────────────────────────────────────────────────────────────────────────────
    def facts(self, key: PositionKey) -> m.Facts:
        """Return what the key's core needs to know now."""
        account_id, venue, symbol = key
        cache = self._cache
        status = cache.venues.get(venue)
        if status is None or status.account_id != account_id:  # nothing of another account is known, or sold, here
            return m.Facts(
                can_commit=self._context.can_commit,
                kill=cache.kill_mode,
                is_connected=False,
                has_positions=False,
                exchange_now_ns=self._clock.now_ns(),
                account_problem=f"no configured venue {venue} carries the account {account_id}",
            )
        instruments = cache.instruments_of(symbol)
        base = next((instrument.base for instrument in instruments.values()), "")
        now_ns, journal = self._clock.now_ns(), self._context.journal
        age_max_s = None if self._tape_venues else self._context.settings.risk.feed_age_max_s
        marks = {on: price for on in instruments if (price := cache.mark(on, symbol, now_ns, age_max_s)) is not None}
        return m.Facts(
            can_commit=journal is JournalState.COMMITS,
            has_side_journal=journal is JournalState.SIDE and not status.capabilities.keeps_bracket,
            kill=cache.kill_mode,
            kill_id=cache.kill_id,
            is_connected=status.is_connected,
            has_positions=status.has_positions,
            was_ready=status.ready_times > 0 or bool(status.refusal),
            has_oco=status.capabilities.has_oco,
            can_amend=status.capabilities.can_amend,
            can_replace=status.capabilities.can_replace,
            can_short=status.capabilities.can_short,
            keeps_bracket=status.capabilities.keeps_bracket,
            closes_on_kill=venue in self._flattened_here,
            is_tape=self._tape_venues,
            exchange_now_ns=now_ns + int((status.skew_ms or 0.0) * 1e6),
            instruments=instruments,
            marks=marks,
            averages=cache.averages(key),
            base_balance=cache.balances.get(venue, {}).get(base),
            owned_elsewhere=cache.owned_elsewhere(key, base),
        )


def _condition(key: PositionKey, command: m.RaiseAlert | m.EndAlert) -> str:
    """Return the name of the condition that an alert is about."""
    return "|".join((command.event, str(key[0]), key[1], key[2], command.instance))
