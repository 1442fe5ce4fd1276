"""Executed entries of one instance, kept in the order of their creation: what its position is made of. Pure.

Sums are kept as entries come and go, so that an event costs the same whether a position is made of one entry or of
10,000: only entries with a stop loss or take profit are gone through, once for each change.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from decimal import Decimal

from fks.model.instrument import Instrument
from fks.model.order import Order, Side
from fks.orders.protection import Want, desired

_ZERO = Decimal(0)


class Entries:
    """Entries and persons' orders with executions, by client order id."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}
        self._keys: list[tuple[int, str]] = []  # oldest first
        self._filled = {Side.BUY: _ZERO, Side.SELL: _ZERO}
        self._protected = 0  # how many have a stop loss or take profit
        self._newest_first: list[Order] | None = None
        self._wants: tuple[tuple[Decimal, Decimal], Instrument | None, list[Want]] | None = None

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, client_order_id: str) -> bool:
        return client_order_id in self._orders

    def put(self, order: Order) -> None:
        """Take in an entry's newest state; one of which nothing is executed any more (a bust) is no entry."""
        self.pop(order.client_order_id)
        if order.filled <= 0:
            return
        self._orders[order.client_order_id] = order
        insort(self._keys, _key(order))
        self._filled[order.side] += order.filled
        self._protected += _is_protected(order)

    def pop(self, client_order_id: str) -> None:
        """Forget an entry, if it is there."""
        self._newest_first = self._wants = None
        order = self._orders.pop(client_order_id, None)
        if order is not None:
            del self._keys[bisect_left(self._keys, _key(order))]
            self._filled[order.side] -= order.filled
            self._protected -= _is_protected(order)

    @property
    def newest(self) -> Order:
        """Return the entry that was created last."""
        return self._orders[self._keys[-1][1]]

    def newest_first(self) -> list[Order]:
        """Return all entries."""
        if self._newest_first is None:
            self._newest_first = [self._orders[name] for _, name in reversed(self._keys)]
        return self._newest_first

    def covers(self, position: Decimal) -> bool:
        """Return whether entries of its side make up a position (signed)."""
        return not position or self._filled[_side(position)] >= abs(position)

    def may_drop(self, position: Decimal) -> bool:
        """Return whether an entry may be left that a position (signed) is not made of: an older one than those that
        cover it, or one of the other side."""
        if not position or self._filled[_side(position).opposite]:
            return True
        oldest = self._orders[self._keys[0][1]]
        return self._filled[_side(position)] - oldest.filled >= abs(position)

    def desired(self, position: Decimal, closing: Decimal, instrument: Instrument | None) -> list[Want]:
        """Return what each entry wants protected of a position (signed): see `fks.orders.protection.desired`."""
        if not self._protected:
            return []
        of = position, closing
        if self._wants is None or self._wants[0] != of or self._wants[1] is not instrument:
            self._wants = of, instrument, desired(position, self.newest_first(), closing, instrument)
        return self._wants[2]


def _key(order: Order) -> tuple[int, str]:
    return order.created_ns, order.client_order_id


def _side(position: Decimal) -> Side:
    return Side.BUY if position > 0 else Side.SELL


def _is_protected(order: Order) -> bool:
    return order.stop_loss is not None or order.take_profit is not None
