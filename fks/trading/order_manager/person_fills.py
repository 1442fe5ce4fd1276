"""Executions that a person reported without a venue trade id, until the venue's own executions replace them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from fks.model import ids
from fks.model.instrument import money
from fks.model.order import Fill, Order
from fks.store.orders import ExecutionRow
from fks.trading.orders import events as e

#: `trades.source` of an execution that a person reported, and of an entry that takes one back
PERSON, BUST = "person", "bust"
_ZERO = Decimal(0)


class PersonFills:
    """The executions by person that are still booked, by client order id. Soft state: the trades table holds them.

    The venue may report the same executions later, under its own trade ids. Each of them takes as much of the
    person's figures back as it brings, so that nothing is booked twice.
    """

    def __init__(self) -> None:
        self._left: dict[str, list[ExecutionRow]] = {}  # each with the rest of its execution

    def load(self, trades: Iterable[ExecutionRow]) -> None:
        """Forget everything and read again: executions by person and the part taken back of them, oldest first."""
        self._left = {}
        for trade in trades:
            self.note(trade)

    def note(self, trade: ExecutionRow) -> None:
        """Take in one booked row of the trades table; others than a person's and busts change nothing."""
        fill = trade.fill
        if fill.client_order_id is None:
            return
        left = self._left.get(fill.client_order_id, [])
        if fill.source == PERSON:
            left = [*left, trade]
        elif fill.source == BUST:
            left = [
                replace(
                    one, fill=replace(one.fill, quantity=one.fill.quantity - fill.quantity, fee=one.fill.fee + fill.fee)
                )
                if fill.venue_trade_id.startswith(mark(one.fill.fill_id))
                else one
                for one in left
            ]
        if left := [one for one in left if one.fill.quantity > 0]:
            self._left[fill.client_order_id] = left
        else:
            self._left.pop(fill.client_order_id, None)

    def replaced_by(self, fill: Fill, planned: Iterable[ExecutionRow]) -> list[e.Busted]:
        """Return what the venue's execution `fill` takes back; `planned` are the rows that come before it."""
        if fill.client_order_id not in self._left or fill.source == PERSON:
            return []
        mine = PersonFills()
        mine._left[fill.client_order_id] = self._left[fill.client_order_id]
        for trade in planned:
            mine.note(trade)
        found, wanted = list[e.Busted](), fill.quantity
        for trade in mine._left.get(fill.client_order_id, []):
            one = trade.fill
            quantity = min(wanted, one.quantity)
            if quantity <= 0:
                break
            wanted -= quantity
            found.append(
                e.Busted(
                    event_id=f"replaced:{one.fill_id}:{fill.fill_id}",
                    source=fill.source,
                    venue_time_ns=fill.time_ns,
                    fill_id=one.fill_id,
                    quantity=quantity,
                    price=one.price,
                    fee=one.fee if quantity == one.quantity else money(one.fee * quantity / one.quantity),
                    fee_currency=one.fee_currency,
                    instance=trade.instance,
                    is_replaced=True,
                )
            )
        return found


def mark(fill_id: uuid.UUID) -> str:
    """Return how the `venue_trade_id` of an entry that takes `fill_id` back begins."""
    return f"bust:{fill_id}"


def bust_id(bust: e.Busted) -> uuid.UUID:
    """Return the id of the entry that takes an execution back: a venue does so once, each replacement once."""
    return ids.bust_id(bust.fill_id, bust.event_id if bust.is_replaced else "venue")


def reversal(bust: e.Busted, order: Order) -> Fill:
    """Return the execution that moves a position back by what `bust` takes away."""
    return Fill(
        fill_id=bust_id(bust),
        client_order_id=order.client_order_id,
        venue_order_id=order.venue_order_id,
        venue_trade_id=_number_of(bust),
        account_id=order.account_id,
        venue=order.venue,
        symbol=order.symbol,
        side=order.side.opposite,
        quantity=bust.quantity,
        price=bust.price,
        fee=-bust.fee,
        fee_currency=bust.fee_currency,
        time_ns=bust.venue_time_ns or bust.recv_ns,
        source=BUST,
    )


def _number_of(bust: e.Busted) -> str:
    """Return the entry's own trade number: one execution by person may be replaced by several of the venue's."""
    return mark(bust.fill_id) + (f":{bust.event_id.rpartition(':')[2]}" if bust.is_replaced else "")


def bust_payload(bust: e.Busted) -> dict[str, object]:
    """Return what order_events keeps of a bust."""
    return {
        "fill_id": str(bust.fill_id),
        "quantity": f"{bust.quantity:f}",
        "price": f"{bust.price:f}",
        "fee": f"{bust.fee:f}",
        "fee_currency": bust.fee_currency,
        "is_replaced": bust.is_replaced,
        "bust_id": str(bust_id(bust)),
    }
