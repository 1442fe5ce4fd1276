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


@dataclass(frozen=True, slots=True)
class CostModel:
    """Rates of takers and makers (fractions of the fill), taken from the asset `received` by the trade or always in
    `quote`, and the slippage of takers. `fee_rate_maker` None: that of takers."""

    fee_rate: Decimal = Decimal("0.001")
    fee_in: str = "received"
    fee_rate_maker: Decimal | None = None
    slippage: Slippage = Slippage()

    @staticmethod
    def of(costs: HasCosts, instrument: Instrument | None = None) -> CostModel:
        """Return the cost model of settings or of a spec, for `instrument`: fees of contracts are in quote.

        Errors: InputError SLIPPAGE_UNKNOWN.
        """
        fee_in = "quote" if instrument is not None and instrument.is_contract else costs.fee_in
        return CostModel(costs.fee_rate, fee_in, costs.fee_rate_maker, Slippage.parse(costs.slippage))

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
        return Fee(money(quantity * price * instrument.multiplier * rate), instrument.quote)
