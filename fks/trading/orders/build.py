"""Orders from approved intents, and the legs that protect them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from fks.model.codes import Denial
from fks.model.ids import client_order_id
from fks.model.instrument import Instrument
from fks.model.order import PENDING, BracketLeg, Order, OrderType, Report, Role, State, TimeInForce
from fks.model.parent import TARGET_ATTEMPTS, ParentPlan, shares_of
from fks.trading.risk.check import Approved, RiskDenied
from fks.trading.risk.intent import Intent

#: what the orders of one list share; a role of its own, so that it collides with no order's id
_GROUP = "oco"


def order_of(approved: Approved, *, epoch: int, now_ns: int) -> Order:
    """Return the order of an approved intent, not yet begun."""
    return _order(approved.intent, epoch, now_ns, is_reduce_only=approved.is_reduce_only)


def denied_order(denied: RiskDenied, *, epoch: int, now_ns: int) -> Order:
    """Return the row that keeps a denied intent: nothing of it was ever sent."""
    return _order(denied.intent, epoch, now_ns)


def denial_text(denial: Denial) -> str:
    """Return what a caller reads of a denial beside its code."""
    return f"{denial.scope}: {denial.observed}, limit {denial.limit}; {denial.remedy}"


def _order(intent: Intent, epoch: int, now_ns: int, *, is_reduce_only: bool = False) -> Order:
    return Order(
        client_order_id=intent.client_order_id,
        intent_id=intent.intent_id,
        signal_id=intent.signal_id,
        account_id=intent.account_id,
        venue=intent.venue,
        exchange=intent.exchange,
        symbol=intent.symbol,
        instance=intent.instance,
        role=intent.role,
        attempt=intent.attempt,
        side=intent.side,
        type=intent.type,
        time_in_force=intent.time_in_force,
        quantity=intent.quantity,
        price=intent.price,
        stop_price=intent.stop_price,
        stop_loss=intent.stop_loss,
        take_profit=intent.take_profit,
        is_reduce_only=is_reduce_only,
        epoch=epoch,
        trace_id=intent.trace_id,
        valid_until_ns=intent.valid_until_ns,
        created_ns=now_ns,
        updated_ns=now_ns,
    )


def legs_of(parent: Order, *, quantity: Decimal, attempt: int, epoch: int, now_ns: int) -> list[Order]:
    """Return the stop and the take-profit leg that `parent` wants (one, two or none), stop first, not yet begun."""
    legs = []
    if parent.stop_loss is not None:
        stop = leg_of(parent, Role.STOP_LOSS, OrderType.STOP, quantity, attempt, epoch, now_ns)
        legs.append(replace(stop, stop_price=parent.stop_loss))
    if parent.take_profit is not None:
        limit = leg_of(parent, Role.TAKE_PROFIT, OrderType.TAKE_PROFIT, quantity, attempt, epoch, now_ns)
        legs.append(replace(limit, price=parent.take_profit))
    return legs


def target_legs(entry: Order, plan: ParentPlan, *, instrument: Instrument, epoch: int, now_ns: int) -> list[Order]:
    """Return the legs that an entry with several targets wants, not yet begun: a stop and a take profit for each target
    that has a part of the quantity."""
    legs = []
    for at, (target, quantity) in enumerate(
        zip(plan.targets, shares_of(entry.quantity, plan, instrument), strict=True)
    ):
        if quantity > 0:
            parent = replace(entry, take_profit=target.price)
            attempt = at * TARGET_ATTEMPTS
            legs += legs_of(parent, quantity=quantity, attempt=attempt, epoch=epoch, now_ns=now_ns)
    return legs


def listed_legs(entry: Order, *, quantity: Decimal, epoch: int, now_ns: int) -> list[Order]:
    """Return the legs that go out with `entry` as one list and wait at the venue for its complete fill."""
    legs = legs_of(entry, quantity=quantity, attempt=0, epoch=epoch, now_ns=now_ns)
    return [replace(leg, group_id=group_of(entry, 0), code=PENDING) for leg in legs]


def reported_leg(parent: Order, report: Report, leg: BracketLeg, *, epoch: int, now_ns: int) -> Order:
    """Return the order of a leg that the venue placed for `parent`, as it reports it, not yet in the journal."""
    is_stop = leg.role is Role.STOP_LOSS
    order = leg_of(
        parent,
        leg.role,
        OrderType.STOP if is_stop else OrderType.TAKE_PROFIT,
        parent.quantity if report.quantity is None else report.quantity,
        leg.number - 1,
        epoch,
        now_ns,
    )
    return replace(
        order,
        client_order_id=report.client_order_id,
        price=report.price,
        stop_price=leg.stop_price,
        venue_time_ns=report.time_ns,
        created_ns=min(report.time_ns or now_ns, now_ns),
    )


def leg_of(
    parent: Order, role: Role, type_: OrderType, quantity: Decimal, attempt: int, epoch: int, now_ns: int
) -> Order:
    """Return an order that closes a part of what `parent` opened, not yet begun."""
    return Order(
        client_order_id=client_order_id(parent.intent_id, role, attempt),
        intent_id=parent.intent_id,
        signal_id=parent.signal_id,
        account_id=parent.account_id,
        venue=parent.venue,
        exchange=parent.exchange,
        symbol=parent.symbol,
        instance=parent.instance,
        role=role,
        attempt=attempt,
        side=parent.side.opposite,
        type=type_,
        time_in_force=TimeInForce.GTC,
        quantity=quantity,
        state=State.INTENDED,
        parent_id=parent.client_order_id,
        is_reduce_only=True,
        epoch=epoch,
        trace_id=parent.trace_id,
        created_ns=now_ns,
        updated_ns=now_ns,
    )


def group_of(parent: Order, attempt: int) -> str:
    """Return the group id of a parent's legs of one attempt; of the first, where they went out with it, its own too."""
    return client_order_id(parent.intent_id, _GROUP, attempt)
