"""Bytes out, at most once per order: commit, look again, write; then ask until every doubt is settled (C1, C5)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from fks.clock import Clock
from fks.config.settings import Settings
from fks.execution.announcer import Announcer
from fks.execution.book import Book
from fks.execution.ledger import Ledger
from fks.execution.timing import Tasks
from fks.model.codes import Code
from fks.model.errors import OutageError
from fks.model.order import LIVE, TERMINAL, Answer, Fill, Lookup, Order, Outcome, Presence, Request, Role, State
from fks.model.ports import Lease, Log, Meter, Venue
from fks.orders import events as e
from fks.orders.absence import AbsenceRule, Polls, count_not_found, is_absent, ladder_delay
from fks.orders.machine import begin
from fks.store.orders import EventRow, Placed

_MARGIN_S = 2.0  # a venue bounds its own calls; ours is the second fence
_PAGE_AFTER_S = 30.0
_HOLD_POLL_S = 0.05
_NEVER_AGAIN = Polls(counted=-1_000_000_000)
_OVERLAP_NS = 60 * 1_000_000_000


class Sender:
    """Places, sends, cancels and asks. Hard state: the journal. Soft state: which orders are being asked about."""

    def __init__(
        self, venues: Mapping[str, Venue], book: Book, ledger: Ledger, settings: Settings, clock: Clock, lease: Lease,
        *, meter: Meter, log: Log, announcer: Announcer, tasks: Tasks, is_killed: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._venues = venues
        self._is_killed = is_killed
        self._book = book
        self._ledger = ledger
        self._settings = settings.venue
        self._clock = clock
        self._lease = lease
        self._meter = meter
        self._log = log
        self._announcer = announcer
        self._tasks = tasks
        self._asking: set[str] = set()
        self._must_ask: set[str] = set()
        self._cancelling: set[str] = set()
        limits = settings.venue
        self._rule = AbsenceRule(limits.absent_polls, limits.absent_spacing_s, limits.absent_first_s, limits.absent_age_s)

    # ── placing ──────────────────────────────────────────────────────────────────────────────────
    async def place(
        self, orders: Sequence[Order], *, sent: int, signal_id: uuid.UUID | None, is_exempt: bool = False
    ) -> Placed:
        """Commit `orders` in one durable statement: the first `sent` of them SENDING, the rest INTENDED.

        The caller has reserved them in the book; what was not taken is forgotten again. A commit in doubt is read back
        once PostgreSQL answers, and tried again only when it left nothing.
        """
        now_ns = self._clock.now_ns()
        begun, rows = [], []
        for number, order in enumerate(orders):
            event: e.Event = (
                e.IntendedAndSent(**self._ledger.stamp("send")) if number < sent else e.Intended(**self._ledger.stamp("intend"))
            )
            step = begin(order, event)
            begun.append(replace(step.order, sent_ns=now_ns) if number < sent else step.order)
            rows.append(self._first_row(begun[-1], event))
        start = self._clock.monotonic()
        placed = await self._commit(begun, rows, signal_id, now_ns, is_exempt)
        self._meter.observe("fks_order_commit_seconds", self._clock.monotonic() - start)
        for order in begun:
            if order.client_order_id in placed.placed:
                self._book.put(order)
                self._meter.count("fks_orders_total", state=order.state.value)
                self._announcer.order(order)
            else:
                self._book.forget(order.client_order_id)
        return placed

    async def _commit(
        self, orders: Sequence[Order], rows: Sequence[EventRow], signal_id: uuid.UUID | None, now_ns: int, is_exempt: bool
    ) -> Placed:
        journal, store, first = self._ledger.journal, self._ledger.store, orders[0].client_order_id
        is_in_doubt = False
        while True:
            try:
                placed = await journal.place(orders, rows, signal_id=signal_id, now_ns=now_ns, is_exempt=is_exempt)
                if first in placed.placed or not is_in_doubt:
                    return placed
            except OutageError as error:
                is_in_doubt = True
                await self._ledger.wait_for_journal(error)
            else:
                # the server may have finished the first try after we looked: then these rows are ours, and unsent
                found = await self._ledger.patiently(lambda: store.get(first))
                is_ours = found is not None and found.epoch == self._lease.epoch and found.state is orders[0].state
                return _all_of(orders) if is_ours else placed
            found = await self._ledger.patiently(lambda: store.get(first))
            if found is not None and found.epoch == self._lease.epoch and found.state is orders[0].state:
                return _all_of(orders)

    def _first_row(self, order: Order, event: e.Event) -> EventRow:
        return EventRow(
            client_order_id=order.client_order_id, event_id=event.event_id, event=type(event).__name__, from_state=None,
            to_state=order.state, source=event.source, recv_ns=event.recv_ns, epoch=self._lease.epoch,
        )  # fmt: skip

    # ── sending ──────────────────────────────────────────────────────────────────────────────────
    async def send(self, order: Order, *, started_s: float | None = None) -> Order | None:
        """Write the bytes of a SENDING order of this epoch, once, and apply what comes back."""
        if not await self._may_send(order):
            return self._book.orders.get(order.client_order_id)
        self._book.note_sent(order.account_id, self._clock.monotonic())
        if started_s is not None:
            self._meter.observe("fks_order_send_seconds", self._clock.monotonic() - started_s)
        answer = await self._answer(self._venues[order.venue].submit(order), order)
        return await self._apply_answer(order, answer)

    async def send_oco(self, stop: Order, limit: Order) -> None:
        """Write the bytes of two SENDING legs as one OCO, once, and apply what comes back."""
        if not await self._may_send(stop):
            await self._refuse(limit, Code.NOT_LEADER, "its sibling was not sent")
            return
        lost = Answer(Outcome.AMBIGUOUS, detail="no answer in time")
        try:
            async with asyncio.timeout(self._settings.order_timeout_s + _MARGIN_S):
                answers = await self._venues[stop.venue].submit_oco(stop, limit)
        except TimeoutError:
            answers = (lost, lost)
        except Exception as error:
            answers = (self._surprise(stop, error), self._surprise(limit, error))
        for leg, answer in zip((stop, limit), answers, strict=True):
            await self._apply_answer(leg, answer)

    async def _answer(self, call: Awaitable[Answer], order: Order) -> Answer:
        try:
            async with asyncio.timeout(self._settings.order_timeout_s + _MARGIN_S):
                return await call
        except TimeoutError:
            return Answer(Outcome.AMBIGUOUS, detail="no answer in time")
        except Exception as error:
            return self._surprise(order, error)

    def _surprise(self, order: Order, error: Exception) -> Answer:
        """A venue never raises for what it can say: whatever this is, bytes may have left."""
        self._log.error("venue.raised", venue=order.venue, client_order_id=order.client_order_id, error=repr(error))
        return Answer(Outcome.AMBIGUOUS, detail=repr(error))

    async def _may_send(self, order: Order) -> bool:
        """Look again between the commit and the bytes; what may not go out any more provably never left."""
        deadline = self._clock.monotonic() + self._settings.order_timeout_s
        while not self._lease.holds():
            if self._clock.monotonic() > deadline:
                await self._refuse(order, Code.NOT_LEADER, "the lease was lost between commit and send")
                return False
            await self._clock.sleep(_HOLD_POLL_S)
        # the guardian's file is asked here and now: after an outage of PostgreSQL it may be ahead of the table
        self._book.is_killed = self._book.is_killed or self._is_killed()
        if self._book.is_killed and not (order.is_reduce_only and order.role in (Role.ORDER, Role.KILL)):
            await self._refuse(order, Code.KILLED, "the kill switch was engaged between commit and send")
            return False
        if order.valid_until_ns is not None and self._clock.now_ns() > order.valid_until_ns:
            await self._refuse(order, Code.SIGNAL_EXPIRED, "its time was over before it could be sent")
            return False
        return True

    async def _refuse(self, order: Order, code: Code, detail: str) -> None:
        event = e.Refused(**self._ledger.stamp("refuse"), code=code.value, detail=detail)
        await self._ledger.apply(order.client_order_id, event)

    async def _apply_answer(self, order: Order, answer: Answer) -> Order | None:
        """Turn the answer to a send into events, and its fills too."""
        stamp = self._ledger.stamp(answer.outcome.value, "rest")
        events: list[e.Event] = []
        if answer.outcome is Outcome.ACK and answer.report is not None:
            stamp["venue_time_ns"] = answer.report.time_ns
            events.append(e.Acked(**stamp, report=answer.report))
            events.extend(self._ledger.fill_seen(fill) for fill in answer.fills)
        elif answer.outcome is Outcome.REFUSED:
            events.append(e.Refused(**stamp, code=answer.code or "REFUSED", detail=answer.detail))
        elif answer.outcome is Outcome.EXISTS:
            events.append(e.DuplicateId(**stamp, detail=answer.detail))
        else:
            events.append(e.Ambiguous(**stamp, detail=answer.detail))
        after = await self._ledger.apply(order.client_order_id, *events)
        if after is not None:
            self._log.info(
                "order.answered", client_order_id=order.client_order_id, state=after.state.value, symbol=order.symbol,
                outcome=answer.outcome.value, code=answer.code, trace_id=order.trace_id, epoch=self._lease.epoch,
            )  # fmt: skip
        return after

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────
    async def cancel(self, client_order_id: str, *, by: str, reason: str) -> None:
        """Want an order cancelled: sent now when it is open, as soon as it proves open otherwise, never when it ended."""
        event = e.CancelRequested(**self._ledger.stamp("cancel", "person" if by else "us"), by=by, reason=reason)
        await self._ledger.apply(client_order_id, event)

    def send_cancel(self, order: Order) -> None:
        """Send the cancel of an open order in a task of its own; one at a time per order."""
        if order.client_order_id not in self._cancelling:
            self._cancelling.add(order.client_order_id)
            self._tasks.spawn(self._send_cancel(order), f"cancel {order.client_order_id[:8]}")

    async def _send_cancel(self, order: Order) -> None:
        try:
            while True:
                while not self._lease.holds():
                    await self._clock.sleep(_HOLD_POLL_S)
                answer = await self._answer(self._venues[order.venue].cancel(order), order)
                if answer.code != Code.NOT_LEADER:  # else the lease was lost on the way to the wire: nothing left
                    break
            stamp = self._ledger.stamp(f"cancel-{answer.outcome.value}", "rest")
            if answer.outcome is Outcome.ACK:
                filled = None if answer.report is None else answer.report.filled
                if filled is not None and filled > order.filled:
                    await self.fetch_fills(order)
                if answer.report is not None:
                    stamp["venue_time_ns"] = answer.report.time_ns
                await self._ledger.apply(order.client_order_id, e.CancelAcked(**stamp, filled=filled))
            elif answer.outcome is Outcome.REFUSED:
                code = answer.code or "REFUSED"
                await self._ledger.apply(order.client_order_id, e.CancelRefused(**stamp, code=code, detail=answer.detail))
            else:
                await self._ledger.apply(order.client_order_id, e.RequestAmbiguous(**stamp, detail=answer.detail))
        finally:
            self._cancelling.discard(order.client_order_id)

    @property
    def is_cancelling(self) -> bool:
        """Return whether a cancel is on its way to a venue."""
        return bool(self._cancelling)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────
    def ask(self, client_order_id: str, *, is_forced: bool = False) -> None:
        """Ask the venue about an order until nothing about it is in doubt; `is_forced` asks at least once."""
        if is_forced:
            self._must_ask.add(client_order_id)
        if client_order_id not in self._asking:
            self._asking.add(client_order_id)
            self._tasks.spawn(self._ask(client_order_id), f"ask {client_order_id[:8]}")

    def _is_in_doubt(self, order: Order) -> bool:
        return (
            order.state is State.UNKNOWN
            or order.request is Request.CANCEL_UNKNOWN
            or order.announced > order.filled
            or order.client_order_id in self._must_ask
        )

    async def _ask(self, client_order_id: str) -> None:
        tries, polls, is_paged, start = 0, Polls(), False, self._clock.monotonic()
        try:
            while True:
                await self._clock.sleep(ladder_delay(tries, self._settings.poll_delays_s))
                tries += 1
                order = await self._ledger.find(client_order_id)
                if order is None or not self._is_in_doubt(order):
                    return
                polls = await self._ask_once(order, polls)
                if not is_paged and order.state is State.UNKNOWN and self._clock.monotonic() - start > _PAGE_AFTER_S:
                    is_paged = True
                    self._announcer.alert(
                        "page", "order.unknown", f"order {client_order_id} has no known outcome after {_PAGE_AFTER_S:.0f} s",
                        client_order_id=client_order_id, symbol=order.symbol, venue=order.venue,
                    )  # fmt: skip
        finally:
            self._asking.discard(client_order_id)
            self._must_ask.discard(client_order_id)

    async def _ask_once(self, order: Order, polls: Polls) -> Polls:
        """Ask once and apply what is said; return the not-found answers counted so far."""
        lookup = await self.query(order)
        if lookup.presence is Presence.FOUND and lookup.report is not None:
            self._must_ask.discard(order.client_order_id)
            fills: list[Fill] = []
            if lookup.report.filled > order.filled:
                # a tape's fills carry the tape's times: what the window does not show, the whole history does
                is_second = order.announced >= lookup.report.filled
                fills = await self.fills_of(order, is_whole=is_second) or []
            events = [*(self._ledger.fill_seen(fill) for fill in fills), self._ledger.reported(lookup.report)]
            await self._ledger.apply(order.client_order_id, *events)
            return Polls()
        if lookup.presence is not Presence.NOT_FOUND:
            return polls
        if order.state in LIVE:
            await self._ledger.apply(order.client_order_id, e.NotListed(**self._ledger.stamp("not-listed", "reconcile")))
            return polls
        if order.state in TERMINAL:
            self._must_ask.discard(order.client_order_id)
            return polls
        age_s = (self._clock.now_ns() - (order.sent_ns or order.created_ns)) / 1e9
        polls = count_not_found(polls, age_s, self._rule)
        if not is_absent(polls, self._rule) or await self._has_fill(order):
            return polls
        event = e.FoundAbsent(**self._ledger.stamp("absent", "rest"), polls=polls.counted, age_s=round(age_s, 3))
        await self._ledger.apply(order.client_order_id, event)
        return _NEVER_AGAIN  # one that was acknowledged stays UNKNOWN: a person was paged, once

    async def _has_fill(self, order: Order) -> bool:
        """Return whether the venue's history holds a fill of the order (booked at once), or could not be read."""
        fills = await self.fills_of(order)
        if fills is None:
            return True
        if fills:
            await self._ledger.apply(order.client_order_id, *(self._ledger.fill_seen(fill) for fill in fills))
        return bool(fills)

    async def query(self, order: Order) -> Lookup:
        """Ask the venue for one order by our id; an outage is NO_ANSWER."""
        try:
            async with asyncio.timeout(self._settings.order_timeout_s + _MARGIN_S):
                return await self._venues[order.venue].query(order.symbol, order.client_order_id)
        except (OutageError, TimeoutError) as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))

    async def fetch_fills(self, order: Order) -> None:
        """Read the order's executions from the venue's history and book those that are new."""
        fills = await self.fills_of(order)
        if fills:
            await self._ledger.apply(order.client_order_id, *(self._ledger.fill_seen(fill) for fill in fills))

    async def fills_of(self, order: Order, *, is_whole: bool = False) -> list[Fill] | None:
        """Return the order's executions by the venue's history since its send (`is_whole`: ever); None = no answer."""
        since_ns = 0 if is_whole else (order.sent_ns or order.created_ns) - _OVERLAP_NS
        try:
            async with asyncio.timeout(self._settings.order_timeout_s * 2 + _MARGIN_S):
                fills = await self._venues[order.venue].fills_since(order.symbol, since_ns)
        except (OutageError, TimeoutError):
            return None
        return [fill for fill in fills if fill.client_order_id == order.client_order_id]


def _all_of(orders: Sequence[Order]) -> Placed:
    return Placed(True, False, tuple(order.client_order_id for order in orders))
