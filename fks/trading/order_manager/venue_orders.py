"""The one owner of all requests to a venue about each of our orders: its send, its cancel, queries until its outcome is
resolved, and the proof that it never arrived (C1, C5).

The protocol around a send is `fks.trading.orders.submit`. An id whose bytes may have left is queried, and never sent
again. Times are monotonic; the clock's own time counts only across a restart (`fks.clock.ClockSteps`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar

from fks.clock import ClockSteps
from fks.model.codes import Code
from fks.model.errors import OutageError
from fks.model.order import LIVE, TERMINAL, Answer, Fill, Lookup, Order, Outcome, Presence, Report, Request, State
from fks.model.ports import ClosesFills, RepricesOrders, Venue
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.orders import events as e
from fks.trading.orders.absence import IN_PROCESS, AbsenceProof, AbsenceRule, Polls, ladder_delay
from fks.trading.orders.sent_ids import SentIds
from fks.trading.risk.policy import Action

MARGIN_S = 2.0  # a venue bounds its own calls; this is the second bound
_PAGE_AFTER_S = 30.0
HOLD_POLL_S = 0.05
_ASKS_MAX = 30  # before an order may be sent that may have left; then it is UNKNOWN, and the usual queries go on
_NEVER_AGAIN = Polls(counted=-1_000_000_000)
_OVERLAP_NS = 60 * 1_000_000_000
T = TypeVar("T")


@dataclass(slots=True)
class _Asked:
    """The requests about one order that are in progress."""

    is_cancelling: bool = False
    is_querying: bool = False
    must_query: bool = False  # at least once, whatever is known


class VenueOrders:
    """Sends, cancels and queries. Soft state: the requests in progress. Hard state: `sent` (this process and
    the last failover)."""

    def __init__(self, context: OrderManagerContext, sent: SentIds) -> None:
        self._context, self._sent = context, sent
        self._venues = context.venues
        self._ledger = context.ledger
        self._settings = context.settings.venue
        self._clock = context.clock
        self._log = context.log
        self._tasks = context.tasks
        self._asked: dict[str, _Asked] = {}
        self._rule = AbsenceRule.from_settings(context.settings.venue)
        self.steps = ClockSteps(context.clock)

    def _about(self, client_order_id: str) -> _Asked:
        return self._asked.setdefault(client_order_id, _Asked())

    def _forget_idle(self, client_order_id: str) -> None:
        if self._asked.get(client_order_id) == _Asked():
            del self._asked[client_order_id]

    # ── sending ──────────────────────────────────────────────────────────────────────────────────
    def may_have_left(self, order: Order, parent: Order | None) -> bool:
        """Return whether `left_before` has to be awaited before the order is sent."""
        return self._sent.is_sent(order.client_order_id) or self._answers_needed(order, parent) > 0

    async def left_before(self, order: Order, parent: Order | None) -> str | None:
        """Return why the order may have left already, or None once the venue has said often enough that it has not.

        May take as long as it takes to prove absence. The caller checks again afterwards whether the order may be sent.
        """
        if self._sent.is_sent(order.client_order_id):
            return "this process has sent it before"
        rule = replace(self._rule, polls=self._answers_needed(order, parent))
        proof = self._proof(order, rule, self._sent.ask_before_ns)
        for tries in range(_ASKS_MAX):
            lookup = await self.query(order, since_ns=0)  # it may be older than its row
            if lookup.presence is Presence.FOUND:
                return "the venue has it: it was sent before the database changed"
            if lookup.presence is Presence.NOT_FOUND and proof.not_found():
                return None
            await self._clock.sleep(ladder_delay(tries, self._settings.poll_delays_s))
        return "the venue did not say that it was not sent before the database changed"

    def _answers_needed(self, order: Order, parent: Order | None) -> int:
        return self._sent.answers_needed(order, parent, self._rule.polls)

    async def send(self, orders: Sequence[Order], call: Awaitable[Sequence[Answer]]) -> Sequence[Answer]:
        """Note that the bytes of these orders leave now, and return the venue's answers; an exception, or a late
        answer, is AMBIGUOUS. `call` begins here: no other task runs between the note and it."""
        for order in orders:
            self._sent.note_sent(order.client_order_id)
        answers = await self._answer(call, orders[0])
        return (answers,) * len(orders) if isinstance(answers, Answer) else answers

    async def _answer(self, call: Awaitable[T], order: Order) -> T | Answer:
        """Return the result of a call; an exception, or a late answer, is AMBIGUOUS: bytes may have left. A venue never
        raises for an outcome that it can report."""
        try:
            async with asyncio.timeout(self._settings.order_timeout_s + MARGIN_S):
                return await call
        except TimeoutError:
            return Answer(Outcome.AMBIGUOUS, detail="no answer in time")
        except Exception as error:
            self._log.error("venue.raised", venue=order.venue, client_order_id=order.client_order_id, error=repr(error))
            return Answer(Outcome.AMBIGUOUS, detail=repr(error))

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────
    async def cancel(self, client_order_id: str, *, by: str, reason: str) -> None:
        """Want an order cancelled: sent now when it is open, as soon as it proves open otherwise, never when it
        ended. A leg of a venue that keeps the bracket is never cancelled."""
        order = await self._ledger.find(client_order_id)
        is_leg = order is not None and order.parent_id is not None and order.venue in self._venues
        if order is not None and is_leg and self._venues[order.venue].capabilities.keeps_bracket:
            self._log.warning("order.kept_by_venue", client_order_id=client_order_id, venue=order.venue, reason=reason)
            return
        event = e.CancelRequested(**self._ledger.stamp("cancel", "person" if by else "us"), by=by, reason=reason)
        await self._ledger.apply(client_order_id, event)

    async def withdraw(self, client_order_id: str) -> None:
        """Want an order live again: its cancel is not repeated, and the venue is asked about one that has left."""
        await self._ledger.apply(client_order_id, e.CancelWithdrawn(**self._ledger.stamp("cancel-withdrawn")))

    async def _request_again(self, order: Order) -> None:
        """Want a cancel again that got lost, unless it was withdrawn meanwhile: a cancel is idempotent.

        That of a leg from before the start waits until the venue's positions are read: until then nothing has looked
        at whether the leg is wanted, and its exit may have ended. It does not wait for the end of that first
        comparison, which itself waits for exits in progress.
        """
        if order.parent_id is not None and not self._context.cache.venues[order.venue].has_positions:
            return
        stamp = self._ledger.stamp("cancel-again")
        await self._ledger.apply(
            order.client_order_id,
            e.CancelRequested(**stamp, by="", reason="its cancel got lost, and the venue shows it open"),
            guard=lambda known: known.request is Request.CANCEL_UNKNOWN,
        )

    def send_cancel(self, order: Order) -> None:
        """Send the cancel of an open order in a task of its own; one at a time per order."""
        if not (asked := self._about(order.client_order_id)).is_cancelling:
            asked.is_cancelling = True
            self._tasks.spawn(self._send_cancel(order), f"cancel {order.client_order_id[:8]}")

    async def _send_cancel(self, order: Order) -> None:
        try:
            while True:
                while not self._context.may_leave(Action.CANCEL):
                    await self._clock.sleep(HOLD_POLL_S)
                known = await self._ledger.find(order.client_order_id)
                if known is None or known.request is not Request.CANCEL:  # withdrawn while the lease was away
                    return
                answer = await self._answer(self._venues[order.venue].cancel(order), order)
                if answer.code != Code.NOT_LEADER:  # else the lease was lost on the way to the wire: nothing left
                    break
            stamp = self._ledger.stamp(f"cancel-{answer.outcome.value}", "rest")
            if answer.outcome is Outcome.ACK:
                await self._cancelled(order, answer, stamp)
            elif answer.outcome is Outcome.REFUSED:
                code = answer.code or "REFUSED"
                await self._ledger.apply(
                    order.client_order_id, e.CancelRefused(**stamp, code=code, detail=answer.detail)
                )
            else:
                await self._ledger.apply(order.client_order_id, e.RequestAmbiguous(**stamp, detail=answer.detail))
        finally:
            self._about(order.client_order_id).is_cancelling = False
            self._forget_idle(order.client_order_id)

    async def _cancelled(self, order: Order, answer: Answer, stamp: dict[str, Any]) -> None:
        filled = None if answer.report is None else answer.report.filled
        if filled is not None and filled > order.filled:
            await self.fetch_fills(order)
        if answer.report is not None:
            stamp["venue_time_ns"] = answer.report.time_ns
        await self._ledger.apply(order.client_order_id, e.CancelAcked(**stamp, filled=filled))

    # ── replacing ────────────────────────────────────────────────────────────────────────────────
    async def begin_replacement(self, client_order_id: str) -> Order | None:
        """Journal that a stop is about to be replaced by one request; None when it ended, triggered, or has another
        request."""
        return await self._ledger.apply(
            client_order_id,
            e.ReplaceRequested(**self._ledger.stamp("replace")),
            guard=lambda order: order.state is State.ACCEPTED and order.request is Request.NONE,
        )

    async def end_replacement(self, order: Order, answer: Answer) -> None:
        """Record what became of the stop that was to be replaced: an unclear answer has it queried."""
        stamp = self._ledger.stamp(f"replace-{answer.outcome.value}", "rest")
        if answer.outcome is Outcome.ACK:
            await self._cancelled(order, answer, stamp)
            return
        event: e.Event = e.RequestAmbiguous(**stamp, detail=answer.detail)
        if answer.outcome is Outcome.REFUSED:
            event = e.ReplaceRefused(**stamp, code=answer.code or "REFUSED", detail=answer.detail)
        await self._ledger.apply(order.client_order_id, event)

    # ── amending ─────────────────────────────────────────────────────────────────────────────────
    async def amend(self, client_order_ids: Sequence[str], quantity: Decimal) -> None:
        """Reduce the live legs of one list to `quantity` in place, by one request; it is never repeated."""
        await self._change(
            client_order_ids,
            lambda venue, order: venue.amend(order, quantity),
            lambda order: {"quantity": quantity, "price": order.price},
        )

    async def reprice(self, client_order_id: str, price: Decimal) -> None:
        """Move the trigger of a stop, or the limit of another order, in place, by one request; it is never repeated."""

        def call(venue: Venue, order: Order) -> Awaitable[Answer]:
            assert isinstance(venue, RepricesOrders), "prices are moved in place only there"
            return venue.reprice(order, price)

        def changed(order: Order) -> dict[str, Decimal | None]:
            is_stop = order.stop_price is not None
            prices = {"price": order.price, "stop_price": price} if is_stop else {"price": price}
            return {"quantity": order.quantity, **prices}

        await self._change([client_order_id], call, changed)

    async def _change(
        self,
        client_order_ids: Sequence[str],
        call: Callable[[Venue, Order], Awaitable[Answer]],
        changed: Callable[[Order], dict[str, Any]],
    ) -> None:
        """Change orders of one list in place by one request, `call` with the first of them; `changed` gives the new
        quantity and prices of each."""
        orders = []
        for name in client_order_ids:
            stamp = self._ledger.stamp("amend")
            order = await self._ledger.apply(
                name,
                e.ReplaceRequested(**stamp),
                guard=lambda known: known.state in LIVE and known.request is Request.NONE,
            )
            if order is not None:
                orders.append(order)
        answer = Answer(
            Outcome.REFUSED, code=Code.CLIENT_VALIDATION.value, detail="a leg ended, or has another request"
        )
        if len(orders) == len(client_order_ids):
            while not self._context.may_leave(Action.CANCEL):
                await self._clock.sleep(HOLD_POLL_S)
            answer = await self._answer(call(self._venues[orders[0].venue], orders[0]), orders[0])
        for order in orders:
            stamp = self._ledger.stamp(f"amend-{answer.outcome.value}", "rest")
            event: e.Event = e.RequestAmbiguous(**stamp, detail=answer.detail)
            if answer.outcome is Outcome.ACK:
                event = e.ReplaceAcked(**stamp, **changed(order))
            elif answer.outcome is Outcome.REFUSED:
                event = e.ReplaceRefused(**stamp, code=answer.code or "REFUSED", detail=answer.detail)
            await self._ledger.apply(order.client_order_id, event)

    @property
    def is_cancelling(self) -> bool:
        """Return whether a cancel is on its way to a venue."""
        return any(asked.is_cancelling for asked in self._asked.values())

    # ── querying ──────────────────────────────────────────────────────────────────────────────────
    def resume(self) -> None:
        """Ask about each order of the journal of which something is unresolved: a start begins so."""
        for order in list(self._context.cache.orders.values()):
            if self._is_unresolved(order):
                self.query_soon(order.client_order_id)

    def query_soon(self, client_order_id: str, *, is_forced: bool = False) -> None:
        """Ask the venue about an order until nothing about it is unresolved; `is_forced` asks at least once."""
        asked = self._about(client_order_id)
        asked.must_query |= is_forced
        if not asked.is_querying:
            asked.is_querying = True
            self._tasks.spawn(self._query_until_resolved(client_order_id), f"query {client_order_id[:8]}")

    def _is_unresolved(self, order: Order) -> bool:
        return (
            order.state is State.UNKNOWN
            or order.request in (Request.CANCEL_UNKNOWN, Request.REPLACE_UNKNOWN)
            or order.reported_cum_qty > order.filled
            or self._asked.get(order.client_order_id, _Asked()).must_query
        )

    async def _query_until_resolved(self, client_order_id: str) -> None:
        tries, proof, is_paged, start = 0, None, False, self._clock.monotonic()
        try:
            while True:
                await self._clock.sleep(ladder_delay(tries, self._settings.poll_delays_s))
                tries += 1
                order = await self._ledger.find(client_order_id)
                if order is None or not self._is_unresolved(order):
                    return
                proof = proof or self._proof(order, self._rule.of(order.role), order.sent_ns or order.created_ns)
                await self._query_once(order, proof)
                if not is_paged and order.state is State.UNKNOWN and self._clock.monotonic() - start > _PAGE_AFTER_S:
                    is_paged = True
                    self._context.publisher.alert(
                        "page",
                        "order.unknown",
                        f"order {client_order_id} has no known outcome after {_PAGE_AFTER_S:.0f} s",
                        client_order_id=client_order_id,
                        symbol=order.symbol,
                        venue=order.venue,
                    )
        finally:
            asked = self._about(client_order_id)
            asked.is_querying = asked.must_query = False
            self._forget_idle(client_order_id)

    def _proof(self, order: Order, rule: AbsenceRule, sent_ns: int) -> AbsenceProof:
        is_in_process = self._venues[order.venue].capabilities.is_in_process
        return AbsenceProof(IN_PROCESS if is_in_process else rule, self.steps, sent_ns)

    async def _query_once(self, order: Order, proof: AbsenceProof) -> None:
        """Ask once and apply the answer; a not-found one is counted in `proof`."""
        lookup = await self.query(order)
        if lookup.presence is Presence.FOUND and lookup.report is not None:
            self._about(order.client_order_id).must_query = False
            fills: list[Fill] = []
            if lookup.report.filled > order.filled:
                # a tape's fills carry the tape's times: what the window does not show, the whole history does
                is_second = order.reported_cum_qty >= lookup.report.filled
                fills = await self.fills_of(order, is_whole=is_second) or []
            if fills:
                await self.book_entry(order)
            events = [*(self._ledger.fill_seen(fill) for fill in fills), self._ledger.reported(lookup.report)]
            after = await self._ledger.apply(order.client_order_id, *events)
            if after is not None and after.request is Request.CANCEL_UNKNOWN and after.state in LIVE:
                await self._request_again(after)
            proof.polls = Polls()
            return
        if lookup.presence is not Presence.NOT_FOUND:
            return
        if order.state in LIVE:
            await self._ledger.apply(
                order.client_order_id, e.NotListed(**self._ledger.stamp("not-listed", "reconcile"))
            )
            return
        if order.state in TERMINAL:
            self._about(order.client_order_id).must_query = False
            return
        if order.state is not State.UNKNOWN:  # its request is on its way, or the answer to it
            return
        if not proof.not_found() or await self._has_fill(order):
            return
        event = e.FoundAbsent(
            **self._ledger.stamp("absent", "rest"), polls=proof.polls.counted, age_s=round(proof.age_s, 3)
        )
        # meanwhile the venue may have reported it after all
        proven = await self._ledger.apply(
            order.client_order_id, event, guard=lambda known: known.state is State.UNKNOWN
        )
        # one that was acknowledged stays UNKNOWN: a person was paged, once
        proof.polls = Polls() if proven is None else _NEVER_AGAIN

    async def _has_fill(self, order: Order) -> bool:
        """Return whether the venue's history holds a fill of the order (booked at once), or could not be read."""
        fills = await self.fills_of(order)
        if fills is None:
            return True
        if fills:
            await self.book_entry(order)
            await self._ledger.apply(order.client_order_id, *(self._ledger.fill_seen(fill) for fill in fills))
        return bool(fills)

    async def query(self, order: Order, since_ns: int | None = None) -> Lookup:
        """Ask the venue for one order by our id; an outage is NO_ANSWER. `since_ns`: when it was sent at the earliest,
        0 for unknown; None: as its row says."""
        try:
            async with asyncio.timeout(self._settings.order_timeout_s + MARGIN_S):
                venue = self._venues[order.venue]
                if order.is_close and isinstance(venue, ClosesFills):
                    return await venue.query_close(order)
                # the times of an adopted row are those that the venue showed: it may be older
                is_adopted = order.intent_id.hex == order.client_order_id
                known_ns = 0 if is_adopted else order.sent_ns or order.created_ns
                return await venue.query(
                    order.symbol, order.client_order_id, known_ns if since_ns is None else since_ns
                )
        except (OutageError, TimeoutError) as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))

    async def closes_of(self, entry: Order) -> list[Report] | None:
        """Return the stops that the venue made for fills of an entry; None = no answer."""
        venue = self._venues[entry.venue]
        assert isinstance(venue, ClosesFills), "fills make stops only there"
        try:
            async with asyncio.timeout(self._settings.order_timeout_s * 2 + MARGIN_S):
                return await venue.closes_made(entry)
        except (OutageError, TimeoutError):
            return None

    async def fetch_fills(self, order: Order) -> None:
        """Read the order's executions from the venue's history and book those that are new."""
        await self.book_entry(order)
        fills = await self.fills_of(order)
        if fills:
            await self._ledger.apply(order.client_order_id, *(self._ledger.fill_seen(fill) for fill in fills))

    async def book_entry(self, leg: Order) -> None:
        """Book what the entry of a leg executed, as far as it is open here, before what the leg did: a sale of more
        than is booked as bought would be taken from others' holdings."""
        entry = None if leg.parent_id is None else await self._ledger.find(leg.parent_id)
        if entry is not None and entry.is_open:
            await self.fetch_fills(entry)

    async def fills_of(self, order: Order, *, is_whole: bool = False) -> list[Fill] | None:
        """Return the order's executions by the venue's history since its send (`is_whole`: ever); None = no answer."""
        sent_ns = order.sent_ns or order.created_ns
        is_set_back = sent_ns > self._clock.now_ns()  # the clock: the time of the send says nothing
        since_ns = 0 if is_whole or is_set_back else max(sent_ns - _OVERLAP_NS - self.steps.spread_ns, 0)
        try:
            async with asyncio.timeout(self._settings.order_timeout_s * 2 + MARGIN_S):
                fills = await self._venues[order.venue].fills_since(order.symbol, since_ns)
        except (OutageError, TimeoutError):
            return None
        return [fill for fill in fills if fill.client_order_id == order.client_order_id]
