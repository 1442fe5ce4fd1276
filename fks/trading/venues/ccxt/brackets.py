"""Brackets: one order of an exchange that is a stop and a take profit of ours. Pure.

Such an order is sent under the client ids of all orders of ours that it stands for, one behind the other: stop and take
profit, or an entry and the two exits attached to it. Each read can part them by these ids, also after a restart. The
exchange places an attached bracket by itself, without a client id of ours: it is joined to its entry by the exchange's
ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from fks.model.ids import leg_id
from fks.model.order import PENDING, TERMINAL, BracketLeg, Order, Report, Role, Side, State

#: code of a bracket's report whose stop was triggered
TRIGGERED = "STOP_TRIGGERED"
#: codes of exits whose bracket is not shown so long after its entry was filled, and of those whose entry ended before
MISSING, MISSING_NS, ENDED = "BRACKET_MISSING", 10 * 1_000_000_000, "ENTRY_ENDED"
#: codes of exits that are reported from their entry alone: a report of their bracket counts more
OF_ENTRY = frozenset({PENDING, MISSING, ENDED})
_ID = 32
_IDS = re.compile(r"(?:[0-9a-f]{32}){2,3}")
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Brackets:
    """The brackets of one exchange.

    `place` takes stop, take profit and the market's name; the orders of a request carry the ids of `wire_id`. `attach`
    takes an entry, its stop, its take profit and the market's name: the exchange places the bracket at the entry's
    complete fill, over its quantity. `origins_of` returns, from a list of orders, the exchange's id of each attached
    bracket and of its entry.
    """

    place: Callable[[Order, Order, str], Any]
    attach: Callable[[Order, Order, Order, str], Any]
    origins_of: Callable[[Any], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Closes:
    """The stops that one exchange makes for fills of an entry.

    `place` takes the entry, the market's name and the deadline. `origins_of` returns, from a list of orders, the
    exchange's id of each such stop and of its entry. `ended` reads the orders that ended since a time (ns).
    """

    place: Callable[[Order, str, int], Any]
    origins_of: Callable[[Any], Mapping[str, str]]
    ended: Callable[[int], Any]


def as_close(report: Report, parent_id: str) -> Report:
    """Return the report of a stop that was made for a fill of an order of ours, under an id made of that one's and the
    exchange's."""
    leg = BracketLeg(parent_id, Role.STOP_LOSS, 0, report.stop_price)
    return replace(report, client_order_id=leg_id(parent_id, str(report.venue_order_id)), leg=leg)


def wire_id(orders: Sequence[Order]) -> str:
    """Return the client id of one order of the exchange that stands for these orders of ours."""
    return "".join(order.client_order_id for order in orders)


def ids_in(name: str) -> list[str]:
    """Return the client ids of ours in a client id of the exchange's order; itself where it stands for one order."""
    if _IDS.fullmatch(name) is None:
        return [name]
    return [name[at : at + _ID] for at in range(0, len(name), _ID)]


def parts_of(report: Report, name: str, now_ns: int) -> list[Report]:
    """Return the reports about orders of ours that a report about an order of the exchange holds. `name`: the client
    ids that it stands for."""
    ids = ids_in(name)
    is_foreign = len(ids) == 2 and None in (report.price, report.stop_price)  # another program's id may look like two
    if len(ids) == 1 or is_foreign:
        return [replace(report, client_order_id=name)]
    if len(ids) == 2:
        return _legs(report, *ids)
    return [replace(report, client_order_id=ids[0]), *_waiting(report, ids[1:], now_ns)]


def _waiting(entry: Report, ids: Sequence[str], now_ns: int) -> list[Report]:
    """Return the exits that wait for an entry, under its id at the exchange: a cancel of theirs is one of it. They have
    no time: whenever their bracket is shown, and however long ago it was made, that is newer."""
    state, code = State.ACCEPTED, PENDING
    if entry.state is State.FILLED:
        state, code = (State.EXPIRED, MISSING) if now_ns - entry.time_ns > MISSING_NS else (state, code)
    elif entry.state in TERMINAL:
        state, code = State.EXPIRED, ENDED
    exits = replace(
        entry,
        state=state,
        code=code,
        time_ns=0,
        filled=_ZERO,
        price=None,
        stop_price=None,
        side=None if entry.side is None else entry.side.opposite,
    )
    return [replace(exits, client_order_id=id) for id in ids]


def _legs(report: Report, stop_id: str, limit_id: str) -> list[Report]:
    """Return both legs of a bracket. Once one of them has executed, or the stop was triggered, the other has ended:
    a take profit that was filled in part is not turned into a stop any more."""
    is_triggered = report.code == TRIGGERED
    report = replace(report, code=None if is_triggered else report.code)
    stop = replace(report, client_order_id=stop_id, price=None)
    limit = replace(report, client_order_id=limit_id, stop_price=None)
    if is_triggered:
        return [stop, replace(limit, state=State.CANCELLED, filled=_ZERO)]
    if report.filled > 0:
        return [replace(stop, state=State.CANCELLED, filled=_ZERO), limit]
    if report.state is State.ACCEPTED:
        limit = replace(limit, state=State.WORKING)  # it rests in the book, and the stop does not
    return [stop, limit]


def leg_of(prices: Mapping[str, Decimal | None], side: Side, price: Decimal) -> str:
    """Return which of the orders of ours (client id -> limit price, None for a stop) an execution is of that the
    exchange shows for all of them: the take profit at its price or better, else the stop. `side`: of the execution."""
    if len(prices) == 1:
        return next(iter(prices))
    limit_id, limit = next((id, value) for id, value in prices.items() if value is not None)
    return limit_id if (price - limit) * -side.sign >= 0 else next(id for id in prices if id != limit_id)
