"""The margin of a position: what opening it needs, and the price at which it is closed by force.

Integers of `liquidation_ticks` may be those of compiled code: `fks.research.backtest.kernel` compiles it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import lcm
from typing import NamedTuple

from fks.model.decimals import places
from fks.model.errors import ConfigError, InputError, unprocessable
from fks.model.instrument import Instrument

_ZERO, _ONE = Decimal(0), Decimal(1)
_NUMBER = r"(\d{1,13}(?:\.\d*)?|\.\d+)"  # of more digits none is in range, nor can it be rounded
_AMOUNTS = rf"{_NUMBER}(?:\s*/\s*{_NUMBER})?(?:\s*(each))?"
_TEXT = re.compile(_AMOUNTS, re.IGNORECASE)
_TIER = re.compile(rf"above\s+{_NUMBER}\s+{_NUMBER}\s*/\s*{_NUMBER}(?:\s+less\s+{_NUMBER})?", re.IGNORECASE)
_OVERNIGHT = re.compile(rf"overnight\s+(\d{{1,4}})\s*m\s+({_AMOUNTS})", re.IGNORECASE)
_RATE = re.compile(rf"(short|fee)\s+{_NUMBER}", re.IGNORECASE)
_EACH_MAX = Decimal(10) ** 9
_FLOOR_MAX = Decimal(10) ** 12
_TIERS_MAX = 100
_PLACES = 6
#: Regulation T, 12 CFR 220.12: half of the value opens a position in shares; FINRA rule 4210(c) keeps 25 % of a long
#: and 30 % of a short one
_NAMED = {"reg-t": "0.5/0.25; short 0.3"}


class MarginTier(NamedTuple):
    """A bracket of position values (quote): the shares of the whole value that one above `floor` needs, and those that
    the part above `floor` keeps."""

    floor: Decimal
    initial: Decimal
    maintenance: Decimal


class MarginTerms(NamedTuple):
    """A bracket as integers. Of a value above `floor` the initial margin is (value × times + quantity × each) / over.
    The maintenance margin is the greatest of all brackets' (value × long or short + quantity × kept - less) / over.
    `floor` and `less` / over are in the places of values, `each` and `kept` in those of price × multiplier."""

    floor: int
    over: int
    times: int
    each: int
    long: int
    short: int
    kept: int
    less: int


@dataclass(frozen=True, slots=True)
class Margin:
    """A position is opened with `initial`, and closed by force where the account's equity is `maintenance` or less.

    Both are shares of the position's value (1: paid in full, 0.1: ten times leverage), or with `is_each` amounts of
    quote for each unit of quantity (futures: each contract). `maintenance` 0: closed when the equity is gone. `tiers`:
    the brackets above the first one; `maintenance_short`: that of short positions where it is another; `overnight`: the
    margin from so many minutes before the end of a session until the next one; `fee_rate`: of the value that is closed
    by force, beside the fee of its fill.
    """

    initial: Decimal = _ONE
    maintenance: Decimal = _ZERO
    is_each: bool = False
    tiers: tuple[MarginTier, ...] = ()
    maintenance_short: Decimal | None = None
    overnight: Margin | None = None
    overnight_minutes: int = 0
    fee_rate: Decimal = _ZERO

    @staticmethod
    def parse(text: str) -> Margin:
        """Return the margin that a text names: `0.1/0.05` or `22000/20000 each` (initial and maintenance, which may be
        left out), or `reg-t`; behind it, each after a semicolon or on a line of its own, `above 50000 0.01/0.005` (a
        bracket; `less 50` checks what it deducts), `short 0.3`, `overnight 15m 22000/20000 each` and `fee 0.0125`. A
        line that begins with # is a comment. Errors: InputError MARGIN_UNKNOWN."""
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        named, *more = [part.strip() for part in ";".join(lines).split(";") if part.strip()] or [""]
        first, *parts = _NAMED.get(named.lower(), named).split("; ")
        margin = _two(first, text)
        for part in parts + more:
            margin = margin._with(part, text)
        return margin

    def _with(self, part: str, text: str) -> Margin:
        """Return the margin with a further part of its text."""
        before = (self.tiers or (MarginTier(_ZERO, self.initial, self.maintenance),))[-1]
        if (found := _TIER.fullmatch(part)) and not self.is_each and self.maintenance_short is None:
            tier = MarginTier(*(_number(number) for number in found.groups()[:3]))
            made = replace(self, tiers=(*self.tiers, tier))
            is_fit = before.floor < tier.floor <= _FLOOR_MAX and before.initial <= tier.initial <= 1
            is_fit &= before.maintenance < tier.maintenance < tier.initial and len(made.tiers) <= _TIERS_MAX
            if is_fit and found[4] and (less := made._deducted()[-1]) != Decimal(found[4]):
                raise _wrong(text, f"{part!r} would deduct {less:f}, which makes it meet the bracket below")
        elif (found := _OVERNIGHT.fullmatch(part)) and self.overnight is None:
            made = replace(self, overnight=_two(found[2], text), overnight_minutes=int(found[1]))
            is_fit = made.overnight_minutes > 0
        elif (found := _RATE.fullmatch(part)) and found[1].lower() == "fee" and not self.fee_rate:
            made = replace(self, fee_rate=_number(found[2]))
            is_fit = 0 < made.fee_rate < 1
        elif found and found[1].lower() == "short" and not (self.is_each or self.tiers or self.maintenance_short):
            made = replace(self, maintenance_short=_number(found[2]))
            is_fit = 0 < (made.maintenance_short or 0) < self.initial
        else:
            raise _wrong(text, f"{part!r} is no part of it")
        if not is_fit:
            raise _wrong(text, f"{part!r} is out of range")
        return made

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        kept = f"/{self.maintenance:f}" if self.maintenance else ""
        parts = [f"{self.initial:f}{kept}{' each' if self.is_each else ''}"]
        parts += [f"above {tier.floor:f} {tier.initial:f}/{tier.maintenance:f}" for tier in self.tiers]
        if self.maintenance_short is not None:
            parts.append(f"short {self.maintenance_short:f}")
        if self.overnight is not None:
            parts.append(f"overnight {self.overnight_minutes}m {self.overnight}")
        if self.fee_rate:
            parts.append(f"fee {self.fee_rate:f}")
        return "; ".join(parts)

    def at(self, is_overnight: bool) -> Margin:
        """Return the margin in force by day or overnight."""
        return self.overnight if is_overnight and self.overnight is not None else self

    def needed(self, quantity: Decimal, price: Decimal, instrument: Instrument, held: Decimal = _ZERO) -> Decimal:
        """Return the initial margin (quote) of a quantity (not negative) at a price, beside a position that is worth
        `held` (quote, not negative)."""
        if self.is_each:
            return quantity * self.initial
        value = quantity * price * instrument.multiplier
        return self._of(held + value) - self._of(held) if self.tiers else value * self.initial

    def kept(self, quantity: Decimal, price: Decimal, instrument: Instrument) -> Decimal:
        """Return the maintenance margin (quote) of a position (signed) at a price."""
        if self.is_each:
            return abs(quantity) * self.maintenance
        value = abs(quantity) * price * instrument.multiplier
        if quantity < 0 and self.maintenance_short is not None:
            return value * self.maintenance_short
        rates = (self.maintenance, *(tier.maintenance for tier in self.tiers))
        return max(value * rate - less for rate, less in zip(rates, self._deducted(), strict=True))

    @property
    def kept_most(self) -> tuple[Decimal, Decimal]:
        """Return a share of a position's value and an amount for each unit that together are no less than its
        maintenance margin, by day and overnight."""
        share, each = (_ZERO, _ZERO) if self.overnight is None else self.overnight.kept_most
        if self.is_each:
            return share, max(each, self.maintenance)
        rates = (self.maintenance, self.maintenance_short or _ZERO, *(tier.maintenance for tier in self.tiers))
        return max(share, *rates), each

    def _of(self, value: Decimal) -> Decimal:
        return value * next((tier.initial for tier in reversed(self.tiers) if value > tier.floor), self.initial)

    def liquidation_price(self, position: Decimal, cash: Decimal, instrument: Instrument) -> Decimal:
        """Return the price on the tick grid at which a position (signed, not 0) beside `cash` (quote) is closed by
        force: the highest one of a long position, the lowest one of a short one."""
        ticks, factor = places(instrument.tick), places(instrument.multiplier)
        grid = max(places(position), places(cash) - ticks - factor)  # of the position
        held, money = int(position.scaleb(grid)), int(cash.scaleb(grid + ticks + factor))
        multiplier, tick = int(instrument.multiplier.scaleb(factor)), int(instrument.tick.scaleb(ticks))
        prices = [
            liquidation_ticks(
                held,
                money * row.over + row.less,
                multiplier,
                row.long if held > 0 else row.short,
                row.over,
                row.kept,
                tick,
            )
            for row in self.terms(ticks + factor, grid + ticks + factor)
        ]
        return Decimal(max(prices) if held > 0 else min(prices)).scaleb(-ticks)

    def _deducted(self) -> list[Decimal]:
        """Return what each bracket's maintenance amount deducts (quote): the amount grows without a step."""
        rows, found = [MarginTier(_ZERO, self.initial, self.maintenance), *self.tiers], [_ZERO]
        for below, tier in pairwise(rows):
            found.append(found[-1] + tier.floor * (tier.maintenance - below.maintenance))
        return found

    def terms(self, price_places: int, value_places: int) -> tuple[MarginTerms, ...]:
        """Return the brackets as integers. `price_places`: of price × multiplier, `value_places`: of values."""
        rows = [MarginTier(-_ONE, self.initial, self.maintenance), *self.tiers]
        found = []
        for (floor, initial, kept), less in zip(rows, self._deducted(), strict=True):
            short = kept if self.maintenance_short is None else self.maintenance_short
            parts = [Fraction(one) for one in (initial, 0, kept, short, 0)]
            if self.is_each:
                parts = [Fraction(one) * 10**price_places for one in (0, initial, 0, 0, kept)]
            parts.append(Fraction(less) * 10**value_places)
            over = lcm(*(part.denominator for part in parts))
            rounded = Fraction(floor) * 10**value_places // 1
            found.append(MarginTerms(rounded, over, *(int(part * over) for part in parts)))
        return tuple(found)


def paper_margin(text: str, *, can_short: bool) -> Margin | None:
    """Return the margin of the paper account (`paper.margin`); None where what is bought is paid for. Errors:
    ConfigError."""
    try:
        return Margin.parse(text) if text else Margin() if can_short else None
    except InputError as error:
        raise ConfigError(f"paper.margin: {error.message}", remedy=error.remedy) from None


def _number(text: str) -> Decimal:
    """Return a number, -1 where it has more than 6 decimals: that is in no range."""
    value = Decimal(text)
    return value.normalize() if value == round(value, _PLACES) else -_ONE


def _two(text: str, whole: str) -> Margin:
    """Return initial and maintenance margin of a text. Errors: as `Margin.parse`."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise _wrong(whole, "it has no initial margin" if text == whole else f"{text!r} is no margin")
    initial, maintenance, is_each = Decimal(found[1]), Decimal(found[2] or 0), bool(found[3])
    most, is_below = (_EACH_MAX, maintenance <= initial) if is_each else (_ONE, maintenance < initial)
    is_exact = all(value == round(value, _PLACES) for value in (initial, maintenance))
    if not (0 < initial <= most and is_below and is_exact):
        raise _wrong(whole, f"{text!r} is out of range")
    return Margin(initial.normalize(), maintenance.normalize(), is_each)


def _wrong(text: str, reason: str) -> InputError:
    return unprocessable(
        "MARGIN_UNKNOWN",
        f"margin {text!r} is not understood: {reason}",
        "give a share of the position's value ('0.1' is ten times leverage) or an amount per contract "
        "('22000 each'), the maintenance margin behind it ('0.1/0.05'), with at most 6 decimals, or 'reg-t'; then "
        "'; above 50000 0.2/0.1' (brackets ascend), '; short 0.3', '; overnight 15m 22000/20000 each', '; fee 0.01'",
    )


def liquidation_ticks(position: int, money: int, multiplier: int, times: int, over: int, each: int, tick: int) -> int:
    """Return the price on the tick grid at which a position's equity falls to a bracket's maintenance margin: the
    highest for a long position, the lowest for a short one. At or below 0: no price of a long one does.

    `position` (not 0) is in places of quantities, `money` is cash × over + less, in those of position × price ×
    multiplier; `times` (`long` or `short`), `over`, `each` (`kept`) and `less`: `MarginTerms`.

    From cash + position × price × multiplier = (|position| × (price × multiplier × times + each) - less) / over.
    """
    if position > 0:
        return (each * position - money) // (position * multiplier * (over - times)) // tick * tick
    return -(-(money + each * position) // (-position * multiplier * (over + times)) // tick) * tick
