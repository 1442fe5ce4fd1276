"""The cost model of a fill: fees of makers and takers, and slippage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple, Protocol

from fks.model.errors import InputError, unprocessable
from fks.model.instrument import Instrument, money
from fks.model.order import Side
from fks.trading.matching.rule import no_worse, slip

_UNITS = ("ticks", "bps", "range")
_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ticks?|bps|range)", re.IGNORECASE)
_COMMISSION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*each(?:\s*min\s*(\d+(?:\.\d*)?|\.\d+))?", re.IGNORECASE)
_BORROW = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:\s*/\s*(\d+(?:\.\d*)?|\.\d+))?")
_BORROW_MOST = Decimal(10)
_TIER = re.compile(
    r"(?P<taker>\d+(?:\.\d*)?|\.\d+)(?:/(?P<maker>-?(?:\d+(?:\.\d*)?|\.\d+)))?(?P<each>\s*each)?"
    r"\s*from\s*(?P<volume>\d+)(?P<quote>\s*quote)?",
    re.IGNORECASE,
)
_COMMISSION_MOST = Decimal(10_000)
_ZERO = Decimal(0)
_REBATE_MOST = Decimal("0.01")  # of makers, a rate
_BPS = Decimal(10_000)
_MOST = {"ticks": 10_000, "bps": 5_000, "range": 10}  # the most that a value may be: beyond it, it is a mistake


class Fee(NamedTuple):
    """A fee and the currency it is taken in."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Slippage:
    """Ticks, basis points of the price (`bps`) or a share of the range of the bar (`range`) by which each fill of a
    taker is worse than the price of the fill rule. `unit` is empty for none."""

    unit: str = ""
    value: Decimal = Decimal(0)

    @staticmethod
    def parse(text: str) -> Slippage:
        """Return the slippage that a text names: `none`, `2 ticks`, `5 bps` or `0.1 range`. Errors: InputError."""
        wanted = text.strip()
        if wanted.lower() in ("none", "0", ""):
            return Slippage()
        found = _TEXT.fullmatch(wanted)
        unit = "" if found is None else found[2].lower()
        unit = "ticks" if unit == "tick" else unit
        value = Decimal(0) if found is None else Decimal(found[1])
        is_whole = unit != "ticks" or value == value.to_integral_value()
        if unit not in _UNITS or not is_whole or value > _MOST[unit] or value != round(value, 6):
            raise unprocessable(
                "SLIPPAGE_UNKNOWN",
                f"slippage {text!r} is not understood",
                "give none, whole ticks ('2 ticks'), basis points ('5 bps') or a share of the bar's range "
                "('0.1 range'), with at most 6 decimals",
            )
        return Slippage(unit, value.normalize()) if value else Slippage()

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.value:f} {self.unit}" if self.unit else "none"

    @property
    def factors(self) -> tuple[Decimal, Decimal, Decimal]:
        """Return ticks, the factor of the price and the factor of the bar's range; two of them are 0."""
        zero = Decimal(0)
        return (
            self.value if self.unit == "ticks" else zero,
            self.value / _BPS if self.unit == "bps" else zero,
            self.value if self.unit == "range" else zero,
        )

    def apply(
        self, side: Side, price: Decimal, span: Decimal, tick: Decimal, *, limit: Decimal | None = None
    ) -> Decimal:
        """Return the price of a taker's fill: worse by the slippage rounded up to whole ticks, and one tick at least.

        `price`: of the fill rule; `span`: high less low of the bar in which it fills; `limit`: a price
        that is not exceeded; all in quote.
        """
        if not self.unit:
            return price
        ticks, of_price, of_span = self.factors
        found = slip(price, side.sign, price * of_price + span * of_span, tick, tick, ticks * tick)
        return found if limit is None else no_worse(found, price, limit, side.sign)


class VolumeTier(NamedTuple):
    """A tier of a commission from a month's volume on: quote for each unit (`taker`), or rates of takers and makers."""

    volume: Decimal
    taker: Decimal
    maker: Decimal


@dataclass(frozen=True, slots=True)
class Commission:
    """Quote for each unit of quantity (a contract, a share), and at least `least` for an order.

    `tiers` change it with the volume of the calendar month (UTC). A tier of units is of the units beyond its volume. A
    tier of quote (`is_by_value`) replaces the rates of takers and makers of fills that come after its volume.
    """

    each: Decimal = Decimal(0)
    least: Decimal = Decimal(0)
    tiers: tuple[VolumeTier, ...] = ()
    is_by_value: bool = False

    @staticmethod
    def parse(text: str) -> Commission:
        """Return the commission that a text names: `none`, `2.25 each`, `0.005 each min 1`, and behind commas tiers:
        `0.002 each from 300000` units, or `0.0008/0.0002 from 1000000 quote`. Errors: InputError COMMISSION_UNKNOWN."""
        first, *more = (part.strip() for part in text.split(","))
        found = _COMMISSION.fullmatch(first)
        each, least = (Decimal(found[1]), Decimal(found[2] or 0)) if found else (Decimal(0), Decimal(0))
        is_none = first.lower() in ("none", "0", "")
        tiers = [_tier(part) for part in more]
        kinds = {is_by_value for _, is_by_value in tiers}
        volumes = [Decimal(0), *(tier.volume for tier, _ in tiers)]
        amounts = (each, least, *(amount for tier, _ in tiers for amount in tier[1:]))
        is_exact = all(value <= _COMMISSION_MOST and round(value, 6) == value for value in amounts)
        is_rising = all(before < after for before, after in pairwise(volumes))
        if not (found or is_none) or not is_exact or not is_rising or len(kinds) > 1:
            raise _unknown(text)
        listed = tuple(VolumeTier(*(value.normalize() for value in tier)) for tier, _ in tiers)
        return Commission(each.normalize(), least.normalize(), listed, kinds == {True})

    def __bool__(self) -> bool:
        return bool(self.each or self.least or self.tiers)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        least = f" min {self.least:f}" if self.least else ""
        first = f"{self.each:f} each{least}" if self.each or self.least else "none"
        return ", ".join((first, *map(self._text, self.tiers)))

    @property
    def is_each(self) -> bool:
        """Return whether it is an amount for units or orders, and not of the value alone."""
        return bool(self.each or self.least or (self.tiers and not self.is_by_value))

    def of(self, quantity: Decimal, traded: Decimal = Decimal(0)) -> Decimal:
        """Return the commission (quote, 1e-8 half-even) of an order's fill after `traded` units of the month."""
        paid, before = quantity * self.each, self.each
        for tier in () if self.is_by_value else self.tiers:
            beyond = max(min(quantity, traded + quantity - tier.volume), Decimal(0))
            paid, before = paid + beyond * (tier.taker - before), tier.taker
        return max(money(paid), self.least)

    def volume(self, quantity: Decimal, value: Decimal) -> Decimal:
        """Return by how much a fill adds to the month's volume."""
        return value if self.is_by_value else quantity

    def rate(self, traded: Decimal, *, is_maker: bool) -> Decimal | None:
        """Return the rate of the tier that a month's volume has reached, or None."""
        reached = [tier for tier in self.tiers if self.is_by_value and tier.volume <= traded]
        return None if not reached else reached[-1].maker if is_maker else reached[-1].taker

    def _text(self, tier: VolumeTier) -> str:
        if not self.is_by_value:
            return f"{tier.taker:f} each from {tier.volume:f}"
        maker = "" if tier.maker == tier.taker else f"/{tier.maker:f}"
        return f"{tier.taker:f}{maker} from {tier.volume:f} quote"


def _tier(text: str) -> tuple[VolumeTier, bool]:
    """Return a tier, and whether its volume is in quote. Errors: InputError COMMISSION_UNKNOWN."""
    found = _TIER.fullmatch(text)
    if found is None or (found["each"] is None) == (found["quote"] is None) or (found["each"] and found["maker"]):
        raise _unknown(text)
    taker, volume = Decimal(found["taker"]), Decimal(found["volume"])
    maker = Decimal(found["maker"] or taker)
    if found["quote"] and not (taker < 1 and -_REBATE_MOST <= maker < 1):
        raise _unknown(text)
    return VolumeTier(volume, taker, maker), found["each"] is None


def _unknown(text: str) -> InputError:
    return unprocessable(
        "COMMISSION_UNKNOWN",
        f"commission {text!r} is not understood",
        "give none, quote for each contract or share ('2.25 each'), or with a minimum for each order "
        "('0.005 each min 1'); behind commas tiers of a month's volume, in units ('0.002 each from 300000') or in "
        "quote, with the rates of takers and makers ('0.0008/0.0002 from 1000000 quote'); at most 6 decimals",
    )


@dataclass(frozen=True, slots=True)
class Borrow:
    """Yearly rates that are paid for each night: `short` of the value of a short position, `debit` of cash below 0. A
    year has 360 days, as brokers count it."""

    short: Decimal = Decimal(0)
    debit: Decimal = Decimal(0)

    @staticmethod
    def parse(text: str) -> Borrow:
        """Return the rates that a text names: `none`, `0.03`, or `0.03/0.0583` with that of cash below 0. Errors:
        InputError BORROW_UNKNOWN."""
        wanted = text.strip()
        if wanted.lower() in ("none", ""):
            return Borrow()
        found = _BORROW.fullmatch(wanted)
        short, debit = (Decimal(found[1]), Decimal(found[2] or 0)) if found else (Decimal(-1), Decimal(0))
        if not all(0 <= rate <= _BORROW_MOST and rate == round(rate, 8) for rate in (short, debit)):
            raise unprocessable(
                "BORROW_UNKNOWN",
                f"borrow {text!r} is not understood",
                "give none, a yearly rate of the value of short positions ('0.03'), and behind a slash that of cash "
                "below 0 ('0.03/0.0583'), each up to 10 with at most 8 decimals",
            )
        return Borrow(short.normalize(), debit.normalize())

    def __bool__(self) -> bool:
        return bool(self.short or self.debit)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        debit = f"/{self.debit:f}" if self.debit else ""
        return f"{self.short:f}{debit}" if self else "none"


class HasCosts(Protocol):
    """Fields that say what a fill costs: of the settings, and of the spec of a backtest."""

    @property
    def fee_rate(self) -> Decimal: ...
    @property
    def fee_rate_maker(self) -> Decimal | None: ...
    @property
    def fee_in(self) -> str: ...
    @property
    def slippage(self) -> str: ...
    @property
    def commission(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CostModel:
    """Rates of takers and makers (fractions of the fill), taken from the asset `received` by the trade or always in
    `quote`, the slippage of takers, and the commission of each fill, with which all fees are in quote. `fee_rate_maker`
    None: that of takers."""

    fee_rate: Decimal = Decimal("0.001")
    fee_in: str = "received"
    fee_rate_maker: Decimal | None = None
    slippage: Slippage = Slippage()
    commission: Commission = Commission()

    def __post_init__(self) -> None:
        if self.commission.is_each:
            object.__setattr__(self, "fee_in", "quote")

    @staticmethod
    def of(costs: HasCosts, instrument: Instrument | None = None) -> CostModel:
        """Return the cost model of settings or of a spec, for `instrument`: fees of contracts are in quote.

        Errors: InputError SLIPPAGE_UNKNOWN, COMMISSION_UNKNOWN.
        """
        fee_in = "quote" if instrument is not None and instrument.is_contract else costs.fee_in
        slippage, commission = Slippage.parse(costs.slippage), Commission.parse(costs.commission)
        return CostModel(costs.fee_rate, fee_in, costs.fee_rate_maker, slippage, commission)

    def rate(self, *, is_maker: bool, traded: Decimal = Decimal(0)) -> Decimal:
        """Return the fee of a fill as a fraction of it, after a month's volume."""
        if (rate := self.commission.rate(traded, is_maker=is_maker)) is not None:
            return rate
        return self.fee_rate_maker if is_maker and self.fee_rate_maker is not None else self.fee_rate

    @property
    def rate_most(self) -> Decimal:
        """Return the highest rate that a fill can have."""
        rates = (self.fee_rate, self.fee_rate_maker or Decimal(0))
        tiers = self.commission.tiers if self.commission.is_by_value else ()
        return max(*rates, *(rate for tier in tiers for rate in tier[1:]))

    def fee(
        self,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        instrument: Instrument,
        *,
        is_maker: bool = False,
        traded: Decimal = Decimal(0),
    ) -> Fee:
        """Return the fee of a fill: `quantity` in base, `price` in quote, the result at 1e-8 half-even. `traded`: the
        volume of the month before it, as `Commission.volume` counts it."""
        rate = self.rate(is_maker=is_maker, traded=traded)
        if self.fee_in == "received" and side is Side.BUY:
            return Fee(money(quantity * rate), instrument.base)
        fee = money(quantity * price * instrument.multiplier * rate)
        if self.commission.is_each:
            fee += self.commission.of(quantity, traded)
        return Fee(fee, instrument.quote)

    def buy_cost(self, quantity: Decimal, price: Decimal, instrument: Instrument) -> Decimal:
        """Return the most quote that a buy of `quantity` takes at `price`: its value and, where they are in quote, the
        fee at the highest rate and the commission of a month's first volume. It never falls with the quantity."""
        value = quantity * price * instrument.multiplier
        if self.fee_in == "received":
            return value
        fee = money(value * self.rate_most)
        return value + fee + (self.commission.of(quantity) if self.commission.is_each else _ZERO)
