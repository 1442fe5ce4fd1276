"""The margin of a position: what opening it needs, and the price at which it is closed by force.

Integers of `liquidation_ticks` may be those of compiled code: `fks.backtest.kernel` compiles it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from math import gcd
from typing import NamedTuple

from fks.model.errors import InputError
from fks.model.instrument import Instrument

_ZERO, _ONE = Decimal(0), Decimal(1)
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_TEXT = re.compile(rf"{_NUMBER}\s*(?:/\s*{_NUMBER})?\s*(each)?", re.IGNORECASE)
_EACH_MAX = Decimal(10) ** 9
_PLACES = 6


class MarginTerms(NamedTuple):
    """An amount of margin as integers: value × times + quantity × each, divided by over. `each` is in the places of
    price × multiplier."""

    times: int
    over: int
    each: int


@dataclass(frozen=True, slots=True)
class Margin:
    """A position is opened with `initial`, and closed by force where the account's equity is `maintenance` or less.

    Both are shares of the position's value (1: paid in full, 0.1: ten times leverage), or with `is_each` amounts of
    quote for each unit of quantity (futures: each contract). `maintenance` 0: closed when the equity is gone.
    """

    initial: Decimal = _ONE
    maintenance: Decimal = _ZERO
    is_each: bool = False

    @staticmethod
    def parse(text: str) -> Margin:
        """Return the margin that a text names: `0.1`, `0.1/0.05`, `22000 each` or `22000/20000 each` (initial and
        maintenance). Errors: InputError MARGIN_UNKNOWN."""
        found = _TEXT.fullmatch(text.strip())
        initial = Decimal(found[1]) if found else _ZERO
        maintenance = Decimal(found[2] or 0) if found else _ZERO
        is_each = bool(found and found[3])
        most, is_below = (_EACH_MAX, maintenance <= initial) if is_each else (_ONE, maintenance < initial)
        is_exact = all(value == round(value, _PLACES) for value in (initial, maintenance))
        if not (0 < initial <= most and is_below and is_exact):
            raise InputError(
                f"margin {text!r} is not understood",
                code="MARGIN_UNKNOWN",
                status=422,
                remedy="give a share of the position's value ('0.1' is ten times leverage) or an amount per contract "
                "('22000 each'), the maintenance margin behind it ('0.1/0.05'), with at most 6 decimals",
            )
        return Margin(initial.normalize(), maintenance.normalize(), is_each)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        kept = f"/{self.maintenance:f}" if self.maintenance else ""
        return f"{self.initial:f}{kept}{' each' if self.is_each else ''}"

    def needed(self, quantity: Decimal, price: Decimal, instrument: Instrument) -> Decimal:
        """Return the initial margin (quote) of a quantity (not negative) at a price."""
        return quantity * self.initial if self.is_each else quantity * price * instrument.multiplier * self.initial

    def terms(self, price_places: int) -> tuple[MarginTerms, MarginTerms]:
        """Return initial and maintenance margin as integers. `price_places`: of price × multiplier."""
        return _terms(self.initial, self.is_each, price_places), _terms(self.maintenance, self.is_each, price_places)


def _terms(amount: Decimal, is_each: bool, price_places: int) -> MarginTerms:
    numerator, denominator = amount.as_integer_ratio()
    if not is_each:
        return MarginTerms(numerator, denominator, 0)
    each = numerator * 10**price_places
    common = gcd(each, denominator)
    return MarginTerms(0, denominator // common, each // common)


def liquidation_ticks(position: int, cash: int, multiplier: int, times: int, over: int, each: int, tick: int) -> int:
    """Return the price on the tick grid at which a position's equity falls to its maintenance margin: the highest for a
    long position, the lowest for a short one. At or below 0: no price of a long one does.

    `position` (not 0) is in places of quantities, `cash` in those of position × price × multiplier; `times`, `over` and
    `each`: `MarginTerms` of the maintenance margin.

    From cash + position × price × multiplier = |position| × (price × multiplier × times + each) / over.
    """
    if position > 0:
        missing = each * position - cash * over
        return missing // (position * multiplier * (over - times)) // tick * tick
    left = cash * over + each * position
    return -(-left // (-position * multiplier * (over + times)) // tick) * tick
