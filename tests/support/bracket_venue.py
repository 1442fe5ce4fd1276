"""A scripted venue that keeps brackets itself, as NinjaTrader's AddOn does: every executed lot of an entry gets a stop
and a target of the venue's own, and a closing order ends them first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from decimal import Decimal

from fks.model import ids
from fks.model.order import (
    Answer,
    BracketLeg,
    Fill,
    Order,
    OrderType,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.model.ports import VenueCapabilities
from fks.trading.orders.build import legs_of
from tests.support.scripted_venue import ZERO, Held, ScriptedVenue

_CLOSING = (Role.EXIT, Role.KILL)


@dataclass
class BracketVenue(ScriptedVenue):
    """Like ScriptedVenue, and its legs are reported with `BracketLeg`.

    `says_legs`: whether its stream reports a leg when it is placed; `places_legs`: whether it places any. `names`: the
    name of each leg, by its id.
    """

    fee_rate: Decimal = ZERO
    says_legs: bool = True
    places_legs: bool = True
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.capabilities = VenueCapabilities(
            frozenset(OrderType),
            frozenset(TimeInForce),
            can_short=True,
            keeps_bracket=True,
            is_margin=True,
            has_guardian=False,
        )
        self._lots: dict[str, itertools.count[int]] = {}

    async def submit(self, order: Order) -> Answer:
        if order.role in _CLOSING:
            self.end_legs(order.instance)
        answer = await super().submit(order)
        held = self.orders.get(order.client_order_id)
        if held is not None and held.filled > 0:
            self._bracket(held, held.filled)
        return answer

    async def cancel(self, order: Order) -> Answer:
        assert order.parent_id is None, "a leg that the venue keeps was cancelled"
        return await super().cancel(order)

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        raise AssertionError("legs were submitted to a venue that keeps the bracket")

    def fill(self, client_order_id: str, quantity: Decimal, price: Decimal | None = None) -> Fill:
        found = super().fill(client_order_id, quantity, price)
        self._bracket(self.orders[client_order_id], quantity)
        return found

    def report(self, held: Held) -> Report:
        found = super().report(held)
        name = self.names.get(held.order.client_order_id)
        if name is None:
            return found
        order = held.order
        assert order.parent_id is not None
        return replace(found, leg=BracketLeg(order.parent_id, order.role, int(name[1:] or 1), order.stop_price))

    def leg(self, name: str) -> Held:
        """Return the newest leg of that name: S, T, S2 and so on."""
        return next(self.orders[id] for id, known in reversed(self.names.items()) if known == name)

    def change(self, name: str, quantity: Decimal, stop_price: Decimal | None = None) -> None:
        """Change a leg in place, and report it."""
        held = self.leg(name)
        held.order = replace(held.order, quantity=quantity, stop_price=stop_price or held.order.stop_price)
        held.time_ns = next(self._clock)
        self.push(replace(self.report(held), source="stream"))

    def end_legs(self, instance: str) -> None:
        """Cancel the live legs of an instance."""
        for held in self.live():
            if held.order.parent_id is not None and held.order.instance == instance:
                held.sibling = None
                self.end(held, State.CANCELLED)

    def close_outside(self, symbol: str, quantity: Decimal, side: Side = Side.SELL) -> Fill:
        """Close as the guard of the platform does: the legs end, and an execution without an id of ours comes."""
        self.end_legs("one")
        order = replace(
            next(iter(self.orders.values())).order,
            client_order_id=f"Close {next(self._numbers)}",
            symbol=symbol,
            quantity=quantity,
            side=side,
            type=OrderType.MARKET,
        )
        held = Held(order, str(next(self._numbers)), State.WORKING, time_ns=next(self._clock))
        fill = replace(self._execute(held, quantity, self.prices[symbol]), client_order_id=None)
        self.trades[-1] = fill
        self.push(replace(fill, source="stream"))
        return fill

    def _bracket(self, held: Held, quantity: Decimal) -> None:
        parent = held.order
        if parent.role not in (Role.ENTRY, Role.ORDER) or not self.places_legs:
            return
        number = next(self._lots.setdefault(parent.client_order_id, itertools.count(1)))
        placed: list[Held] = []
        for leg in legs_of(parent, quantity=quantity, attempt=number - 1, epoch=0, now_ns=0):
            name = ("S" if leg.role is Role.STOP_LOSS else "T") + ("" if number == 1 else str(number))
            order = replace(leg, client_order_id=ids.leg_id(parent.client_order_id, name))
            self.names[order.client_order_id] = name
            placed.append(self._take(order))
        if len(placed) == 2:
            placed[0].sibling, placed[1].sibling = (one.order.client_order_id for one in reversed(placed))
        if self.says_legs:
            for one in placed:
                self.push(replace(self.report(one), source="stream"))
