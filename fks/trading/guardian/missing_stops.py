"""Stops that the exchange lacks, by the guardian's rows of one venue. Pure.

Only stops of known entries are found, and never over more than the position less what all live orders may close of it.
Whatever is not known leaves its position, or its whole symbol, as it is: an order of unknown outcome, an execution
that the history lacks, an order of ours that PostgreSQL had not shown before it was away.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.model.ids import is_ours
from fks.model.order import OPEN, PENDING, Fill, Order, Report, Role, State, evolve
from fks.trading.guardian.positions import DatabaseSnapshot, Holder
from fks.trading.orders.build import legs_of
from fks.trading.orders.protection import Cover, can_rest, desired, diff, target_of

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class ReadVenue:
    """One venue as it was read: first `live`, its reports of orders that may execute, by client order id; then `ended`,
    what was executed of ours that have ended; at last `fills`, complete from `since_ns` (by symbol) on. In that order
    a stop that executes in between still counts as cover.

    `unclear`: orders of ours that may execute, as far as is known, and that the venue neither lists nor has ended.
    """

    snapshot: DatabaseSnapshot
    live: Mapping[str, Report]
    ended: Mapping[str, Decimal]
    unclear: Collection[str]
    fills: Sequence[Fill]
    since_ns: Mapping[str, int]


def missing_stops(view: ReadVenue, orders: Sequence[Order]) -> tuple[list[tuple[Order, Decimal]], bool]:
    """Return the entries of `orders` (entries and their legs) that lack a stop, each with the quantity that it lacks,
    and whether something else was left as it is because it is unclear."""
    snapshot = view.snapshot
    positions = snapshot.with_fills(view.fills, frozenset(), view.since_ns)
    executed: dict[str, Decimal] = {}
    for fill in view.fills:
        id = fill.client_order_id or ""
        executed[id] = executed.get(id, _ZERO) + fill.quantity
    entries: dict[Holder, list[Order]] = {}
    for order in reversed(orders):  # newest first
        if order.parent_id is None:
            filled = max(order.filled, executed.get(order.client_order_id, _ZERO))
            state = State.CANCELLED if order.is_open and order.client_order_id not in view.live else order.state
            entries.setdefault(Holder.of(order), []).append(evolve(order, filled=filled, state=state))
    blocked = {*snapshot.orders_unknown(view.fills, frozenset(), view.since_ns).values()}
    blocked |= {report.symbol for id, report in view.live.items() if is_ours(id) and id not in snapshot.orders}
    clear = {
        holder: mine
        for holder, mine in entries.items()
        if holder.symbol not in blocked and not _is_unclear(view, holder, executed)
    }
    targets = {order.client_order_id: target_of(order) for order in orders if order.parent_id is not None}
    by_legs = _executed_by_legs(snapshot, orders, executed)
    found = [
        missing
        for holder, mine in clear.items()
        for missing in _missing_of(view, holder, mine, positions.get(holder, _ZERO), targets, by_legs)
    ]
    return found, len(clear) < len(entries)


def _executed_by_legs(
    snapshot: DatabaseSnapshot, orders: Sequence[Order], executed: Mapping[str, Decimal]
) -> dict[str, Decimal]:
    """Return what the legs of each entry executed: by the rows of `orders`, and by the history (`executed`, by
    order), which alone has those of legs that were placed without PostgreSQL."""
    legs = {id: (known.parent_id, _ZERO) for id, known in snapshot.orders.items() if known.parent_id}
    legs |= {order.client_order_id: (order.parent_id, order.filled) for order in orders if order.parent_id is not None}
    found: dict[str, Decimal] = {}
    for id, (parent_id, filled) in legs.items():
        found[parent_id] = found.get(parent_id, _ZERO) + max(filled, executed.get(id, _ZERO))
    return found


def _is_unclear(view: ReadVenue, holder: Holder, executed: Mapping[str, Decimal]) -> bool:
    """Return whether an order of unknown outcome may change the position, or the history lacks executions of it."""
    reported = {id: report.filled for id, report in view.live.items()} | dict(view.ended)
    unsized = {id for id, report in view.live.items() if report.quantity is None or report.side is None}
    return any(
        id in view.unclear or id in unsized or max(known.filled, executed.get(id, _ZERO)) < reported.get(id, _ZERO)
        for id, known in view.snapshot.orders.items()
        if known.holder == holder
    )


def _missing_of(
    view: ReadVenue,
    holder: Holder,
    entries: Sequence[Order],
    position: Decimal,
    targets: Mapping[str, int],
    by_legs: Mapping[str, Decimal],
) -> list[tuple[Order, Decimal]]:
    """Return the stops that `diff` places, the steps of the order manager as far as they only add cover."""
    rules = view.snapshot.rules_at(holder.venue, holder.symbol)
    if rules is None:
        return []
    instrument = rules.instrument(holder.symbol)
    protected = {e.client_order_id: e for e in entries if e.stop_loss is not None or e.take_profit is not None}
    legs, others = _live(view, holder, position, protected, targets)
    covers = [
        Cover(
            want,
            tuple(legs.get(want.parent.client_order_id, ())),
            is_placing=want.parent.stop_loss is None,  # its take profit closes its own part, and is not placed here
            may_end=False,
            lists_max=sys.maxsize,
            has_oco=False,
        )
        for want in desired(position, entries, others, instrument, by_legs)
    ]
    placing = [(step.cover.want.parent, step.quantity) for step in diff(covers, instrument)]
    return [(parent, quantity) for parent, quantity in placing if can_rest(parent, quantity, instrument)]


def _live(
    view: ReadVenue, holder: Holder, position: Decimal, entries: Mapping[str, Order], targets: Mapping[str, int]
) -> tuple[dict[str, list[Order]], Decimal]:
    """Return the live legs of `entries`, each as a list of its own, and what other live orders may close. A take profit
    closes nothing beside the stop of its entry and target (`targets`, by leg), to which it is tied. Legs that wait with
    their entry close what it still receives: all of that while the venue shows no quantity of theirs."""
    legs: dict[str, list[Order]] = {}
    covered: set[tuple[str, int]] = set()
    others = _ZERO
    live = [(id, known, report) for id, report in view.live.items() if (known := view.snapshot.orders.get(id))]
    for known_id, known, report in sorted(live, key=lambda item: item[1].role != Role.STOP_LOSS):  # stops first
        if known.holder != holder or report.side is None or report.quantity is None:
            continue  # of another holder: without a side or a quantity this one was left as it is
        if report.side.sign * position >= 0:
            continue
        parent, quantity = entries.get(known.parent_id), report.quantity - report.filled
        mine = [] if parent is None else legs.setdefault(known.parent_id, [])
        if parent is None:
            others += quantity
        elif report.code == PENDING:
            (leg, *_) = legs_of(parent, quantity=quantity or parent.quantity, attempt=len(mine), epoch=0, now_ns=0)
            mine.append(evolve(leg, state=State.ACCEPTED, group_id=parent.group_id, code=PENDING))
        elif known.role == Role.STOP_LOSS or (known.parent_id, targets.get(known_id, 0)) not in covered:
            covered.add((known.parent_id, targets.get(known_id, 0)))
            stop = legs_of(parent, quantity=quantity, attempt=len(mine), epoch=parent.epoch, now_ns=0)[0]
            mine.append(evolve(stop, role=Role(known.role), state=State.WORKING))
    return legs, others


def unended(snapshot: DatabaseSnapshot, holders: Collection[Holder]) -> list[str]:
    """Return the ids of orders of `holders` that have not ended, as far as is known."""
    return [id for id, known in snapshot.orders.items() if known.holder in holders and known.state in OPEN]
