"""The cost model of a fill."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from fks.model.instrument import Instrument, money
from fks.model.order import Side


class Fee(NamedTuple):
    """A fee and the currency it is taken in."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class CostModel:
    """A flat rate (fraction of the fill), taken from the asset `received` by the trade or always in `quote`."""

    fee_rate: Decimal = Decimal("0.001")
    fee_in: str = "received"

    def fee(self, side: Side, quantity: Decimal, price: Decimal, instrument: Instrument) -> Fee:
        """Return the fee of a fill: `quantity` in base, `price` in quote, the result at 1e-8 half-even."""
        if self.fee_in == "received" and side is Side.BUY:
            return Fee(money(quantity * self.fee_rate), instrument.base)
        return Fee(money(quantity * price * instrument.multiplier * self.fee_rate), instrument.quote)
