"""Journal of closed trades: executions of positions in, one entry per trade from flat to flat out. Pure, Decimal.

A trade begins with the execution that opens a flat position, and ends with the one that leaves less than a lot step of
it. An execution through zero ends one trade and begins the next. Realised profits are those that the order manager
booked by average cost, so that those of all trades, open ones included, add up to those of all executions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from fks.model.accounting.attribution import AttributedFill, slippage_of
from fks.model.instrument import money

_ZERO, _HUNDRED = Decimal(0), Decimal(100)
_PRICE, _PERCENT = Decimal("1e-12"), Decimal("1e-6")
_EXACT = Context(prec=80)


@dataclass(frozen=True, slots=True)
class JournalFill:
    """An execution of one position. `sequence`: the venue's number of it, 0 if it has none; `lot_step`: less of the
    instrument than this is a flat position; `reason`: of its order."""

    fill: AttributedFill
    fill_id: uuid.UUID
    sequence: int
    lot_step: Decimal
    reason: str

    @property
    def moved(self) -> Decimal:
        """Return the signed quantity that it adds to the holding: a fee in base is subtracted."""
        is_fee_in_base = self.fill.fee_currency == self.fill.base and not self.fill.is_contract
        return self.fill.quantity - (self.fill.fee if is_fee_in_base else _ZERO)


@dataclass(frozen=True, slots=True)
class JournalTrade:
    """A trade from flat to flat. Prices are averages of what opened and what closed, weighted by quantity.

    Units: `quantity` in base or contracts, all that was opened; `realized` (before fees), `fees` and `slippage` in
    quote. `fees_unvalued` executions have a fee without a rate, which is not in `fees`; `undecided` ones no price of
    their decision, and are not in `slippage`, which is negative if prices were worse than decided. `rest`: the quantity
    held afterwards, less than a lot step; None if the last execution went through zero. `prices`: the lowest and the
    highest execution.
    """

    is_long: bool
    base: str
    quote: str
    entry_fill: uuid.UUID
    exit_fill: uuid.UUID
    fills: tuple[uuid.UUID, ...]
    rest: Decimal | None
    entry_ns: int
    exit_ns: int
    entry_price: Decimal
    exit_price: Decimal
    quantity: Decimal
    realized: Decimal
    fees: Decimal
    fees_unvalued: int
    slippage: Decimal
    undecided: int
    entry_reason: str
    exit_reason: str
    prices: tuple[Decimal, Decimal]

    def excursions(self, low: Decimal | None, high: Decimal | None) -> tuple[Decimal, Decimal]:
        """Return the maximum adverse and the maximum favourable excursion: how far the price went against and for the
        average entry, in percent of it, never below zero. `low` and `high` are of bars within the trade."""
        least = min(self.prices[0], self.prices[0] if low is None else low)
        most = max(self.prices[1], self.prices[1] if high is None else high)
        below, above = self.entry_price - least, most - self.entry_price
        against, for_it = (below, above) if self.is_long else (above, below)
        if not self.entry_price > 0:
            return _ZERO, _ZERO
        adverse, favourable = (
            (max(distance, _ZERO) * _HUNDRED / self.entry_price).quantize(_PERCENT, ROUND_HALF_EVEN).normalize() + _ZERO
            for distance in (against, for_it)
        )
        return adverse, favourable


@dataclass(slots=True)
class _Open:
    """A trade under way: sums over its executions."""

    first: JournalFill
    is_long: bool
    opened: Decimal = _ZERO
    paid: Decimal = _ZERO
    closed: Decimal = _ZERO
    received: Decimal = _ZERO
    realized: Decimal = _ZERO
    fees: Decimal = _ZERO
    fees_unvalued: int = 0
    slippage: Decimal = _ZERO
    undecided: int = 0
    fills: list[uuid.UUID] = field(default_factory=list)
    low: Decimal | None = None
    high: Decimal | None = None

    def add(self, it: JournalFill, quantity: Decimal, fee: Decimal | None, slipped: Decimal, realized: Decimal) -> None:
        """Count `quantity` (signed) of an execution, with its part of fee (None: no rate) and slippage."""
        fill = it.fill
        if (quantity > 0) == self.is_long:
            self.opened += abs(quantity)
            self.paid += abs(quantity) * fill.price
        else:
            self.closed += abs(quantity)
            self.received += abs(quantity) * fill.price
        self.realized += realized
        self.fees += fee or _ZERO
        self.fees_unvalued += fee is None
        self.slippage += slipped
        self.undecided += fill.decided is None
        self.fills.append(it.fill_id)
        self.low = fill.price if self.low is None else min(self.low, fill.price)
        self.high = fill.price if self.high is None else max(self.high, fill.price)

    def ended(self, last: JournalFill, rest: Decimal | None) -> JournalTrade:
        """Return the trade that `last` closes."""
        assert self.low is not None
        assert self.high is not None
        entry, exit_ = self.paid / self.opened, self.received / self.closed
        return JournalTrade(
            is_long=self.is_long,
            base=last.fill.base,
            quote=last.fill.quote,
            entry_fill=self.first.fill_id,
            exit_fill=last.fill_id,
            fills=tuple(self.fills),
            rest=rest,
            entry_ns=self.first.fill.time_ns,
            exit_ns=last.fill.time_ns,
            entry_price=entry.quantize(_PRICE, ROUND_HALF_EVEN).normalize() + _ZERO,
            exit_price=exit_.quantize(_PRICE, ROUND_HALF_EVEN).normalize() + _ZERO,
            quantity=self.opened,
            realized=self.realized,
            fees=self.fees,
            fees_unvalued=self.fees_unvalued,
            slippage=self.slippage,
            undecided=self.undecided,
            entry_reason=self.first.reason,
            exit_reason=last.reason,
            prices=(self.low, self.high),
        )


def closed_trades(
    fills: Iterable[JournalFill],
    busts: Mapping[uuid.UUID, tuple[Decimal, Decimal, Decimal]] | None = None,
    *,
    after: tuple[uuid.UUID, Decimal] | None = None,
) -> list[JournalTrade]:
    """Return the closed trades of one position, oldest first; an open one is left out.

    `fills` may come in any order: they count by time, then by the venue's number, then by id. `busts`: by execution
    the quantity, fee and realised profit that its venue took back; one taken back whole is no execution. `after`: the
    execution that closed an earlier trade, and its rest: those up to it are left out.
    """
    ordered = sorted(fills, key=lambda it: (it.fill.time_ns, it.sequence, it.fill_id))
    found: list[JournalTrade] = []
    held, trade = _ZERO, None
    if after is not None:
        places = [place for place, it in enumerate(ordered) if it.fill_id == after[0]]
        ordered, held = ordered[places[0] + 1 :] if places else ordered, after[1]
    with localcontext(_EXACT):
        for it in ordered:
            fill = it.fill
            quantity, fee, realized = _kept(it, (busts or {}).get(it.fill_id))
            if not quantity:
                if trade is not None:
                    trade.realized += realized
                continue
            share = quantity / fill.quantity
            slipped = money(slippage_of(fill) * share)
            before, held = held, held + it.moved * share
            is_through = trade is not None and before * held < 0 and abs(held) >= it.lot_step
            if trade is None:
                if abs(held) < it.lot_step:  # it only moves a rest that no order could sell
                    continue
                trade = _Open(it, held > 0)
            if is_through:
                closing = quantity * (abs(before) / abs(before - held))
                part = closing / quantity
                fee_part = None if fee is None else money(fee * part)
                slipped_part = money(slipped * part)
                trade.add(it, closing, fee_part, slipped_part, realized)
                found.append(trade.ended(it, None))
                trade = _Open(it, held > 0)
                rest = None if fee is None or fee_part is None else fee - fee_part
                trade.add(it, quantity - closing, rest, slipped - slipped_part, _ZERO)
                continue
            trade.add(it, quantity, fee, slipped, realized)
            if abs(held) < it.lot_step and trade.closed:
                found.append(trade.ended(it, held))
                trade = None
    return found


def _kept(it: JournalFill, bust: tuple[Decimal, Decimal, Decimal] | None) -> tuple[Decimal, Decimal | None, Decimal]:
    """Return what stays of an execution: its signed quantity, its fee in quote (None without a rate), its profit."""
    fill = it.fill
    fee = _ZERO if not fill.fee else fill.fee_quote
    if bust is None:
        return fill.quantity, fee, fill.realized
    left = max(abs(fill.quantity) - bust[0], _ZERO)
    quantity = left if fill.quantity > 0 else -left
    if fee is not None and fill.fee:
        fee = money(fee * (fill.fee - bust[1]) / fill.fee)
    return quantity, fee, fill.realized + bust[2]
