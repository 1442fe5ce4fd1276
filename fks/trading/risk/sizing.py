"""Sizing: the quantity of a signal on the lot grid. The one function that backtest, paper and live share (G6).

Rounding is always down, here and nowhere else: an order never spends more, and never sells more, than was decided.
Fees and slippage are not part of any sizing. A buy in percent of the equity that is paid for, not held on margin, is at
most what the cash covers with them (`affordable_quantity`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from fks.model.errors import InputError, invalid, unprocessable
from fks.model.instrument import Instrument
from fks.model.order import Side
from fks.trading.matching import CostModel

#: The sizings. `size` is quote per entry, base per entry, or percent of the equity: that the entry is worth, that is
#: lost at its stop loss, or that one ATR or one standard deviation of the changes of the close is worth.
SIZINGS = ("notional", "quantity", "equity_pct", "risk_pct", "atr_pct", "stdev_pct")
_BARS = {"atr_pct": 14, "stdev_pct": 20}  # bars of the volatility, when the text names none
_BARS_MAX = 1000
_ZERO, _HUNDRED = Decimal(0), Decimal(100)
REMEDY = "use notional, quantity, equity_pct, risk_pct, atr_pct[:BARS] or stdev_pct[:BARS]"


class SizingMissing(InputError):
    """An entry cannot be sized: it lacks what its sizing divides by. `code`: NO_PROTECTION or PRICE_MISSING."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """A sizing by name; `bars`: how many the volatility is measured over, 0 where there is none."""

    name: str
    bars: int = 0

    @staticmethod
    def parse(text: str) -> Sizing:
        """Return the sizing of a text: a name of `SIZINGS`, with `:BARS` for a volatility (`atr_pct:14`).

        Errors: InputError SIZING_UNKNOWN.
        """
        found = re.fullmatch(r"([a-z_]+)(?::(\d{1,4}))?", text.strip())
        name = "" if found is None else found[1]
        given = None if found is None or found[2] is None else int(found[2])
        is_wrong = given is not None and (name not in _BARS or not 2 <= given <= _BARS_MAX)
        if name not in SIZINGS or is_wrong:
            raise unprocessable("SIZING_UNKNOWN", f"unknown sizing {text!r}", REMEDY)
        return Sizing(name, _BARS.get(name, 0) if given is None else given)

    def __str__(self) -> str:
        """Return the text that `parse` reads, with its number of bars."""
        return f"{self.name}:{self.bars}" if self.bars else self.name

    @property
    def needs_equity(self) -> bool:
        """Return whether `size` is percent of the equity."""
        return self.name.endswith("_pct")


def entry_quantity(
    sizing: str,
    size: Decimal,
    reference_price: Decimal,
    instrument: Instrument,
    *,
    equity: Decimal | None = None,
    stop_loss: Decimal | None = None,
    volatility: Decimal | None = None,
    share: Decimal | None = None,
) -> Decimal:
    """Return the quantity (base, on the lot grid, rounded down) of an entry; 0 when it is less than one step. `share`:
    how much of the quantity of the full size it has, rounded down once more; None = all.

    Units: `size` as in `SIZINGS`; `reference_price` is the close of the deciding bar; `equity` what the account is
    worth at it, `stop_loss` the entry's, on the tick grid, `volatility` of a bar (`fks.trading.risk.volatility`): all
    in quote.
    Errors: InputError SIZING_UNKNOWN, or PRICE_MISSING when there is no positive price to divide by; SizingMissing.
    """
    if sizing == "quantity":
        return _part(instrument.round_quantity(size), share, instrument)
    wanted = Sizing.parse(sizing)
    if not reference_price > 0:
        raise invalid(
            "PRICE_MISSING",
            f"no price to size {instrument.symbol} against: {reference_price}",
            "give a positive reference price",
        )
    per_unit, budget = reference_price, size
    if wanted.needs_equity:
        if equity is None:
            raise _missing("PRICE_MISSING", "the account's equity", f"{sizing} needs the prices of all that it holds")
        per_unit, budget = _per_unit(wanted, reference_price, stop_loss, volatility), max(equity, _ZERO) * size
        per_unit *= _HUNDRED
    if not per_unit > 0:
        return _ZERO
    # Integer division by the price of one step: no quotient is ever rounded up to one step too many.
    return _part(
        budget // (per_unit * instrument.lot_step * instrument.multiplier) * instrument.lot_step, share, instrument
    )


def _part(quantity: Decimal, share: Decimal | None, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid, rounded down) that is `share` of another one; None = all of it."""
    return quantity if share is None else quantity * share // instrument.lot_step * instrument.lot_step


def _per_unit(
    sizing: Sizing, reference_price: Decimal, stop_loss: Decimal | None, volatility: Decimal | None
) -> Decimal:
    """Return what the budget divides by for one unit: its price, its loss at the stop, or its volatility.

    Errors: SizingMissing.
    """
    if sizing.name == "equity_pct":
        return reference_price
    if sizing.name == "risk_pct":
        if stop_loss is None:
            raise _missing(
                "NO_PROTECTION", "a stop loss", "risk_pct sizes by the loss at the stop: give each entry one"
            )
        return abs(reference_price - stop_loss)
    if volatility is None:
        raise _missing("PRICE_MISSING", f"the volatility of {sizing.bars} bars", "wait until there are so many bars")
    return volatility


def _missing(code: str, what: str, remedy: str) -> SizingMissing:
    return SizingMissing(f"the entry cannot be sized without {what}", code=code, status=422, remedy=remedy)


def affordable_quantity(
    quantity: Decimal, cash: Decimal, price: Decimal, costs: CostModel, instrument: Instrument, *, most: Decimal | None
) -> Decimal:
    """Return the quantity (base, on the lot grid) of a buy that the account pays for: of `quantity` the most that
    `cash` covers at the worst price known at the decision, with fees and commission. Where that is not one step,
    `quantity` stays, and the check of the balance denies it.

    Units: quote. `most`: a price that the fill does not exceed, a limit or a collar; None: the worst price is `price`,
    the close of the deciding bar or a stop, worse by the slippage that depends on no later bar.
    """
    worst = costs.slippage.apply(Side.BUY, price, _ZERO, instrument.tick) if most is None else most
    if not worst > 0 or costs.buy_cost(quantity, worst, instrument) <= cash:
        return quantity
    step = instrument.lot_step
    least, above = 0, int(min(quantity, max(cash, _ZERO) / (worst * instrument.multiplier)) // step) + 1
    while above - least > 1:  # the cost is rounded, so that no quotient gives the quantity
        middle = (least + above) // 2
        if costs.buy_cost(middle * step, worst, instrument) <= cash:
            least = middle
        else:
            above = middle
    return least * step if least else quantity


def risk_quantity(risk: Decimal, price: Decimal, stop_loss: Decimal, side: Side, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid, rounded down) that loses `risk` between `price` and `stop_loss`; 0
    when it is less than one step. Fees and slippage come on top.

    Units: `risk` in quote. Errors: InputError SIZE_WRONG when the stop-loss is not on the losing side of the price.
    """
    distance = (price - stop_loss) * side.sign
    if not distance > 0:
        where = "below" if side is Side.BUY else "above"
        raise unprocessable(
            "SIZE_WRONG",
            f"stop_loss {stop_loss} is not {where} the price {price}",
            f"a {side.value} order's stop_loss is {where} its price",
        )
    return (risk // (distance * instrument.lot_step * instrument.multiplier)) * instrument.lot_step


def exit_quantity(position: Decimal, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid) that closes `position` (signed); less than one step stays as dust."""
    return instrument.round_quantity(abs(position))


def part_quantity(position: Decimal, share: Decimal, instrument: Instrument) -> Decimal:
    """Return the quantity (base, on the lot grid, rounded down) that closes `share` of `position` (signed)."""
    return _part(exit_quantity(position, instrument), share, instrument)
