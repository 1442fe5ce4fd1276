"""Exits: end what is on its way in, end what protects, prove both, then close what is really held.

An exit is never denied for anything but the rows of peers.md §5 that say so, and never expires: what cannot be done yet
is done at the next pass. A close that the venue refused for a passing reason is decided again under the next generation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.execution.announcer import Announcer
from fks.execution.book import Book, Place
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.model.codes import Code
from fks.model.errors import OutageError
from fks.model.order import OPEN, Order, Request, Role, Side, State
from fks.model.ports import Lease, Log, Meter
from fks.model.signal import SignalState
from fks.orders.build import order_of
from fks.risk.check import Approved, Denied, check
from fks.risk.intent import Intent, intend_exit
from fks.store.signals import SignalRecord, SignalStore

#: refusals that prove nothing about the order itself: the next generation may pass
PASSING = frozenset({"VENUE_DOWN", "RATE_VENUE", "NOT_LEADER", "KILLED", "-1021", "-1003", "-1015", "429", "418"})
#: our own noes that pass by themselves: the exit waits instead of being denied
_WAIT_FOR = frozenset({Code.NOT_LEADER, Code.JOURNAL_DOWN, Code.VENUE_DOWN, Code.INSTRUMENT_UNKNOWN, Code.INSTRUMENT_HALTED})
_ENDED_S = 5.0
_GENERATIONS_MAX = 5
_RETRY_S = 0.5
_HOPELESS_S = 60.0
_LEGS = (Role.STOP_LOSS, Role.TAKE_PROFIT)


class Exits:
    """Decides EXIT signals. `rearm` is called for an instance whose position may still need its protection."""

    def __init__(
        self, signals: SignalStore, book: Book, ledger: Ledger, sender: Sender, clock: Clock, lease: Lease,
        *, meter: Meter, log: Log, announcer: Announcer,
        refresh_balances: Callable[[str], Awaitable[None]], rearm: Callable[[Place, str], None],
        deny: Callable[[SignalRecord, Denied], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._signals = signals
        self._book = book
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._lease = lease
        self._meter = meter
        self._log = log
        self._announcer = announcer
        self._refresh_balances = refresh_balances
        self._rearm = rearm
        self._deny = deny

    async def decide(self, record: SignalRecord, started_s: float) -> bool:
        """Give an EXIT signal its outcome; False when that has to wait. Called under the place's deciding lock."""
        signal = record.signal
        place, instance = (signal.account_id, signal.venue, signal.symbol), signal.instance
        status = self._book.venues[signal.venue]
        if not status.has_positions or not status.is_connected:
            return False
        key = (place, instance)
        self._book.exiting.add(key)
        if not await self.clear_the_way(place, instance):
            return False
        is_over = await self._close(record, started_s)
        if is_over:
            self._book.exiting.discard(key)
            self._rearm(place, instance)
        return is_over

    async def clear_the_way(self, place: Place, instance: str) -> bool:
        """End the instance's entries and protections at a place; False when that is not proven yet."""
        theirs = [
            order
            for order in self._book.open_at(place)
            if order.instance == instance and order.role in (Role.ENTRY, *_LEGS) and order.state in OPEN
            and not self._is_hopeless(order)
        ]  # fmt: skip
        groups: set[str] = set()
        for order in theirs:
            if order.group_id is not None and order.group_id in groups:
                self._sender.ask(order.client_order_id, is_forced=True)  # ends with its sibling, at the venue
                continue
            if order.group_id is not None:
                groups.add(order.group_id)
            if order.request is Request.NONE:
                await self._sender.cancel(order.client_order_id, by="", reason="exit")
        # leaving memory proves both: it ended, and all its executions are booked
        return await self._book.wait_until([order.client_order_id for order in theirs], lambda order: False, _ENDED_S)

    def _is_hopeless(self, order: Order) -> bool:
        """Return whether waiting for the order's end may take for ever: a person was paged, what is known is closed now."""
        age_s = (self._clock.now_ns() - (order.sent_ns or order.created_ns)) / 1e9
        return order.state is State.UNKNOWN and order.is_acknowledged and age_s > _HOPELESS_S

    async def _close(self, record: SignalRecord, started_s: float) -> bool:
        signal = record.signal
        instrument = self._book.instruments.get((signal.exchange, signal.symbol))
        if instrument is None:
            return False
        intent = intend_exit(signal, position=self._held(record), instrument=instrument)
        if intent is None:
            await self._nothing(record)
            return True
        verdict = self._check(intent)
        if isinstance(verdict, Denied):
            if verdict.denial.code in _WAIT_FOR:
                return False
            if verdict.denial.code is Code.QTY_MIN:
                await self._nothing(record)
                return True
            await self._deny(record, verdict)
            return True
        order = order_of(verdict, epoch=self._lease.epoch, now_ns=self._clock.now_ns())
        self._book.put(replace(order, state=State.SENDING))
        placed = await self._sender.place([order], sent=1, signal_id=signal.id)
        if placed.is_killed:
            self._book.is_killed = True
            return False  # decided again at once, and denied then: the guardian closes
        if order.client_order_id not in placed.placed:
            return True
        self._meter.count("fks_signals_total", state=SignalState.ORDERED.value)
        self._announcer.signal(record, SignalState.ORDERED)
        after = await self._sender.send(self._book.orders[order.client_order_id], started_s=started_s)
        await self._insist(record, after)
        return True

    async def _insist(self, record: SignalRecord, after: Order | None) -> None:
        """Close again, under the next generation, what the venue refused for a reason that passes or for our quantity."""
        generation = 0
        while after is not None and after.state is State.REJECTED and generation < _GENERATIONS_MAX:
            is_short = "insufficient" in (after.detail or "").lower()
            if after.code not in PASSING and not is_short:
                break
            await self._clock.sleep(_RETRY_S * 2**generation)
            generation += 1
            after = await self._close_again(record, generation, is_short=is_short)
        if after is not None and after.state is State.REJECTED:
            self._announcer.alert(
                "page", "exit.rejected", f"the exit of {after.symbol} was refused: {after.code} {after.detail}",
                client_order_id=after.client_order_id, symbol=after.symbol, instance=after.instance,
            )  # fmt: skip

    async def close_again(self, order: Order) -> None:
        """Close what an exit of unknown outcome proved not to have closed: it ended, and its instance still holds."""
        signal_id = order.signal_id
        if signal_id is None or order.generation >= _GENERATIONS_MAX or self._book.is_killed:
            return
        record = await self._ledger.patiently(lambda: self._signals.get(signal_id))
        if record is None:
            return
        place, instance = (order.account_id, order.venue, order.symbol), order.instance
        self._book.exiting.add((place, instance))
        try:
            async with self._book.deciding(place):
                if await self.clear_the_way(place, instance):
                    await self._close_again(record, order.generation + 1, is_short=False)
        finally:
            self._book.exiting.discard((place, instance))
            self._rearm(place, instance)

    async def _close_again(self, record: SignalRecord, generation: int, *, is_short: bool) -> Order | None:
        signal = record.signal
        instrument = self._book.instruments[signal.exchange, signal.symbol]
        held = self._held(record)
        if is_short:
            try:
                await self._refresh_balances(signal.venue)
            except OutageError:
                return None
            balance = self._book.balances.get(signal.venue, {}).get(instrument.base)
            held = min(held, balance.free) if balance is not None and held > 0 else held
        intent = intend_exit(signal, position=held, instrument=instrument, generation=generation)
        if intent is None or isinstance(verdict := self._check(intent), Denied):
            return None
        order = order_of(verdict, epoch=self._lease.epoch, now_ns=self._clock.now_ns())
        self._book.put(replace(order, state=State.SENDING))
        placed = await self._sender.place([order], sent=1, signal_id=None)
        if order.client_order_id not in placed.placed:
            return None
        return await self._sender.send(self._book.orders[order.client_order_id])

    def _held(self, record: SignalRecord) -> Decimal:
        """Return what the instance holds (signed) beyond what other orders of its own are closing already."""
        signal = record.signal
        held = self._book.position(signal.account_id, signal.venue, signal.symbol, signal.instance).quantity
        return held + closing(self._book, (signal.account_id, signal.venue, signal.symbol), signal.instance, held)

    def _check(self, intent: Intent) -> Approved | Denied:
        view = self._book.view(
            intent, now_ns=self._clock.now_ns(), monotonic_s=self._clock.monotonic(), is_leader=self._lease.holds()
        )
        return check(intent, view)

    async def _nothing(self, record: SignalRecord) -> None:
        state = SignalState.NOTHING
        is_mine = await self._ledger.patiently(
            lambda: self._signals.finish(
                record.signal.id, state, now_ns=self._clock.now_ns(), detail="nothing is held that an order could close"
            )
        )
        if is_mine:
            self._meter.count("fks_signals_total", state=state.value)
            self._announcer.signal(record, state)


def closing(book: Book, place: Place, instance: str, held: Decimal) -> Decimal:
    """Return what open exits (and a person's closing orders) will still change the position by, towards zero."""
    away = Side.SELL if held > 0 else Side.BUY
    still = sum(
        (
            order.remaining
            for order in book.open_at(place)
            if order.instance == instance and order.side is away and order.role in (Role.EXIT, Role.KILL, Role.ORDER)
        ),
        Decimal(0),
    )
    return away.sign * min(still, abs(held))
