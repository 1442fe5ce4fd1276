"""The cost model of a fill: fees of makers and takers, and slippage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, Protocol

from fks.matching.rule import no_worse, slip
from fks.model.errors import InputError
from fks.model.instrument import Instrument, money
from fks.model.order import Side

_UNITS = ("ticks", "bps", "range")
_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ticks?|bps|range)", re.IGNORECASE)
_COMMISSION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*each(?:\s*min\s*(\d+(?:\.\d*)?|\.\d+))?", re.IGNORECASE)
_COMMISSION_MOST = Decimal(10_000)
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
            raise InputError(
                f"slippage {text!r} is not understood",
                code="SLIPPAGE_UNKNOWN",
                status=422,
                remedy="give none, whole ticks ('2 ticks'), basis points ('5 bps') or a share of the bar's range "
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


@dataclass(frozen=True, slots=True)
class Commission:
    """Quote for each unit of quantity (a contract, a share), and at least `least` for an order."""

    each: Decimal = Decimal(0)
    least: Decimal = Decimal(0)

    @staticmethod
    def parse(text: str) -> Commission:
        """Return the commission that a text names: `none`, `2.25 each` or `0.005 each min 1`. Errors: InputError
        COMMISSION_UNKNOWN."""
        wanted = text.strip()
        if wanted.lower() in ("none", "0", ""):
            return Commission()
        found = _COMMISSION.fullmatch(wanted)
        each, least = (Decimal(found[1]), Decimal(found[2] or 0)) if found else (Decimal(-1), Decimal(0))
        if (
            not (0 <= each <= _COMMISSION_MOST and least <= _COMMISSION_MOST)
            or round(each, 6) != each
            or least != round(least, 6)
        ):
            raise InputError(
                f"commission {text!r} is not understood",
                code="COMMISSION_UNKNOWN",
                status=422,
                remedy="give none, quote for each contract or share ('2.25 each'), or with a minimum for each order "
                "('0.005 each min 1'), with at most 6 decimals",
            )
        return Commission(each.normalize(), least.normalize())

    def __bool__(self) -> bool:
        return bool(self.each or self.least)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        least = f" min {self.least:f}" if self.least else ""
        return f"{self.each:f} each{least}" if self else "none"

    def of(self, quantity: Decimal) -> Decimal:
        """Return the commission (quote, 1e-8 half-even) of an order's fill."""
        return max(money(quantity * self.each), self.least)


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
        if self.commission:
            object.__setattr__(self, "fee_in", "quote")

    @staticmethod
    def of(costs: HasCosts, instrument: Instrument | None = None) -> CostModel:
        """Return the cost model of settings or of a spec, for `instrument`: fees of contracts are in quote.

        Errors: InputError SLIPPAGE_UNKNOWN, COMMISSION_UNKNOWN.
        """
        fee_in = "quote" if instrument is not None and instrument.is_contract else costs.fee_in
        slippage, commission = Slippage.parse(costs.slippage), Commission.parse(costs.commission)
        return CostModel(costs.fee_rate, fee_in, costs.fee_rate_maker, slippage, commission)

    def rate(self, *, is_maker: bool) -> Decimal:
        """Return the fee of a fill as a fraction of it."""
        return self.fee_rate_maker if is_maker and self.fee_rate_maker is not None else self.fee_rate

    def fee(
        self, side: Side, quantity: Decimal, price: Decimal, instrument: Instrument, *, is_maker: bool = False
    ) -> Fee:
        """Return the fee of a fill: `quantity` in base, `price` in quote, the result at 1e-8 half-even."""
        rate = self.rate(is_maker=is_maker)
        if self.fee_in == "received" and side is Side.BUY:
            return Fee(money(quantity * rate), instrument.base)
        fee = money(quantity * price * instrument.multiplier * rate)
        return Fee(fee + self.commission.of(quantity) if self.commission else fee, instrument.quote)
