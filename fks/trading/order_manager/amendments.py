"""Amendments of orders by persons, and by strategies of the prices of their entries that rest: rows that are carried
out step by step, as often as it takes.

A resting order is reduced in place where the venue can. Otherwise it is cancelled, its end proven, and a new signal
made of the rest: its id follows from the amendment's, so that a step that is repeated after a crash adds nothing.
Never are two of them live. A parent's stop moves only nearer to the market; its targets are its plan's row, which the
core compares its legs with.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from decimal import Decimal

from fks.model.codes import Denial
from fks.model.copies import copied_instance
from fks.model.ids import request_signal_id
from fks.model.order import LIVE, OPEN, Order, Request, State
from fks.model.parent import plan_json
from fks.model.signal import AMENDED, Signal, SignalState
from fks.store.settlements import OrderAmendment, SettlementStore
from fks.store.signals import SignalStore
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.submission import Submissions
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.orders import events as e
from fks.trading.orders import messages as m
from fks.trading.orders.build import denial_text


class Amendments:
    """Soft state: which amendments in place were sent, so that a refused one is followed by a cancel."""

    def __init__(
        self,
        context: OrderManagerContext,
        submissions: Submissions,
        venue_orders: VenueOrders,
        workers: PositionWorkers,
        *,
        wake_intake: Callable[[], None],
    ) -> None:
        self._context, self._ledger = context, context.ledger
        self._submissions, self._venue_orders, self._workers = submissions, venue_orders, workers
        self._store = SettlementStore(context.db, context.lease)
        self._wake_intake = wake_intake
        self._tried: set[int] = set()

    async def carry_out(self, venues: Collection[str]) -> bool:
        """Take each open amendment as far as it goes now. Return whether one is left. Errors: OutageError."""
        is_left = False
        await self._store.take_entry_moves(sorted(venues))
        for request in await self._store.open_amendments(sorted(venues)):
            order = await self._ledger.find(request.client_order_id)
            assert order is not None, "an amendment is about an order of the journal"
            key = (order.account_id, order.venue, order.symbol)
            if request.drops_protection:
                dropped = e.ProtectionDropped(**self._ledger.stamp("protection-dropped", "person"), by=request.by)
                await self._ledger.apply(order.client_order_id, dropped)
                await self._finish(request)
            elif self._context.cache.split_ns(key, self._context.clock.now_ns()) is not None:
                # its prices are in other shares than the order's; one that the split cancels has no successor
                await self._finish(request, "a split of the shares is due: amend the order again after it")
            elif request.stop_loss is not None or request.plan is not None:
                await self._change_exits(request, order)
            else:
                is_left |= not await self._change_entry(request, order)
        return is_left

    async def _finish(
        self, request: OrderAmendment, error: str | None = None, successor: uuid.UUID | None = None
    ) -> None:
        await self._store.finish_amendment(request.id, error, successor, self._context.clock.now_ns())
        self._tried.discard(request.id)
        self._context.log.info(
            "order.amended", client_order_id=request.client_order_id, by=request.by, error=error or ""
        )

    # ── exits ────────────────────────────────────────────────────────────────────────────────────
    async def _change_exits(self, request: OrderAmendment, order: Order) -> None:
        """Move the stop of a parent, or give it other targets; both, or neither."""
        if error := self._exits_problem(request, order):
            await self._finish(request, error)
            return
        if request.stop_loss is not None:
            now_ns = self._context.clock.now_ns()
            stamp = self._ledger.stamp("stop-amended", "person")
            moved = e.StopMoved(**stamp, stop_loss=request.stop_loss, bar_ns=now_ns)
            await self._ledger.apply(order.client_order_id, moved)
        if request.plan is not None:
            assert order.signal_id is not None
            if not await self._store.set_plan(order.signal_id, plan_json(request.plan)):
                return
            key = (order.account_id, order.venue, order.symbol)
            self._workers.post(key, m.PlanChanged(order.signal_id, request.plan))
        await self._finish(request)

    def _exits_problem(self, request: OrderAmendment, order: Order) -> str | None:
        """Return why a parent's exits cannot be changed so; None: they can."""
        stop, sign = request.stop_loss, order.side.sign
        buckets = self._context.cache.buckets((order.account_id, order.venue, order.symbol))
        held = buckets.get(order.instance, Decimal(0))
        if order.stop_loss is None or order.signal_id is None:
            return "it has no stop loss of its own"
        if order.state not in OPEN and held * sign <= 0:
            return "nothing is held of it any more"
        if request.plan is not None and order.group_id is not None and order.state in OPEN:
            return "its exits went out with it: they can be changed once it has filled"
        if stop is not None and (stop - order.stop_loss) * sign < 0:
            return f"a stop only moves nearer to the market: it is at {order.stop_loss:f}"
        return _text(self._submissions.exits_denial(order, stop, request.plan))

    # ── resting orders ───────────────────────────────────────────────────────────────────────────
    async def _change_entry(self, request: OrderAmendment, order: Order) -> bool:
        """Take the amendment of a resting order one step further. Return whether it is done."""
        venue = self._context.cache.venues[order.venue]
        if venue.state in ("COLD", "SYNCING"):
            return False  # after a restart: its first comparison is awaited, before which every entry is denied
        quantity = order.quantity if request.quantity is None else request.quantity
        if order.state not in OPEN:
            return await self._succeed(request, order, quantity)
        if order.request is not Request.NONE or order.state not in LIVE:
            return False  # a report, or the end of what was asked, is awaited
        price, stop_price = self._prices(request, order)
        is_at_price = (price, stop_price) == (order.price, order.stop_price)
        if quantity == order.quantity and is_at_price:
            await self._finish(request)
            return True
        if error := _text(self._submissions.successor_denial(order, price, stop_price, quantity)):
            await self._finish(request, error)  # nothing is cancelled for an order that could not follow
            return True
        is_reduced = is_at_price and order.filled < quantity < order.quantity
        if is_reduced and venue.capabilities.can_amend and order.group_id is None and request.id not in self._tried:
            self._tried.add(request.id)
            await self._venue_orders.amend([order.client_order_id], quantity)
        else:
            by = request.by if request.bar_ns is None else ""
            await self._venue_orders.cancel(order.client_order_id, by=by, reason=f"amendment {request.id}")
        return False

    def _prices(self, request: OrderAmendment, order: Order) -> tuple[Decimal | None, Decimal | None]:
        """Return the limit and the stop that an order would have: those of a strategy on the instrument's grid."""
        price, stop = request.price, request.stop_price
        item = self._context.cache.instruments.get((order.exchange, order.symbol))
        if request.bar_ns is not None and item is not None:
            price = None if price is None else item.round_price(price, side=order.side.value, is_stop=False)
            stop = None if stop is None else item.round_price(stop, side=order.side.value, is_stop=True)
        return order.price if price is None else price, order.stop_price if stop is None else stop

    async def _succeed(self, request: OrderAmendment, order: Order, quantity: Decimal) -> bool:
        """Make the signal of an order's successor over what it has not filled."""
        if order.reported_cum_qty > order.filled:
            return False  # executions are on their way
        left = quantity - order.filled
        record = None if order.signal_id is None else await self._context.signals.get(order.signal_id)
        is_cancelled = order.state is State.CANCELLED and not await self._ledger.store.is_ended_by_person(
            order.client_order_id
        )
        if record is None or not is_cancelled or left <= 0:
            await self._finish(request, f"the order is {order.state.value} with {order.filled.normalize():f} filled")
            return True
        price, stop_price = self._prices(request, order)
        signal = replace(
            record.signal,
            id=request_signal_id(request.by, f"amendment:{request.id}"),
            ts_event_ns=self._context.clock.now_ns(),
            size=left,
            limit_price=record.signal.limit_price if request.price is None else price,
            stop_price=record.signal.stop_price if request.stop_price is None else stop_price,
            stop_loss=order.stop_loss,
            state=SignalState.READY,
            reason=f"amends order {order.client_order_id}",
        )
        if request.bar_ns is None:
            await self._context.signals.insert([signal])
        else:
            moved = replace(signal, ts_event_ns=request.bar_ns, ordinal=AMENDED, valid_until_ns=None)
            if not await self._insert_unless_left(moved, record.signal.ts_event_ns):
                await self._finish(request, "its strategy has left meanwhile")
                return True
        await self._finish(request, successor=signal.id)
        self._wake_intake()
        return True

    async def _insert_unless_left(self, signal: Signal, decided_ns: int) -> bool:
        """Insert the signal of a strategy's order at another price, unless the strategy has decided to leave since bar
        `decided_ns`: an exit that is committed later then comes after it. Return whether it is there."""
        instance = copied_instance(signal.instance) or signal.instance
        async with self._context.db.transaction() as tx:
            store = SettlementStore(tx, self._context.lease)
            await store.hold_instance(instance)
            if await store.has_left(instance, signal.symbol, decided_ns):
                return False
            await SignalStore(tx, self._context.lease).insert([signal])
        return True


def _text(denial: Denial | None) -> str | None:
    return None if denial is None else f"{denial.code.value}: {denial_text(denial)}"
