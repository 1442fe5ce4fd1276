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
from fks.execution.timing import Tasks
from fks.model.account import Position
from fks.model.codes import Code
from fks.model.instrument import Instrument
from fks.model.order import OPEN, Order, Request, Role, Side, State
from fks.model.ports import Lease, Log, Meter
from fks.model.signal import Signal, SignalState
from fks.orders.build import order_of
from fks.risk.check import Approved, Denied, check
from fks.risk.intent import Intent, intend_exit
from fks.risk.view import View
from fks.store.signals import SignalRecord, SignalStore

#: refusals that prove nothing about the order itself: the next generation may pass
PASSING = frozenset({"VENUE_DOWN", "RATE_VENUE", "NOT_LEADER", "KILLED", "-1021", "-1003", "-1015", "429", "418"})
#: our own noes that pass by themselves: the exit waits instead of being denied
_WAIT_FOR = frozenset({Code.NOT_LEADER, Code.JOURNAL_DOWN, Code.VENUE_DOWN, Code.INSTRUMENT_UNKNOWN, Code.INSTRUMENT_HALTED})
_ENDED_S = 5.0
_GENERATIONS_MAX = 5
_PASSING_MAX = 40
_RETRY_S, _RETRY_MAX_S = 0.5, 10.0
_HOPELESS_S = 60.0
_LEGS = (Role.STOP_LOSS, Role.TAKE_PROFIT)


class Exits:
    """Decides EXIT signals. `rearm` is called for an instance whose position may still need its protection."""

    def __init__(
        self, signals: SignalStore, book: Book, ledger: Ledger, sender: Sender, clock: Clock, lease: Lease,
        *, meter: Meter, log: Log, announcer: Announcer,
        refresh_balances: Callable[[str], Awaitable[None]], rearm: Callable[[Place, str], None],
        deny: Callable[[SignalRecord, Denied], Awaitable[None]], tasks: Tasks,
    ) -> None:  # fmt: skip
        self._tasks = tasks
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
        intent = intent and self._capped(intent, signal, instrument)
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
            if verdict.denial.code is not Code.KILLED:  # then the guardian closes
                self._announcer.alert(
                    "page", "exit.denied", f"the exit of {signal.symbol} was denied: {verdict.denial}",
                    client_order_id=intent.client_order_id, symbol=signal.symbol, instance=signal.instance,
                )  # fmt: skip
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
        """Close again, under the next generation, what the venue refused for a reason that passes or for our quantity.

        An exit that was decided is not given up because the venue is away: `close_again` waits for it, without the lock.
        """
        while after is not None and after.state is State.REJECTED and self._is_passing(after):
            await self._clock.sleep(min(_RETRY_S * 2**after.generation, _RETRY_MAX_S))
            again = await self._close_again(record, after)
            if isinstance(again, Denied):
                if again.denial.code in _WAIT_FOR:
                    self._tasks.spawn(self.close_again(after), f"close again {after.symbol}")
                else:
                    self._page(after, f"{again.denial.code.value}: {again.denial.observed}")
                return
            after = again
        if after is not None and after.state is State.REJECTED:
            self._page(after, f"{after.code} {after.detail}")

    def _is_passing(self, order: Order) -> bool:
        if order.code in PASSING:
            return order.generation < _PASSING_MAX
        return _is_short(order) and order.generation < _GENERATIONS_MAX

    def _page(self, order: Order, why: str) -> None:
        self._announcer.alert(
            "page", "exit.rejected", f"the exit of {order.symbol} was refused: {why}",
            client_order_id=order.client_order_id, symbol=order.symbol, instance=order.instance,
        )  # fmt: skip

    async def take_up(self, position: Position) -> None:
        """Close what an earlier self was closing when it died: its last word was an exit, and that never took effect."""
        store = self._ledger.store
        last = await self._ledger.patiently(
            lambda: store.last_decision(position.account_id, position.symbol, position.instance)
        )
        if last is None or last.role is not Role.EXIT or last.filled > 0:
            return
        if last.state is State.ABSENT or (last.state is State.REJECTED and self._is_passing(last)):
            await self.close_again(last)

    async def close_again(self, order: Order) -> None:
        """Close what an exit proved not to have closed, as soon as that can be done: its instance still holds it."""
        signal_id = order.signal_id
        if signal_id is None or order.generation >= _PASSING_MAX:
            return
        record = await self._ledger.patiently(lambda: self._signals.get(signal_id))
        if record is None:
            return
        key = ((order.account_id, order.venue, order.symbol), order.instance)
        try:
            while not self._book.is_killed:  # else the guardian closes
                self._book.exiting.add(key)
                async with self._book.deciding(key[0]):
                    if await self._try_again(record, order):
                        return
                await self._clock.sleep(_RETRY_S)
        finally:
            self._book.exiting.discard(key)
            self._rearm(*key)

    async def _try_again(self, record: SignalRecord, order: Order) -> bool:
        """Close what `order` left open; False when that has to wait."""
        if not await self.clear_the_way((order.account_id, order.venue, order.symbol), order.instance):
            return False
        again = await self._close_again(record, order)
        if not isinstance(again, Denied):
            await self._insist(record, again)
            return True
        if again.denial.code not in _WAIT_FOR:
            self._page(order, f"{again.denial.code.value}: {again.denial.observed}")
        return again.denial.code not in _WAIT_FOR

    async def _close_again(self, record: SignalRecord, before: Order) -> Order | Denied | None:
        """Send what `before` left to close; our own no, or None when nothing is left (or a kill was quicker)."""
        signal, generation = record.signal, before.generation + 1
        instrument = self._book.instruments[signal.exchange, signal.symbol]
        held = self._held(record)
        if _is_short(before):
            await self._refresh_balances(signal.venue)
            balance = self._book.balances.get(signal.venue, {}).get(instrument.base)
            held = min(held, balance.free) if balance is not None and held > 0 else held
        # what was bought since is not this exit's to close
        left = before.quantity - before.filled
        held = max(min(held, left), -left)
        intent = intend_exit(signal, position=held, instrument=instrument, generation=generation)
        intent = intent and self._capped(intent, signal, instrument)
        if intent is None:
            return None
        if isinstance(verdict := self._check(intent), Denied):
            return verdict
        order = order_of(verdict, epoch=self._lease.epoch, now_ns=self._clock.now_ns())
        self._book.put(replace(order, state=State.SENDING))
        placed = await self._sender.place([order], sent=1, signal_id=None)
        if order.client_order_id not in placed.placed:
            return None
        return await self._sender.send(self._book.orders[order.client_order_id])

    def _capped(self, intent: Intent, signal: Signal, instrument: Instrument) -> Intent | None:
        """Return the intent over at most what the account holds: a person may have sold what the instance bought."""
        view = self._view(intent)
        if view.venue.capabilities.can_short or intent.side is not Side.SELL or intent.quantity <= view.held:
            return intent
        return intend_exit(signal, position=max(view.held, Decimal(0)), instrument=instrument, generation=intent.generation)

    def _held(self, record: SignalRecord) -> Decimal:
        """Return what the instance holds (signed) beyond what other orders of its own are closing already."""
        signal = record.signal
        held = self._book.position(signal.account_id, signal.venue, signal.symbol, signal.instance).quantity
        return held + closing(self._book, (signal.account_id, signal.venue, signal.symbol), signal.instance, held)

    def _check(self, intent: Intent) -> Approved | Denied:
        return check(intent, self._view(intent))

    def _view(self, intent: Intent) -> View:
        """Return what the checks see: without legs of its own whose end nobody will ever tell us."""
        view = self._book.view(
            intent, now_ns=self._clock.now_ns(), monotonic_s=self._clock.monotonic(), is_leader=self._lease.holds()
        )
        place, instance = (intent.account_id, intent.venue, intent.symbol), intent.instance
        lost = {o.client_order_id for o in self._book.open_at(place) if o.instance == instance and self._is_hopeless(o)}
        if not lost:
            return view
        return replace(view, open_orders=tuple(o for o in view.open_orders if o.client_order_id not in lost))

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


def _is_short(order: Order) -> bool:
    return "insufficient" in (order.detail or "").lower()
