"""Positions from fills, by average cost.

The quantity of a position is the actual holding: a fee taken in the base asset makes it smaller than the fill. Profit
is realised at the average price of the holding, before fees; fees are summed beside it, in quote, a base fee at the
price of its fill. So equity changes by `realized_pnl - fees` plus open profit. A fee in a third asset has no value in
quote without a rate, so it is not in `Position.fees`: it is valued from stored bars later (fks.research.jobs.valuation,
table `trade_fees`), and readers of positions add it, or count it as unvalued.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal

from fks.model.account import Position
from fks.model.instrument import Instrument, money
from fks.model.order import Fill, Order, Role, Side

#: The instance of holdings without fills of ours: deposits, trades made elsewhere.
EXTERNAL = "external"
_ZERO = Decimal(0)
_AVERAGE_STEP = Decimal("1e-12")


@dataclass(frozen=True, slots=True)
class Booking:
    """A position after one fill, and the profit (quote, before fees) that the fill realised."""

    position: Position
    realized: Decimal


def net_quantity(side: Side, quantity: Decimal, fee: Decimal, fee_currency: str, instrument: Instrument) -> Decimal:
    """Return the base quantity (signed) that a fill adds to the holding: a base fee is subtracted."""
    return side.sign * quantity - (fee if fee_currency == instrument.base else _ZERO)


def apply_fill(position: Position, fill: Fill, instrument: Instrument, *, is_new_entry: bool = False) -> Booking:
    """Return the position after `fill`, by average cost; a fill through zero closes, then opens at its own price.

    `is_new_entry`: it is the first fill of an entry order, which counts in `entries`; below one lot step nothing
    counts.
    """
    delta = net_quantity(fill.side, fill.quantity, fill.fee, fill.fee_currency, instrument)
    before, after = position.quantity, position.quantity + delta
    realized = _ZERO
    if position.instance == EXTERNAL and before and not position.average_price:
        average = _ZERO  # what it cost is not known: no profit is
    elif before == 0 or before * delta > 0:
        average = (before * position.average_price + delta * fill.price) / after if after else _ZERO
    else:
        closed = min(abs(before), abs(delta)) * (1 if before > 0 else -1)
        realized = money((fill.price - position.average_price) * closed * instrument.multiplier)
        average = position.average_price if before * after > 0 else fill.price if after else _ZERO
    moved = replace(
        position,
        quantity=after,
        average_price=average.quantize(_AVERAGE_STEP, ROUND_HALF_EVEN).normalize() + _ZERO,
        realized_pnl=position.realized_pnl + realized,
        fees=position.fees + (fee_in_quote(fill, instrument) or _ZERO),
        updated_ns=max(position.updated_ns, fill.time_ns),
        entries=0 if abs(after) < instrument.lot_step else position.entries + is_new_entry,
    )
    return Booking(moved, realized)


def fee_in_quote(fill: Fill, instrument: Instrument) -> Decimal | None:
    """Return the fee of `fill` in quote; None when it was taken in a third asset, whose rate is not known here."""
    if not fill.fee:
        return _ZERO
    if not fill.fee_currency:
        return None
    if fill.fee_currency == instrument.quote:
        return fill.fee
    return money(fill.fee * fill.price) if fill.fee_currency == instrument.base else None


def is_shared(order: Order) -> bool:
    """Return whether an order that closes more than its instance holds closes others' positions, too: the kill
    switch's, and a person's."""
    return order.role is Role.KILL or (order.role is Role.ORDER and order.instance == "")


def allocate(
    fill: Fill | Order, buckets: Mapping[str, Decimal], first: str, *, is_flattening: bool = False
) -> list[tuple[str, Decimal]]:
    """Return the instances that a reducing fill, or order, closes, and the quantity of each: (instance, quantity)
    pairs.

    `buckets` are the positions by instance before it. `first` is taken first; of a person's order ("") then EXTERNAL;
    then, if it is flattening (`is_shared`), the others by name. The rest is EXTERNAL's, so that no holding is ever
    shown as sold short.
    """
    left = fill.quantity
    shares: list[tuple[str, Decimal]] = []
    others = sorted(name for name in buckets if name not in (first, EXTERNAL)) if is_flattening else []
    for name in [first, *([EXTERNAL] if first == "" and others else []), *others]:
        held = buckets.get(name, _ZERO)
        if left > 0 and held * fill.side.sign < 0:
            part = min(left, abs(held))
            shares.append((name, part))
            left -= part
    if left > 0:
        beyond = next((part for name, part in shares if name == EXTERNAL), _ZERO)
        shares = [*((name, part) for name, part in shares if name != EXTERNAL), (EXTERNAL, left + beyond)]
    return shares


def share_of(fill: Fill, quantity: Decimal, taken: Decimal) -> Fill:
    """Return the part of `fill` over `quantity`, with its part of the fee; the last part (`taken` included) takes the
    rest."""
    if quantity == fill.quantity:
        return fill
    fee_before = money(fill.fee * taken / fill.quantity)
    fee_after = money(fill.fee * (taken + quantity) / fill.quantity) if taken + quantity < fill.quantity else fill.fee
    return replace(fill, quantity=quantity, fee=fee_after - fee_before)
