"""Signals to orders: each gets exactly one outcome, in the order they came within a place, places beside each other.

There is no claimed state: a signal is `ready` until the one statement that writes its outcome, so whatever dies on the
way leaves it where it was. A signal that cannot be decided yet (an exit whose protections are still being cancelled) is
left for the next pass, and so are the later ones of its instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.execution.announcer import Announcer
from fks.execution.book import Book, Place
from fks.execution.exits import Exits
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.execution.timing import Tasks
from fks.model.codes import Code, Denial
from fks.model.errors import InputError
from fks.model.order import Order, Role, State
from fks.model.ports import Lease, Log, Meter
from fks.model.signal import Kind, Signal, SignalState
from fks.orders import events as e
from fks.orders.build import denial_text, denied_order, legs_of, order_of
from fks.orders.machine import begin
from fks.risk.check import Approved, Denied, check
from fks.risk.intent import Intent, intend_entry, intend_order
from fks.store.orders import EventRow
from fks.store.signals import SignalRecord, SignalStore

_BATCH = 500
_POLL_S = 1.0
_FIRST_SYNC_S = 5.0  # how long signals wait for a venue's first reconciliation after a start, before they are denied
_ZERO = Decimal(0)


class Intake:
    """Reads ready signals and decides them. Soft state: which places are being worked on."""

    def __init__(
        self, signals: SignalStore, book: Book, ledger: Ledger, sender: Sender, exits: Exits, clock: Clock, lease: Lease,
        *, meter: Meter, log: Log, announcer: Announcer, tasks: Tasks,
        refresh_balances: Callable[[str], Awaitable[None]], prepare: Callable[[Signal], Awaitable[None]],
        rearm: Callable[[Place, str], None],
    ) -> None:  # fmt: skip
        self._signals = signals
        self._book = book
        self._ledger = ledger
        self._sender = sender
        self._exits = exits
        self._clock = clock
        self._lease = lease
        self._meter = meter
        self._log = log
        self._announcer = announcer
        self._tasks = tasks
        self._refresh_balances = refresh_balances
        self._prepare = prepare
        self._rearm = rearm
        self._busy: set[Place] = set()
        self._missed: set[Place] = set()  # signals were seen there while it was busy
        self._waiting: dict[Place, int] = {}
        self._wake = asyncio.Event()
        self._started_s = clock.monotonic()

    def wake(self) -> None:
        """Look for signals now instead of at the next poll."""
        self._wake.set()

    def wake_for(self, place: Place) -> None:
        """Look again at signals that waited for something at a place; nothing when none does."""
        if self._waiting.get(place):
            self._wake.set()

    async def run(self) -> None:
        """Decide signals for ever. While the lease or the journal is gone, they wait where they are."""
        self._started_s = self._clock.monotonic()
        while True:
            self._wake.clear()
            if self._lease.holds() and self._book.is_journal_up:
                await self._pass()
            waiter = asyncio.ensure_future(self._wake.wait())
            sleeper = asyncio.ensure_future(self._clock.sleep(_POLL_S))
            try:
                await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
                sleeper.cancel()

    async def _pass(self) -> None:
        records = await self._ledger.patiently(lambda: self._signals.ready(list(self._book.venues), _BATCH))
        batches: dict[Place, list[SignalRecord]] = {}
        for record in records:
            signal = record.signal
            batches.setdefault((signal.account_id, signal.venue, signal.symbol), []).append(record)
        for place, batch in batches.items():
            if place in self._busy:
                self._missed.add(place)
            else:
                self._busy.add(place)
                self._tasks.spawn(self._work(place, batch), f"signals {place[2]}")

    async def _work(self, place: Place, batch: Sequence[SignalRecord]) -> None:
        waiting, held = set[str](), 0
        try:
            for record in batch:
                if record.signal.instance in waiting:
                    held += 1
                    continue
                await self._prepare(record.signal)
                async with self._book.deciding(place):
                    if not await self._decide(record):
                        waiting.add(record.signal.instance)
                        held += 1
        finally:
            self._busy.discard(place)
        self._waiting[place] = len(waiting)
        self._book.held[place] = held, self._clock.monotonic()
        if place in self._missed:
            self._missed.discard(place)
            self.wake()

    # ── deciding ─────────────────────────────────────────────────────────────────────────────────
    async def _decide(self, record: SignalRecord) -> bool:
        """Give a signal its outcome; False when that has to wait."""
        signal, started_s = record.signal, self._clock.monotonic()
        status = self._book.venues[signal.venue]
        if status.ready_times == 0 and started_s - self._started_s < _FIRST_SYNC_S:
            return False
        if signal.kind is Kind.EXIT or (signal.kind is Kind.TARGET and signal.size == 0):
            return await self._exits.decide(record, started_s)
        if signal.valid_until_ns is not None and self._clock.now_ns() > signal.valid_until_ns:
            await self._finish(record, SignalState.EXPIRED, Code.SIGNAL_EXPIRED, "its time was over before it could be used")
            return True
        await self._enter(record, started_s)
        return True

    async def _enter(self, record: SignalRecord, started_s: float) -> None:
        signal = record.signal
        try:
            intended = self._intend(signal)
            verdict = intended if isinstance(intended, Denied) else self._check(intended)
        except ArithmeticError as error:  # its numbers lie outside any grid: one wish must not end the order manager
            intended = _denied(
                intend_order(signal), Code.QTY_MAX, "numbers to reckon with", type(error).__name__, "use smaller numbers"
            )
        if isinstance(intended, Denied):
            await self._deny(record, intended)
            return
        if isinstance(verdict, Denied) and verdict.denial.code is Code.BALANCE:
            await self._refresh_balances(signal.venue)  # what we believe may be a fill behind: look once
            verdict = self._check(intended)
        place, is_clearing = (signal.account_id, signal.venue, signal.symbol), False
        if isinstance(verdict, Denied) and self._is_in_its_own_way(intended, verdict):
            is_clearing = True
            self._book.exiting.add((place, signal.instance))
            if await self._exits.clear_the_way(place, signal.instance):
                verdict = self._check(intended)
        try:
            await self._carry_out(record, intended, verdict, started_s)
        finally:
            if is_clearing:
                self._book.exiting.discard((place, signal.instance))
                self._rearm(place, signal.instance)

    def _is_in_its_own_way(self, intent: Intent, denied: Denied) -> bool:
        """Return whether a person closes what only its own SL and TP hold back: those go first, as for any exit."""
        held = self._book.position(intent.account_id, intent.venue, intent.symbol, intent.instance).quantity
        return (
            intent.role is Role.ORDER and denied.denial.code in (Code.SHORT_FORBIDDEN, Code.BALANCE)
            and held * intent.side.sign < 0 and intent.quantity <= abs(held)
        )  # fmt: skip

    async def _carry_out(
        self, record: SignalRecord, intended: Intent, verdict: Approved | Denied, started_s: float
    ) -> None:
        signal = record.signal
        if isinstance(verdict, Denied):
            await self._deny(record, verdict)
            return
        order, legs = self._reserve(verdict)
        is_exempt = verdict.intent.is_by_person and verdict.is_reduce_only
        placed = await self._sender.place([order, *legs], sent=1, signal_id=signal.id, is_exempt=is_exempt)
        if placed.is_killed:
            self._book.is_killed = True
            await self._deny(record, _as_denied(self._check(intended), intended))
            return
        if order.client_order_id not in placed.placed:
            return  # it had its outcome already
        self._tell(record, SignalState.ORDERED, None)
        begun = self._book.orders[order.client_order_id]
        await self._sender.send(begun, started_s=started_s)

    def _intend(self, signal: Signal) -> Intent | Denied:
        """Size a signal; what cannot be sized is denied with what is missing."""
        instrument = self._book.instruments.get((signal.exchange, signal.symbol))
        if signal.kind is Kind.ORDER or instrument is None or signal.kind is Kind.TARGET:
            intent = intend_order(signal)
            if signal.kind is Kind.TARGET:
                return _denied(intent, Code.TYPE_UNSUPPORTED, "enter, exit, order", "target", "send enter and exit")
            return intent
        instance = self._book.instances.get(signal.instance)
        price = self._book.mark(signal.exchange, signal.symbol)
        sizing, size = ("notional", _ZERO) if instance is None else (instance.sizing, instance.size)
        try:
            return intend_entry(signal, sizing=sizing, size=size, instrument=instrument, price=price)
        except InputError as error:
            return _denied(intend_order(signal), Code.PRICE_MISSING, "a reference price", str(error), "wait for a price")

    def _check(self, intent: Intent) -> Approved | Denied:
        view = self._book.view(
            intent, now_ns=self._clock.now_ns(), monotonic_s=self._clock.monotonic(), is_leader=self._lease.holds()
        )
        return check(intent, view)

    def _reserve(self, approved: Approved) -> tuple[Order, list[Order]]:
        """Put the order into the book as if it were sent: nothing else may spend its money while it is committed."""
        now_ns = self._clock.now_ns()
        order = order_of(approved, epoch=self._lease.epoch, now_ns=now_ns)
        legs = legs_of(order, quantity=order.quantity, generation=0, epoch=self._lease.epoch, now_ns=now_ns)
        self._book.put(replace(order, state=State.SENDING))
        return order, legs

    # ── outcomes ─────────────────────────────────────────────────────────────────────────────────
    async def _deny(self, record: SignalRecord, denied: Denied) -> None:
        await deny(
            record, denied, self._ledger, self._clock, self._lease,
            meter=self._meter, log=self._log, announcer=self._announcer,
        )  # fmt: skip

    async def _finish(self, record: SignalRecord, state: SignalState, code: Code | None, detail: str) -> None:
        is_mine = await self._ledger.patiently(
            lambda: self._signals.finish(record.signal.id, state, now_ns=self._clock.now_ns(), code=code, detail=detail)
        )
        if is_mine:
            self._tell(record, state, code)

    def _tell(self, record: SignalRecord, state: SignalState, code: Code | None) -> None:
        self._meter.count("fks_signals_total", state=state.value)
        self._announcer.signal(record, state, None if code is None else code.value)


async def deny(
    record: SignalRecord, denied: Denied, ledger: Ledger, clock: Clock, lease: Lease,
    *, meter: Meter, log: Log, announcer: Announcer,
) -> None:
    """Keep our own no: an order row in DENIED with the code, and the signal's outcome, in one statement."""
    now_ns, denial = clock.now_ns(), denied.denial
    event = e.Denied(**ledger.stamp("deny"), code=denial.code.value, detail=denial_text(denial))
    order = begin(denied_order(denied, epoch=lease.epoch, now_ns=now_ns), event).order
    row = EventRow(
        client_order_id=order.client_order_id, event_id=event.event_id, event="Denied", from_state=None,
        to_state=State.DENIED, source="us", recv_ns=now_ns, epoch=lease.epoch,
        payload={"code": denial.code.value, "limit": denial.limit, "observed": denial.observed, "scope": denial.scope},
    )  # fmt: skip
    await ledger.patiently(lambda: ledger.journal.deny(order, row, signal_id=record.signal.id, now_ns=now_ns))
    meter.count("fks_signals_total", state=SignalState.DENIED.value)
    meter.count("fks_orders_total", state=order.state.value)
    announcer.order(order)
    announcer.signal(record, SignalState.DENIED, denial.code.value)
    meter.count("fks_denials_total", code=denial.code.value)
    log.info(
        "order.denied", client_order_id=order.client_order_id, symbol=order.symbol, code=denial.code.value,
        detail=denial_text(denial), instance=order.instance, trace_id=order.trace_id, epoch=lease.epoch,
    )  # fmt: skip


def _denied(intent: Intent, code: Code, limit: str, observed: str, remedy: str) -> Denied:
    denial = Denial(code, limit, observed, intent.symbol, remedy)
    return Denied(intent, denial, (denial,))


def _as_denied(verdict: Approved | Denied, intent: Intent) -> Denied:
    if isinstance(verdict, Denied):
        return verdict
    return _denied(intent, Code.KILLED, "not engaged", "engaged", "`fks resume` clears it")
