"""The driver of the order cores: one core per position key (account, venue, symbol).

Events are handled at once, in the order they come, without an await; commands that need the journal or a venue run in
tasks of their own and report back with an event. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeVarTuple
from uuid import UUID

from fks.clock.waiting import wait_for_event
from fks.model.codes import Code
from fks.model.copies import PREFIX
from fks.model.errors import OutageError
from fks.model.kill import KillMode, Kills, ScopeKind
from fks.model.ninja import platform_of
from fks.model.order import Order, Role
from fks.model.parent import ParentPlan
from fks.model.signal import Signal
from fks.store.signals import SignalRecord
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.submission import Submissions, denied
from fks.trading.order_manager.tasks import settled
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.orders import events as e
from fks.trading.orders import messages as m
from fks.trading.orders.core import OrderCore
from fks.trading.orders.freshness import max_age_of
from fks.trading.orders.messages import PositionKey
from fks.trading.orders.trailing import stop_of
from fks.trading.risk.intent import intend_order
from fks.trading.risk.policy import JournalState

Given = TypeVarTuple("Given")
_ZERO = Decimal(0)
_UNPROTECTED = "position.unprotected"
#: events whose alerts have a condition: they last until `EndAlert`
CONDITIONS = frozenset({_UNPROTECTED})
#: Called with each event that a core handled, and what it commanded: how recorded histories are made.
Recorder = Callable[[PositionKey, m.CoreEvent, m.Now, m.Facts, list[m.CoreCommand]], None]


@dataclass(slots=True)
class _Worker:
    """One core, and what its commands refer to."""

    key: PositionKey
    core: OrderCore
    events: deque[m.CoreEvent] = field(default_factory=deque)
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
        self._limits = limits
        self._flattened_here = frozenset(flattened_here)  # venues where only the order manager has a session
        self._recorder = recorder
        self._workers: dict[PositionKey, _Worker] = {}
        self._is_draining = False
        self._in_flight = 0
        self._alarm = asyncio.Event()
        self._tape_venues = context.settings.sim.fills == "tape"

    # ── in ───────────────────────────────────────────────────────────────────────────────────────
    def post(self, key: PositionKey, event: m.CoreEvent) -> None:
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

    def value(self, signal: Signal) -> None:
        """Note what the account of an entry is worth, before the exit that was decided with it is submitted."""
        self._submissions.value(signal)

    def signal(self, record: SignalRecord) -> None:
        """Post a signal that waits for its outcome; one that the core has already is left to it."""
        signal = record.signal
        key = (signal.account_id, signal.venue, signal.symbol)
        worker = self._worker(key)
        if signal.id in worker.records:
            return
        worker.records[signal.id] = record
        decided_ns, max_age_s = max_age_of(signal, record.approved_ns, self._context.settings.risk)
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
        return {} if worker is None else worker.core.held_entries(self._cache.instruments_of(key[2]))

    def plan_of(self, key: PositionKey, entry: Order) -> ParentPlan | None:
        """Return the plan of an entry at a key, or None."""
        worker = self._workers.get(key)
        return None if worker is None else worker.core.plan_of(entry)

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
            parents = {order.client_order_id for order in (*entries, *orders) if order.parent_id is None}
            for name in sorted({o.parent_id for o in orders if o.parent_id} - parents):
                parent = await store.get(name)
                orders += [parent] if parent is not None else []
                parents.add(name)
            known = {order.client_order_id for order in orders}
            orders += [leg for leg in await store.legs(sorted(parents)) if leg.client_order_id not in known]
            plans = await store.plans([*orders, *entries])
            buckets, pages = self._cache.buckets(key), tuple(paged.get(key, ()))
            self.post(key, m.Restored(tuple(orders), tuple(entries), buckets, tuple(exits), pages, plans))

    async def _paged(self) -> dict[PositionKey, list[str]]:
        """Return the instances whose page about a missing stop is open: an earlier process left it."""
        found: dict[PositionKey, list[str]] = {}
        for condition in await self._context.facts.open_conditions(_UNPROTECTED):
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
        end = await self._context.signals.end_of(last.signal_id)
        is_ended = (end is not None and end.finished_ns is not None) or await store.is_ended_by_person(
            last.client_order_id
        )
        if known is None and (held == 0 or is_ended):
            return None
        record = await self._context.signals.get(last.signal_id)
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
        return await settled(
            self._clock, lambda: all(self.is_idle(key) for key in self._workers if key[1] == venue), timeout_s
        )

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
            wait_s = max(min(times) - self._clock.monotonic(), 0.005) if times else None
            await wait_for_event(self._alarm, wait_s, self._clock)

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
    def _carry_out(self, worker: _Worker, command: m.CoreCommand) -> None:
        name, key = type(command).__name__, worker.key
        if isinstance(command, m.RaiseAlert):
            self._context.publisher.alert(
                command.severity,
                command.event,
                command.message,
                account_id=key[0],
                symbol=key[2],
                venue=key[1],
                instance=command.instance,
                client_order_id=command.client_order_id,
                condition=_condition(key, command) if command.event in CONDITIONS else None,
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
            self._spawn(self._post_done(worker, self._submissions.kill, key, command), f"kill {key[2]}")
        elif isinstance(command, m.PlaceProtection):
            self._spawn(self._post_done(worker, self._submissions.protection, command), f"protect {key[2]}")
        elif isinstance(command, m.AmendLegs):
            self._spawn(self._venue_orders.amend(command.client_order_ids, command.quantity), name)
        elif isinstance(command, m.RepriceLeg):
            self._spawn(self._venue_orders.reprice(command.client_order_id, command.price), name)
        elif isinstance(command, m.ReplaceStop):
            self._spawn(self._post_done(worker, self._submissions.replace_stop, command), f"replace {key[2]}")
        elif isinstance(command, m.MoveStop):
            self._spawn(self._move_stop(command), name)
        elif isinstance(command, m.ReadEntries):
            self._spawn(self._read_entries(worker, command), name)
        elif isinstance(command, m.ReadCloses):
            self._spawn(self._read_closes(worker, command.parent), name)
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
            ledger, id, detail = self._context.ledger, command.signal_id, command.detail
            self._spawn(ledger.patiently(lambda: self._context.signals.record_end(id, detail)), name)
        elif isinstance(command, m.DenySignal):
            record = worker.records.pop(command.signal_id, None)
            if record is not None:
                code, intent = Code(command.code), intend_order(record.signal)
                no = denied(intent, code, command.limit, command.observed, command.remedy)
                self._spawn(self._submissions.deny(record, no), name)

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
            stop = stop_of(self.held_entries(worker.key).get(signal.instance, ()))
            record = record if stop is None else replace(record, signal=replace(signal, stop_loss=stop))
        await self._submissions.entry(record)
        worker.records.pop(command.signal_id, None)
        self.post(worker.key, m.EntryDone(command.signal_id))

    async def _submit_close(self, worker: _Worker, command: m.SubmitClose) -> None:
        exit_ = worker.core.exit_of(command.instance)
        assert exit_ is not None, "an exit that submits is in progress"
        lost = worker.core.unresolvable(command.instance)
        done = await self._submissions.close(command, exit_.signal, lost=lost)
        if not done.code and not done.is_used:  # else its signal waits for its outcome still
            worker.records.pop(command.signal_id, None)
        self.post(worker.key, done)

    async def _post_done(
        self, worker: _Worker, submit: Callable[[*Given], Awaitable[m.CoreEvent]], *given: *Given
    ) -> None:
        self.post(worker.key, await submit(*given))

    async def _move_stop(self, command: m.MoveStop) -> None:
        """Move a stop to break-even, as of the venue's time of the execution: new legs meet later bars alone."""
        ledger, executed_ns = self._context.ledger, None
        with suppress(OutageError):  # the stop is moved without PostgreSQL, too
            executed_ns = await ledger.store.first_fill_ns(command.leg) if command.leg else None
        at_ns = self._clock.now_ns() if executed_ns is None else executed_ns
        moved = e.StopMoved(**ledger.stamp("break-even"), stop_loss=command.stop_loss, bar_ns=at_ns)
        await ledger.apply(command.client_order_id, moved)

    async def _read_entries(self, worker: _Worker, command: m.ReadEntries) -> None:
        ledger = self._context.ledger
        account_id, venue, symbol = worker.key
        entries = await ledger.patiently(
            lambda: ledger.store.entries_of(account_id, venue, symbol, command.instance, command.held)
        )
        legs = await ledger.patiently(lambda: ledger.store.legs([entry.client_order_id for entry in entries]))
        plans = await ledger.patiently(lambda: ledger.store.plans(entries))
        self.post(worker.key, m.EntriesRead(command.instance, tuple(entries), tuple(legs), plans))

    async def _read_closes(self, worker: _Worker, parent: Order) -> None:
        made = await self._venue_orders.closes_of(parent)
        for report in made or ():
            await self._context.ledger.report(report)
        self.post(worker.key, m.ClosesRead(parent.client_order_id, None if made is None else parent.filled))

    # ── facts ────────────────────────────────────────────────────────────────────────────────────
    def facts(self, key: PositionKey) -> m.Facts:
        """Return what the key's core needs to know now."""
        account_id, venue, symbol = key
        cache = self._cache
        kills, by_instance = cache.kills.over(venue, account_id), self._instance_kills(key)
        status = cache.venues.get(venue)
        if status is None or status.account_id != account_id:  # nothing of another account is known, or sold, here
            return m.Facts(
                can_commit=self._context.can_commit,
                kill=kills.mode,
                instance_kills=by_instance,
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
            kill=kills.mode,
            kill_id=kills.closing_id,
            instance_kills=by_instance,
            is_connected=status.is_connected,
            has_positions=status.has_positions,
            was_ready=status.ready_times > 0 or bool(status.refusal),
            has_oco=status.capabilities.has_oco,
            can_amend=status.capabilities.can_amend,
            can_replace=status.capabilities.can_replace,
            can_reprice=status.capabilities.can_reprice,
            can_short=status.capabilities.can_short,
            closes_fills=status.capabilities.closes_fills,
            keeps_bracket=status.capabilities.keeps_bracket,
            closes_on_kill=venue in self._flattened_here or self._closes_for_bridge(venue, kills),
            is_tape=self._tape_venues,
            exchange_now_ns=now_ns + int((status.skew_ms or 0.0) * 1e6),
            instruments=instruments,
            marks=marks,
            averages=cache.averages(key),
            base_balance=cache.most_balance(venue, base),
            owned_elsewhere=cache.owned_elsewhere(key, base),
            split_ns=cache.split_ns(key, now_ns),
            fee_rate=self._context.settings.costs.fee_rate,
            lists_over=cache.lists_over,
        )

    def _closes_for_bridge(self, venue: str, kills: Kills) -> bool:
        """Return whether kills are carried out here although the guardian has a session: a bridge flattens all of its
        group or nothing, so it is asked in a kill of the whole system alone."""
        is_whole = any(kill.scope.is_system and kill.mode is KillMode.FLATTEN for kill in kills)
        return not is_whole and bool(self._cache.kills) and platform_of(venue) is not None

    def _instance_kills(self, key: PositionKey) -> Mapping[str, tuple[KillMode, str]]:
        """Return the kills of instances that a kill of a strategy concerns, together with those of the key."""
        account_id, venue, _ = key
        named = {kill.scope.name for kill in self._cache.kills if kill.scope.kind is ScopeKind.STRATEGY}
        concerned = named | {i.id for i in self._cache.instances.values() if named and i.strategy in named}
        concerned |= {PREFIX + name for name in concerned}
        kills = {name: self._cache.kills_over(venue, account_id, name) for name in concerned}
        return {name: (of.mode, of.closing_id) for name, of in kills.items()}


def _condition(key: PositionKey, command: m.RaiseAlert | m.EndAlert) -> str:
    """Return the name of the condition that an alert is about."""
    return "|".join((command.event, str(key[0]), key[1], key[2], command.instance))
