"""Sizing: the quantity of a signal on the lot grid. The one function that backtest, paper and live share (G6).

Rounding is always down, here and nowhere else: an order never spends more, and never sells more, than was decided.
"""

from __future__ import annotations

from decimal import Decimal

from fks.model.errors import InputError
from fks.model.instrument import Instrument

#: Values of `strategy_instances.sizing`: `size` is quote currency per entry, or base quantity per entry.
SIZINGS = ("notional", "quantity")


def entry_quantity(sizing: str, size: Decimal, reference_price: Decimal, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid, rounded down) of an entry; 0 when it is less than one step.

    Units: `size` in quote for `notional`, in base for `quantity`; `reference_price` is the close of the deciding bar.
    Errors: InputError SIZING_UNKNOWN, or PRICE_MISSING when a notional has no positive price to divide by.
    """
    if sizing == "quantity":
        return instrument.round_quantity(size)
    if sizing != "notional":
        raise InputError(f"unknown sizing {sizing!r}", code="SIZING_UNKNOWN", remedy=f"use one of {' '.join(SIZINGS)}")
    if not reference_price > 0:
        raise InputError(
            f"no price to size {instrument.symbol} against: {reference_price}",
            code="PRICE_MISSING",
            remedy="give a positive reference price",
        )
    # Integer division by the price of one step: no quotient is ever rounded up to one step too many.
    step_price = reference_price * instrument.lot_step * instrument.multiplier
    return (size // step_price) * instrument.lot_step


def exit_quantity(position: Decimal, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid) that closes `position` (signed); less than one step stays as dust."""
    return instrument.round_quantity(abs(position))
