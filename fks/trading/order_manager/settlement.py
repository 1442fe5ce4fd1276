"""Applies what persons decided of orders: settlements of UNKNOWN orders, and executions that a venue took back.

The gateway writes the rows; this is the only place that acts on them. Each is applied through the ledger in one
statement: the event, the executions and the positions. A row whose event is in the journal is only ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from fks.clock.waiting import wait_for_event
from fks.model import ids
from fks.model.errors import OutageError
from fks.model.order import Fill, Order, State
from fks.model.signal import SignalState
from fks.store.settlements import Settlement, SettlementStore
from fks.trading.order_manager.amendments import Amendments
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.person_fills import PERSON
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.tasks import settled
from fks.trading.order_manager.venue_session import VenueSession
from fks.trading.orders import events as e

_HISTORY_S = 20.0
_ZERO = Decimal(0)
_STATES = {"filled": State.FILLED, "cancelled": State.CANCELLED, "absent": State.ABSENT}


_POLL_S = 1.0
COMPARE_S = 60.0
_LOOK_S = 0.05


class SettlementRefused(Exception):
    """A settlement that cannot be applied, with the reason that its row keeps."""


class Settlements:
    """Takes confirmed settlements from the table and gives each its one end. Holds no state."""

    def __init__(self, context: OrderManagerContext) -> None:
        self._store = SettlementStore(context.db, context.lease)
        self._context = context
        self._ledger = context.ledger
        self._venues = context.venues

    async def apply_confirmed(self) -> None:
        """Apply every confirmed settlement. Errors: OutageError (the rest stays for the next turn), StaleEpochError."""
        for settlement in await self._store.confirmed(list(self._venues)):
            error: str | None = None
            if not settlement.is_journaled:
                try:
                    await self._apply(settlement)
                except SettlementRefused as refusal:
                    error = str(refusal)
            await self._store.finish(settlement.id, error, self._context.clock.now_ns())
            self._context.log.warning(
                "order.settled" if error is None else "order.settle_refused",
                client_order_id=settlement.client_order_id,
                outcome=settlement.outcome,
                by=settlement.by,
                reason=settlement.reason,
                error=error or "",
            )

    async def _apply(self, settlement: Settlement) -> None:
        order = await self._ledger.find(settlement.client_order_id)
        if order is None:
            raise SettlementRefused("the journal has no such order")
        if order.filled != settlement.filled:
            raise SettlementRefused(f"{order.filled:f} is booked now, it was {settlement.filled:f}; look at it again")
        if settlement.outcome == "busted":
            await self._bust(settlement, order)
            return
        if order.state is not State.UNKNOWN:
            raise SettlementRefused(f"the order is {order.state.value} by now: there is nothing to settle")
        fills = await self._fills(settlement, order)
        filled = order.filled + sum((fill.quantity for fill in fills), _ZERO)
        if settlement.outcome == "filled" and filled != order.quantity:
            raise SettlementRefused(
                f"the executions sum to {filled:f} of {order.quantity:f}: settle it as cancelled instead"
            )
        if filled > order.quantity:
            raise SettlementRefused(f"the executions sum to {filled:f}, more than the order's {order.quantity:f}")
        stamp = self._ledger.stamp("settle", "person") | {"event_id": settlement.event_id}
        event = e.Settled(
            **stamp, outcome=_STATES[settlement.outcome], by=settlement.by, reason=settlement.reason, filled=filled
        )
        events = [event, *(self._ledger.fill_seen(fill) for fill in fills)]
        await self._settle(order, *events, state=State.UNKNOWN)

    async def _fills(self, settlement: Settlement, order: Order) -> list[Fill]:
        """Return the executions that the person names or reports. Errors: SettlementRefused, OutageError."""
        wanted = [fill.venue_trade_id for fill in settlement.fills if fill.venue_trade_id]
        if wanted:
            return await self._from_history(order, wanted)
        found, filled = list[Fill](), order.filled
        for reported in settlement.fills:
            assert reported.quantity is not None
            assert reported.price is not None
            filled += reported.quantity
            found.append(
                Fill(
                    fill_id=ids.person_fill_id(order.client_order_id, f"{filled.normalize():f}"),
                    client_order_id=order.client_order_id,
                    venue_order_id=order.venue_order_id,
                    venue_trade_id="",
                    account_id=order.account_id,
                    venue=order.venue,
                    symbol=order.symbol,
                    side=order.side,
                    quantity=reported.quantity,
                    price=reported.price,
                    fee=reported.fee,
                    fee_currency=reported.fee_currency,
                    # not later than the venue's own: history is read from the newest execution on
                    time_ns=order.sent_ns or order.created_ns,
                    source=PERSON,
                )
            )
        return found

    async def _from_history(self, order: Order, wanted: list[str]) -> list[Fill]:
        since_ns = (order.sent_ns or order.created_ns) - 3_600_000_000_000
        try:
            async with asyncio.timeout(_HISTORY_S):
                history = await self._venues[order.venue].fills_since(order.symbol, since_ns)
        except (OutageError, TimeoutError):
            raise SettlementRefused(
                f"{order.venue} does not answer; try again, or give quantity, price and fee"
            ) from None
        known = {fill.venue_trade_id: fill for fill in history if fill.side is order.side}
        if missing := [id for id in wanted if id not in known]:
            raise SettlementRefused(
                f"{order.venue} shows no {order.side.value} trade {missing[0]} in {order.symbol} since the order"
            )
        others = [id for id in wanted if known[id].client_order_id not in (None, "", order.client_order_id)]
        if others:
            raise SettlementRefused(f"trade {others[0]} belongs to order {known[others[0]].client_order_id}")
        fills = [
            replace(known[id], account_id=order.account_id, venue=order.venue, client_order_id=order.client_order_id)
            for id in wanted
        ]
        booked = await self._ledger.journal.booked(order.account_id, fills)
        if taken := [fill.venue_trade_id for fill in fills if fill.fill_id in booked]:
            raise SettlementRefused(f"trade {taken[0]} is booked already")
        return fills

    async def _bust(self, settlement: Settlement, order: Order) -> None:
        """Take booked executions of the order back, as its venue did."""
        wanted = {fill.venue_trade_id for fill in settlement.fills}
        trades = [
            trade
            for _, trade in await self._ledger.store.fills(client_order_id=order.client_order_id, limit=1000)
            if wanted & {trade.fill.venue_trade_id, str(trade.fill.fill_id)}
        ]
        if len(trades) != len(wanted):
            raise SettlementRefused(f"the order has not all of these executions: {', '.join(sorted(wanted))}")
        busts = [replace(t.fill, fill_id=ids.bust_id(t.fill.fill_id, "venue"), venue_trade_id="") for t in trades]
        gone = await self._ledger.journal.booked(order.account_id, busts)
        if gone:
            raise SettlementRefused("one of the executions was taken back already")
        stamp = self._ledger.stamp("settle", "person") | {"event_id": settlement.event_id}
        events = [
            e.Busted(
                **(stamp | ({} if number == 0 else {"event_id": f"{settlement.event_id}:{number}"})),
                fill_id=trade.fill.fill_id,
                quantity=trade.fill.quantity,
                price=trade.fill.price,
                fee=trade.fill.fee,
                fee_currency=trade.fill.fee_currency,
                instance=trade.instance,
            )
            for number, trade in enumerate(trades)
        ]
        await self._settle(order, *events, state=order.state)

    async def _settle(self, order: Order, *events: e.Event, state: State) -> None:
        """Apply the events unless the order changed since it was looked at. Errors: SettlementRefused."""

        def is_same(now: Order) -> bool:
            return (now.state, now.filled) == (state, order.filled)

        if await self._ledger.apply(order.client_order_id, *events, guard=is_same) is None:
            raise SettlementRefused("the order changed meanwhile; look at it again")


class PersonRequests:
    """The reader of requests beside orders: settlements, amendments, ends of exits, comparisons with a venue.

    Reads the tables once a second, sooner when woken. Holds no state: the rows are the requests.

    It runs beside everything else: a venue that answers slowly delays other requests of persons and nothing more.
    """

    def __init__(
        self,
        context: OrderManagerContext,
        sessions: Mapping[str, VenueSession],
        workers: PositionWorkers,
        amendments: Amendments,
    ) -> None:
        self._context = context
        self._store = SettlementStore(context.db, context.lease)
        self._settlements = Settlements(context)
        self._sessions, self._workers, self._amendments = sessions, workers, amendments
        self._clock, self._log = context.clock, context.log
        self._again = asyncio.Event()

    def wake(self) -> None:
        """Look now instead of at the next second."""
        self._again.set()

    async def run(self) -> None:
        """Carry out requests for ever; an outage skips a turn. Errors: StaleEpochError."""
        while True:
            self._again.clear()
            is_amending = False
            try:
                await self.end_exits()
                await self._settlements.apply_confirmed()
                is_amending = await self._amendments.carry_out(list(self._sessions))
                requests = await self._store.reconcile_requests(list(self._sessions))
                await asyncio.gather(*(self._reconcile(venue, ids) for venue, ids in requests.items()))
            except OutageError as error:
                self._log.debug("person_requests.skipped", error=str(error))
            await wait_for_event(self._again, _LOOK_S if is_amending else _POLL_S, self._clock)

    async def end_exits(self) -> None:
        """End the exits that persons want ended, and answer: it ends, or there is none to end. Errors: OutageError.

        A request for the venue of another order manager stays open: only that one knows.
        """
        for id, by, signal in await self._context.signals.end_requests():
            is_ending = self._workers.end_exit(signal, by)
            if is_ending is False and signal.state is SignalState.READY:  # no core has received it yet
                is_ending = await self._context.signals.finish(
                    signal.id,
                    SignalState.NOTHING,
                    now_ns=self._clock.now_ns(),
                    detail=f"{by} ended the exit before its first order",
                )
                self._workers.end_exit(signal, by)  # one may have received it meanwhile
                if not is_ending:
                    continue
            if is_ending is None or (not is_ending and signal.venue not in self._sessions):
                continue
            error = None if is_ending else "its exit is not in progress any more"
            await self._context.signals.finish_end_request(id, error, self._clock.now_ns())
            self._log.info("exit.end_requested", signal=str(signal.id), by=by, error=error or "")

    async def _reconcile(self, venue: str, ids: list[int]) -> None:
        """Compare the journal with a venue from the start, and keep what was found."""
        session, began_s = self._sessions[venue], self._clock.monotonic()
        wanted, newest = session.compare_now(), await self._context.db.fetchval("settlements.newest_trade")
        is_done = await settled(self._clock, lambda: session.status.compares_done >= wanted, COMPARE_S)
        row = await self._context.db.fetchrow("settlements.compared", venue, newest)
        assert row is not None
        result = {
            "state": session.status.state,
            "detail": session.status.detail,
            "seconds": round(self._clock.monotonic() - began_s, 3),
            **dict(row),
        }
        error = (
            None
            if is_done
            else f"{venue} was not compared within {COMPARE_S:g} s: {session.status.detail or 'no answer'}"
        )
        await self._store.finish_reconcile(ids, result, error, self._clock.now_ns())
        self._log.info("venue.reconciled", venue=venue, seconds=result["seconds"], error=error or "")
