"""Guards and targets of the machine's rows: small pure functions over an order and an event.

A target returns the fields that its row changes; the machine makes the one copy of the order. The first line of each
docstring is what docs/orders.md prints in the row.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import cast

from fks.model.cash_flows import split_quantity
from fks.model.order import LIVE, OLD_SHARES, PENDING, Fill, Order, Report, Request, State
from fks.trading.orders import events as e

_ZERO = Decimal(0)
Guard = Callable[[Order, e.Event], bool]
#: New values of an order, by field; what is equal to the old value counts as unchanged.
Fields = dict[str, object]
Change = Callable[[Order, e.Event], Fields]
#: Ended at or by the venue, and still listening (rows 36 and 37).
ENDED = frozenset({State.CANCELLED, State.EXPIRED, State.REJECTED, State.ABSENT})


# ── guards ───────────────────────────────────────────────────────────────────────────────────────
def always(order: Order, event: e.Event) -> bool:
    """–"""
    return True


def is_older_epoch(order: Order, event: e.Event) -> bool:
    """epoch older than the reader's"""
    return order.epoch < cast(e.Replayed, event).epoch


def _report(event: e.Event) -> Report:
    return cast(e.Reported | e.Acked | e.LegReported, event).report


def reports_open(order: Order, event: e.Event) -> bool:
    """says open"""
    return _report(event).state in LIVE


def reports_cancelled(order: Order, event: e.Event) -> bool:
    """says cancelled"""
    return _report(event).state is State.CANCELLED


def reports_expired(order: Order, event: e.Event) -> bool:
    """says expired"""
    return _report(event).state is State.EXPIRED


def reports_rejected(order: Order, event: e.Event) -> bool:
    """says rejected"""
    return _report(event).state is State.REJECTED


def reports_filled(order: Order, event: e.Event) -> bool:
    """says filled"""
    return _report(event).state is State.FILLED


def reports_executed(order: Order, event: e.Event) -> bool:
    """says partly filled or filled"""
    return _report(event).filled > 0


def is_within_reported(order: Order, event: e.Event) -> bool:
    """counted by the report that ended it"""
    return order.filled + _fill(event).quantity <= order.reported_cum_qty


def is_within(order: Order, event: e.Event) -> bool:
    """cum <= quantity"""
    return order.filled + _fill(event).quantity <= order.quantity


def never_acknowledged(order: Order, event: e.Event) -> bool:
    """never acknowledged"""
    return not order.is_acknowledged


def was_acknowledged(order: Order, event: e.Event) -> bool:
    """acknowledged before"""
    return order.is_acknowledged


def has_cancel_request(order: Order, event: e.Event) -> bool:
    """request is cancel"""
    return order.request in (Request.CANCEL, Request.CANCEL_UNKNOWN, Request.CANCEL_WANTED)


def cancel_unknown_order(order: Order, event: e.Event) -> bool:
    """request is cancel, code UNKNOWN_ORDER"""
    return has_cancel_request(order, event) and cast(e.CancelRefused, event).code == "UNKNOWN_ORDER"


def has_replace_request(order: Order, event: e.Event) -> bool:
    """request is replace"""
    return order.request in (Request.REPLACE, Request.REPLACE_UNKNOWN)


def has_no_request(order: Order, event: e.Event) -> bool:
    """no request is open"""
    return order.request is Request.NONE


def is_nearer(order: Order, event: e.Event) -> bool:
    """nearer to the market than the stop is"""
    moved = cast(e.StopMoved, event).stop_loss
    return order.stop_loss is not None and (moved - order.stop_loss) * order.side.sign > 0


def has_take_profit(order: Order, event: e.Event) -> bool:
    """it has a take profit"""
    return order.take_profit is not None


def has_fills(order: Order, event: e.Event) -> bool:
    """the fill is known"""
    return order.filled >= cast(e.Busted, event).quantity


def is_replaced(order: Order, event: e.Event) -> bool:
    """the venue's own execution replaces a person's figures"""
    return cast(e.Busted, event).is_replaced and has_fills(order, event)


def is_old(order: Order, event: e.Event) -> bool:
    """older than the state proves"""
    report = _report(event)
    if report.state in LIVE:
        if order.state in LIVE:
            is_back = report.state is State.ACCEPTED and order.state is State.WORKING
            back = is_back or (report.code == PENDING and not order.is_pending)
            # below what an earlier report named, it is the older of the two, though the executions are not booked yet
            return report.filled < max(order.filled, order.reported_cum_qty) or (
                back and report.time_ns < order.venue_time_ns
            )
        if order.state is State.FILLED:
            return True
        # the end of an order is the last thing its venue says: what has the same time came before it
        return order.state in ENDED and 0 < report.time_ns <= order.venue_time_ns
    return order.state in (State.FILLED, State.CANCELLED, State.EXPIRED) and report.filled <= max(
        order.filled, order.reported_cum_qty
    )


# ── targets ──────────────────────────────────────────────────────────────────────────────────────
def to(state: State) -> Change:
    """Return the change that only sets the state."""

    def target(order: Order, event: e.Event) -> Fields:
        return {"state": state}

    target.__doc__ = state.value
    return target


def same(order: Order, event: e.Event) -> Fields:
    """same"""
    return {}


def replayed(order: Order, event: e.Event) -> Fields:
    """same, a request that was made is unknown"""
    return {"request": _UNRESOLVED.get(order.request, order.request)}


def not_listed(order: Order, event: e.Event) -> Fields:
    """UNKNOWN, a replacement is unknown"""
    unknown = order.request is Request.REPLACE
    return {"state": State.UNKNOWN, "request": Request.REPLACE_UNKNOWN if unknown else order.request}


_UNRESOLVED = {Request.CANCEL: Request.CANCEL_UNKNOWN, Request.REPLACE: Request.REPLACE_UNKNOWN}


def sent(order: Order, event: e.Event) -> Fields:
    """SENDING"""
    sending = cast(e.Sent, event)
    quantity = order.quantity if sending.quantity is None else sending.quantity
    return {"state": State.SENDING, "quantity": quantity, "group_id": sending.group_id}


def denied(order: Order, event: e.Event) -> Fields:
    """DENIED"""
    denial = cast(e.Denied, event)
    return {"state": State.DENIED, "code": denial.code, "detail": denial.detail}


def abandoned(order: Order, event: e.Event) -> Fields:
    """ABANDONED"""
    return {"state": State.ABANDONED, "detail": getattr(event, "reason", "") or order.detail}


def refused(order: Order, event: e.Event) -> Fields:
    """REJECTED"""
    refusal = cast(e.Refused, event)
    return {"state": State.REJECTED, "code": refusal.code, "detail": refusal.detail, "refusal": refusal.refusal}


def as_reported(order: Order, event: e.Event) -> Fields:
    """as reported"""
    report = _report(event)
    state = report.state
    if state in LIVE and (report.filled > 0 or order.filled > 0):
        state = State.PARTIAL
    if state in LIVE and order.filled >= order.quantity:
        state = State.FILLED
    known: Fields = {
        "state": state,
        "reported_cum_qty": max(order.reported_cum_qty, report.filled),
        "venue_order_id": report.venue_order_id or order.venue_order_id,
        "is_acknowledged": True,
    }
    may_be_amended = order.parent_id is not None or order.request is Request.REPLACE_UNKNOWN
    if report.leg is None and may_be_amended and _ZERO < (report.quantity or _ZERO) < order.quantity:
        known["quantity"] = report.quantity  # an amendment, whose answer may never come
    if order.is_pending and report.code != PENDING and report.quantity:
        known["quantity"] = report.quantity  # a leg that sells what its entry received
    if order.request is Request.REPLACE_UNKNOWN and report.source != "stream":
        known["request"] = Request.NONE
        prices = {"price": report.price, "stop_price": report.stop_price}  # one of them may have moved
        known |= {name: value for name, value in prices.items() if None not in (value, getattr(order, name))}
    has_ended = state in (State.REJECTED, State.EXPIRED)
    if report.code == PENDING or order.code == PENDING:
        known["code"] = report.code
    elif has_ended:
        known["code"] = report.code or order.code
    if has_ended:
        known["detail"] = report.detail or order.detail
        known["refusal"] = report.refusal
    return known


def leg_changed(order: Order, event: e.Event) -> Fields:
    """same, new prices and quantity"""
    change = cast(e.LegChanged, event)
    code = None if order.code == OLD_SHARES else order.code  # the venue converted it
    return {"quantity": change.quantity, "price": change.price, "stop_price": change.stop_price, "code": code}


def stop_moved(order: Order, event: e.Event) -> Fields:
    """same, new stop loss"""
    return {"stop_loss": cast(e.StopMoved, event).stop_loss}


def target_moved(order: Order, event: e.Event) -> Fields:
    """same, new take profit"""
    return {"take_profit": cast(e.TargetMoved, event).take_profit}


def unprotected(order: Order, event: e.Event) -> Fields:
    """same, without stop loss and take profit"""
    return {"stop_loss": None, "take_profit": None}


def in_new_shares(order: Order, event: e.Event) -> Fields:
    """same, quantities and prices in the new shares"""
    split = cast(e.SharesSplit, event)

    def quantity(value: Decimal) -> Decimal:
        return split_quantity(value, split.new, split.old)

    def price(value: Decimal | None) -> Decimal | None:
        return None if value is None else value * split.old / split.new

    return {
        "quantity": quantity(order.quantity),
        "filled": quantity(order.filled),
        "reported_cum_qty": quantity(order.reported_cum_qty),
        "average_price": price(order.average_price),
        "price": price(order.price),
        "stop_price": price(order.stop_price),
        "stop_loss": split.stop_loss,
        "take_profit": split.take_profit,
    }


def in_old_shares(order: Order, event: e.Event) -> Fields:
    """same, marked: it rests at the venue in the old shares"""
    return {"code": OLD_SHARES}


def as_reported_late(order: Order, event: e.Event) -> Fields:
    """as reported, late"""
    return {**as_reported(order, event), "is_late": True}


def raise_reported(order: Order, event: e.Event) -> Fields:
    """same, cum raised"""
    return {"reported_cum_qty": max(order.reported_cum_qty, _report(event).filled)}


def keep_ids(order: Order, event: e.Event) -> Fields:
    """same, ids stored"""
    report = _report(event)
    return {
        "venue_order_id": order.venue_order_id or report.venue_order_id,
        "reported_cum_qty": max(order.reported_cum_qty, report.filled),
        "is_acknowledged": True,
    }


def _fill(event: e.Event) -> Fill:
    return cast(e.FillSeen, event).fill


def _with_fill(order: Order, fill: Fill, open_state: State) -> Fields:
    """Return the fields after a fill: FILLED when nothing is left, else `open_state`."""
    filled = order.filled + fill.quantity
    paid = (order.average_price or _ZERO) * order.filled + fill.price * fill.quantity
    return {
        "state": State.FILLED if filled >= order.quantity else open_state,
        "filled": filled,
        "average_price": paid / filled,
        "reported_cum_qty": max(order.reported_cum_qty, filled),
        "venue_order_id": order.venue_order_id or fill.venue_order_id,
        "is_acknowledged": True,
        "is_overfilled": order.is_overfilled or filled > order.quantity,
        "code": None if order.code == PENDING else order.code,
    }


def by_quantity(order: Order, event: e.Event) -> Fields:
    """PARTIAL / FILLED"""
    return _with_fill(order, _fill(event), State.PARTIAL)


def by_quantity_late(order: Order, event: e.Event) -> Fields:
    """PARTIAL / FILLED, late"""
    return {**by_quantity(order, event), "is_late": True}


def completed(order: Order, event: e.Event) -> Fields:
    """same, filled raised"""
    return _with_fill(order, _fill(event), order.state)


def busted(order: Order, event: e.Event) -> Fields:
    """recomputed from the remaining fills"""
    bust = cast(e.Busted, event)
    filled = order.filled - bust.quantity
    paid = (order.average_price or _ZERO) * order.filled - bust.price * bust.quantity
    state = order.state
    if state is State.FILLED and filled < order.quantity:
        state = State.CANCELLED  # done at the venue, with less than was asked
    elif state is State.PARTIAL and filled == 0:
        state = State.WORKING
    return {
        "state": state,
        "filled": filled,
        "reported_cum_qty": filled,
        "is_overfilled": filled > order.quantity,
        "average_price": paid / filled if filled else None,
    }


def given_back(order: Order, event: e.Event) -> Fields:
    """same, filled lowered"""
    return {**busted(order, event), "state": order.state, "reported_cum_qty": order.reported_cum_qty}


def settled(order: Order, event: e.Event) -> Fields:
    """as the person says"""
    settlement = cast(e.Settled, event)
    return {
        "state": settlement.outcome,
        "detail": f"settled by {settlement.by}: {settlement.reason}",
        "reported_cum_qty": order.filled if settlement.filled is None else max(settlement.filled, order.filled),
    }


def with_request(request: Request) -> Change:
    """Return the change that only sets the request."""

    def target(order: Order, event: e.Event) -> Fields:
        return {"request": request}

    target.__doc__ = f"same, request={request.value}"
    return target


def cancelled(order: Order, event: e.Event) -> Fields:
    """CANCELLED"""
    filled = cast(e.CancelAcked, event).filled
    code = None if order.code == PENDING else order.code
    return {
        "state": State.CANCELLED,
        "reported_cum_qty": max(order.reported_cum_qty, filled or _ZERO),
        "code": code,
    }


def replaced(order: Order, event: e.Event) -> Fields:
    """same, new prices and quantity"""
    return {**amended(order, event), "request": Request.NONE}


def amended(order: Order, event: e.Event) -> Fields:
    """same, new prices and quantity; the request stays"""
    change = cast(e.ReplaceAcked, event)
    stop_price = order.stop_price if change.stop_price is None else change.stop_price
    return {"quantity": change.quantity, "price": change.price, "stop_price": stop_price}


def stale(order: Order, event: e.Event) -> Fields:
    """same, stale"""
    return {"is_stale": True}
