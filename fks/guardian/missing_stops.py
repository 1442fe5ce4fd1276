"""Stops that the exchange lacks, by the guardian's rows of one venue. Pure.

Only stops of known entries are found, and never over more than the position less what all live orders may close of it.
Whatever is not known leaves its position, or its whole symbol, as it is: an order of unknown outcome, an execution
that the history lacks, an order of ours that PostgreSQL had not shown before it was away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.guardian.positions import DatabaseSnapshot, Holder, is_ours
from fks.model.order import OPEN, Fill, Order, Report, Role, evolve
from fks.orders.protection import desired

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
            entry = evolve(order, filled=max(order.filled, executed.get(order.client_order_id, _ZERO)))
            entries.setdefault(Holder.of(order), []).append(entry)
    blocked = {*snapshot.orders_unknown(view.fills, frozenset(), view.since_ns).values(), *_symbols_of_unknown(view)}
    clear = {
        holder: mine
        for holder, mine in entries.items()
        if holder.symbol not in blocked and not _is_unclear(view, holder, executed)
    }
    found = [
        missing
        for holder, mine in clear.items()
        for missing in _missing_of(view, holder, mine, positions.get(holder, _ZERO))
    ]
    return found, len(clear) < len(entries)


def _symbols_of_unknown(view: ReadVenue) -> set[str]:
    """Return the symbols of live orders that have ids of ours and are not known."""
    return {report.symbol for id, report in view.live.items() if is_ours(id) and id not in view.snapshot.orders}


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
    view: ReadVenue, holder: Holder, entries: Sequence[Order], position: Decimal
) -> list[tuple[Order, Decimal]]:
    rules = view.snapshot.rules.get(holder.symbol)
    if rules is None or any(entry.group_id is not None and entry.filled < entry.quantity for entry in entries):
        return []  # the venue holds the exits of an entry that went out with them
    covered, others = _cover(view, holder, position)
    free = abs(position) - others - sum(covered.values(), _ZERO)
    found = []
    for want in desired(position, entries, others, None):
        stop, lack = want.parent.stop_loss, want.part - covered.get(want.parent.client_order_id, _ZERO)
        quantity = max(min(lack, free), _ZERO)
        quantity -= quantity % rules.lot_step
        is_large = quantity >= max(rules.qty_min, rules.lot_step)
        if stop is not None and is_large and quantity * stop >= rules.notional_min:
            found.append((want.parent, quantity))
            free -= quantity
    return found


def _cover(view: ReadVenue, holder: Holder, position: Decimal) -> tuple[dict[str, Decimal], Decimal]:
    """Return what live stops cover, by entry, and what other live orders may close; a take profit closes nothing beside
    the stop of its entry, to which it is tied."""
    covered: dict[str, Decimal] = {}
    takes: list[tuple[str, Decimal]] = []
    others = _ZERO
    for id, report in view.live.items():
        known = view.snapshot.orders.get(id)
        if known is None or known.holder != holder or report.side is None or report.quantity is None:
            continue  # of another holder: without a side or a quantity this one was left as it is
        if report.side.sign * position >= 0:
            continue
        left = report.quantity - report.filled
        if known.role == Role.STOP_LOSS.value:
            covered[known.parent_id] = covered.get(known.parent_id, _ZERO) + left
        elif known.role == Role.TAKE_PROFIT.value:
            takes.append((known.parent_id, left))
        else:
            others += left
    return covered, others + sum((left for parent, left in takes if parent not in covered), _ZERO)


def unended(snapshot: DatabaseSnapshot, holders: Collection[Holder]) -> list[str]:
    """Return the ids of orders of `holders` that have not ended, as far as is known."""
    return [id for id, known in snapshot.orders.items() if known.holder in holders and known.state in OPEN]
