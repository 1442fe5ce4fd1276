"""Grids of a backtest's exact integers: one unit of a price, a quantity or an amount is 10^-places."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from fks.model.decimals import places
from fks.model.instrument import Instrument

_MONEY = 8  # places of fees, `fks.model.instrument.money`


@dataclass(frozen=True, slots=True)
class Units:
    """Decimal places of prices, of orders' quantities (the lot grid), of positions and base fees, and of quote
    amounts."""

    price: int
    lot: int
    quantity: int
    cash: int
    multiplier: int

    @staticmethod
    def of(price_places: int, instrument: Instrument, cash: Decimal, *, has_base_fees: bool) -> Units:
        """Return the coarsest grids that hold every price, quantity and amount of a run exactly.

        `price_places`: of the bars; `cash`: the initial amount, in quote; `has_base_fees`: fees may be taken in base.
        """
        price = max(price_places, places(instrument.tick))
        lot = max(places(instrument.lot_step), places(instrument.lot(is_market=True).step))
        multiplier = places(instrument.multiplier)
        amount = max(_MONEY, lot + price + multiplier, places(cash))
        quantity = max(_MONEY if has_base_fees else 0, lot, amount - price - multiplier)
        return Units(price, lot, quantity, amount, multiplier)

    @property
    def worth(self) -> int:
        """Return the places of position × price × multiplier: at least those of amounts."""
        return self.quantity + self.price + self.multiplier


def from_units(value: int, places: int) -> Decimal:
    """Return the exact value of an integer on the grid of 10^-places."""
    return Decimal(int(value)).scaleb(-places)


def to_units(value: Decimal, places: int) -> int:
    """Return a value that is on the grid of 10^-places as an integer."""
    scaled = value.scaleb(places)
    whole = int(scaled)
    assert whole == scaled, f"{value} is not on the grid of 10^-{places}"
    return whole


def divide_half_even(numerator: int, denominator: int) -> int:
    """Return the quotient rounded to the nearest integer, halves to even; the denominator is positive."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))
