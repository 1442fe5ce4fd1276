"""The armer: keeps what protects a position equal to the position, after every fill and every restart (C6).

It reads the journal each time it runs, so it has no state of its own that a crash could lose; what it decides is
`fks.orders.protection`. It runs under the place's deciding lock and never while the instance is on its way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.execution.announcer import Announcer
from fks.execution.book import Book, Place
from fks.execution.exits import PASSING, closing
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.execution.timing import Tasks
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.order import LIVE, OPEN, Order, Role, State
from fks.model.ports import Lease, Venue
from fks.orders import events as e
from fks.orders.build import group_of, legs_of, market_leg
from fks.orders.protection import Mend, Want, mend, next_generation, wanted, wanted_roles

_ENDED_S = 5.0
_STEPS_MAX = 8  # of one run; what is not right then is looked at again a moment later
_RETRY_S = 1.0
_NAKED_S = 5.0
_FAILURES_MAX = 4
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.2, 5.0
Key = tuple[Place, str]


class Armer:
    """Mends protections. Soft state: which instances wait for a look, and since when one is naked."""

    def __init__(
        self, venues: Mapping[str, Venue], book: Book, ledger: Ledger, sender: Sender, clock: Clock, lease: Lease,
        *, announcer: Announcer, tasks: Tasks,
    ) -> None:  # fmt: skip
        self._venues = venues
        self._book = book
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._lease = lease
        self._announcer = announcer
        self._tasks = tasks
        self._guarded: set[Key] = set()
        self._dirty: set[Key] = set()
        self._running: set[Key] = set()
        self._naked_since: dict[str, float] = {}
        self._told: set[str] = set()
        self._failures: dict[str, int] = {}
        self._pauses: dict[str, tuple[float, float]] = {}  # parent -> until when, and how long

    def note(self, order: Order) -> None:
        """Look at the protections that an order's change may concern: nothing for who never had any."""
        key = ((order.account_id, order.venue, order.symbol), order.instance)
        if order.parent_id is not None or order.stop_loss is not None or order.take_profit is not None:
            self._guarded.add(key)
        if key in self._guarded:
            self.wake(*key)

    def wake(self, place: Place, instance: str) -> None:
        """Look at an instance's protections soon."""
        key = (place, instance)
        self._dirty.add(key)
        if key not in self._running:
            self._running.add(key)
            self._tasks.spawn(self._work(key), f"protect {place[2]} {instance}")

    async def look_at_all(self, venue: str) -> None:
        """Mend every instance of a venue that holds something or has legs, before entries open there."""
        keys = {((a, v, s), i) for (a, v, s, i), p in self._book.positions.items() if v == venue and p.quantity != 0}
        for order in self._book.orders.values():
            if order.venue == venue and order.parent_id is not None:
                keys.add(((order.account_id, order.venue, order.symbol), order.instance))
        await asyncio.gather(*(self._look(place, instance) for place, instance in sorted(keys)))

    async def _look(self, place: Place, instance: str) -> None:
        async with self._book.deciding(place):
            is_done = await self._mend(place, instance)
        if not is_done:
            self._tasks.spawn(self._again((place, instance)), "protect again")

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits for a look."""
        return not self._dirty and not self._running

    async def _work(self, key: Key) -> None:
        is_done = True
        try:
            while key in self._dirty:
                self._dirty.discard(key)
                async with self._book.deciding(key[0]):
                    is_done = await self._mend(*key)
        finally:
            self._running.discard(key)
        if not is_done:
            self._tasks.spawn(self._again(key), "protect again")

    async def _again(self, key: Key) -> None:
        await self._clock.sleep(_RETRY_S)
        self.wake(*key)

    # ── one look ─────────────────────────────────────────────────────────────────────────────────
    async def _mend(self, place: Place, instance: str) -> bool:
        """Bring the legs of one instance in line with its position; False when that needs another look."""
        status = self._book.venues[place[1]]
        is_blind = not status.has_positions or not status.is_connected
        if (place, instance) in self._book.exiting or self._book.is_killed or is_blind:
            return True  # the exit, the resume and the reconciliation wake us again
        store, is_done = self._ledger.store, True
        entries = await self._ledger.patiently(lambda: store.guarded(place[0], place[2], instance))
        for parent in await self._parents(place, instance, entries):
            self._guarded.add((place, instance))
            is_done = await self._mend_one(place, parent, entries) and is_done
        return is_done

    async def _parents(self, place: Place, instance: str, entries: Sequence[Order]) -> list[Order]:
        """Return the orders whose legs may need mending: those the position is made of, and those that have open legs."""
        with_legs = {
            order.parent_id
            for order in self._book.open_at(place)
            if order.instance == instance and order.parent_id is not None
        }
        wants = self._wanted(place, instance, entries)
        parents = [w.parent for w in wants if w.quantity > 0 or w.parent.client_order_id in with_legs]
        for parent_id in sorted(with_legs - {parent.client_order_id for parent in parents}):
            if (parent := await self._ledger.find(parent_id)) is not None:
                parents.append(parent)
        # first those whose legs live, which can only shrink now: what they free is what a newer entry's legs lock
        living = {order.parent_id for order in self._book.open_at(place) if order.state in LIVE}
        return sorted(parents, key=lambda parent: parent.client_order_id not in living)

    def _wanted(self, place: Place, instance: str, entries: Sequence[Order]) -> list[Want]:
        """Return what the entries want of the position as memory has it now. No await: it must fit what was read with it."""
        instrument = self._book.instruments.get((entries[0].exchange, place[2])) if entries else None
        if instrument is None:
            return []
        held = self._book.position(*place, instance).quantity
        known = [self._book.recall(entry.client_order_id) or entry for entry in entries]
        return wanted(held + closing(self._book, place, instance, held), known, instrument)

    async def _mend_one(self, place: Place, parent: Order, entries: Sequence[Order]) -> bool:
        store, name = self._ledger.store, parent.client_order_id
        has_oco = self._book.venues[place[1]].capabilities.has_oco
        for _ in range(_STEPS_MAX):
            rows = await self._ledger.patiently(lambda: store.legs([name]))
            # what memory knows goes with the position that memory knows: the rows may be a fill ahead of it
            legs = [self._book.recall(row.client_order_id) or row for row in rows]
            now = self._wanted(place, parent.instance, entries)
            other = Want(self._book.recall(name) or parent, Decimal(0))
            want = next((w for w in now if w.parent.client_order_id == name), other)
            what, about = mend(want, legs, has_oco=has_oco)
            if what in (Mend.NOTHING, Mend.WAIT):
                self._note_covered(want)
                return True
            if what is Mend.ABANDON:
                for leg in about:
                    event = e.Abandoned(**self._ledger.stamp("abandon"), reason="nothing left to protect")
                    await self._ledger.apply(leg.client_order_id, event)
            elif what is Mend.CANCEL:
                if not await self._cancel(about):
                    return False
            elif not await self._arm(want, about, legs):
                return False
        return False

    async def _cancel(self, legs: Sequence[Order]) -> bool:
        """End live legs and prove it; the sibling of an OCO ends with its leg."""
        groups: set[str] = set()
        for leg in legs:
            if leg.group_id is not None and leg.group_id in groups:
                self._sender.ask(leg.client_order_id, is_forced=True)
                continue
            if leg.group_id is not None:
                groups.add(leg.group_id)
            await self._sender.cancel(leg.client_order_id, by="", reason="protection")
        return await self._book.wait_until([leg.client_order_id for leg in legs], lambda order: False, _ENDED_S)

    # ── arming ───────────────────────────────────────────────────────────────────────────────────
    async def _arm(self, want: Want, waiting: Sequence[Order], legs: Sequence[Order]) -> bool:
        """Send the legs that wait, or a new generation; False when another look is due later."""
        parent = want.parent
        instrument = self._book.instruments[parent.exchange, parent.symbol]
        if not _can_rest(want, instrument):
            self._tell_once(parent, "position.unprotectable", "what is held is below the venue's minimum", "warning")
            return True
        if self._clock.monotonic() < self._pauses.get(parent.client_order_id, (0.0, 0.0))[0]:
            return False
        if self._failures.get(parent.client_order_id, 0) >= _FAILURES_MAX:
            self._tell_once(parent, "position.naked", "the venue refused its protection again and again", "page")
            return True
        rejected = [leg for leg in legs if leg.state is State.REJECTED]
        past = await self._past(parent) if rejected else None
        if past is not None:
            sent = await self._send_new([market_leg(
                parent, role=past, quantity=want.quantity, generation=next_generation(legs), epoch=self._lease.epoch,
                now_ns=self._clock.now_ns(),
            )])  # fmt: skip
        elif waiting:
            sent = await self._send_waiting(want, waiting)
        else:
            roles = wanted_roles(parent, has_oco=self._book.venues[parent.venue].capabilities.has_oco)
            fresh = legs_of(
                parent, quantity=want.quantity, generation=next_generation(legs), epoch=self._lease.epoch,
                now_ns=self._clock.now_ns(),
            )  # fmt: skip
            sent = await self._send_new([leg for leg in fresh if leg.role in roles])
        refused = [leg for leg in sent if leg is not None and leg.state is State.REJECTED]
        if refused:
            self._note_naked(want)
            if all(leg.code in PASSING for leg in refused):
                # nobody looked at the order: the venue, or our right to send, was away for a moment
                _, last_s = self._pauses.get(parent.client_order_id, (0.0, 0.0))
                pause_s = min(max(last_s * 2, _PAUSE_FIRST_S), _PAUSE_MAX_S)
                self._pauses[parent.client_order_id] = (self._clock.monotonic() + pause_s, pause_s)
                return False
            self._failures[parent.client_order_id] = self._failures.get(parent.client_order_id, 0) + 1
        return True

    async def _send_waiting(self, want: Want, legs: Sequence[Order]) -> list[Order | None]:
        group = group_of(want.parent, legs[0].generation) if self._is_oco(legs) else None
        pairs: list[tuple[str, e.Event]] = [
            (leg.client_order_id, e.Sent(**self._ledger.stamp("send"), quantity=want.quantity, group_id=group))
            for leg in legs
        ]
        return await self._send(await self._ledger.apply_together(pairs))

    async def _send_new(self, legs: Sequence[Order]) -> list[Order | None]:
        if self._is_oco(legs):
            parent = await self._ledger.find(legs[0].parent_id or "")
            assert parent is not None
            legs = [replace(leg, group_id=group_of(parent, leg.generation)) for leg in legs]
        for leg in legs:
            self._book.put(replace(leg, state=State.SENDING))
        placed = await self._sender.place(legs, sent=len(legs), signal_id=None)
        if placed.is_killed:
            self._book.is_killed = True
        return await self._send([self._book.orders[i] for i in placed.placed if i in self._book.orders])

    async def _send(self, legs: Sequence[Order]) -> list[Order | None]:
        stops = [leg for leg in legs if leg.role is Role.STOP_LOSS]
        limits = [leg for leg in legs if leg.role is Role.TAKE_PROFIT]
        if stops and limits and self._is_oco(legs):
            await self._sender.send_oco(stops[0], limits[0])
            return [await self._ledger.find(leg.client_order_id) for leg in legs]
        return [await self._sender.send(leg) for leg in legs]

    def _is_oco(self, legs: Sequence[Order]) -> bool:
        both = {leg.role for leg in legs} == {Role.STOP_LOSS, Role.TAKE_PROFIT}
        return both and self._book.venues[legs[0].venue].capabilities.has_oco

    async def _past(self, parent: Order) -> Role | None:
        """Return the leg whose price the market has passed already: resting there is impossible, so it is closed now."""
        try:
            price = await self._venues[parent.venue].last_price(parent.symbol)
        except OutageError:
            price = None
        price = price or self._book.mark(parent.exchange, parent.symbol)
        if price is None:
            return None
        sign = parent.side.sign
        if parent.stop_loss is not None and (price - parent.stop_loss) * sign <= 0:
            return Role.STOP_LOSS
        if parent.take_profit is not None and (price - parent.take_profit) * sign >= 0:
            return Role.TAKE_PROFIT
        return None

    # ── telling ──────────────────────────────────────────────────────────────────────────────────
    def _note_covered(self, want: Want) -> None:
        name = want.parent.client_order_id
        if want.quantity == 0 and want.parent.state not in OPEN:
            self._failures.pop(name, None)
            self._told.discard(name)
        self._naked_since.pop(name, None)
        self._pauses.pop(name, None)

    def _note_naked(self, want: Want) -> None:
        name, now = want.parent.client_order_id, self._clock.monotonic()
        if now - self._naked_since.setdefault(name, now) > _NAKED_S:
            self._tell_once(want.parent, "position.naked", "a position has had no protection for 5 s", "page")

    def _tell_once(self, parent: Order, event: str, message: str, severity: str) -> None:
        if parent.client_order_id not in self._told:
            self._told.add(parent.client_order_id)
            self._announcer.alert(
                severity, event, f"{parent.symbol}: {message}", client_order_id=parent.client_order_id,
                symbol=parent.symbol, instance=parent.instance,
            )  # fmt: skip


def _can_rest(want: Want, instrument: Instrument) -> bool:
    """Return whether the venue would take legs over the quantity at the least of their prices."""
    prices = [price for price in (want.parent.stop_loss, want.parent.take_profit) if price is not None]
    value = want.quantity * min(prices) * instrument.multiplier
    return want.quantity >= instrument.qty_min and value >= instrument.notional_min
