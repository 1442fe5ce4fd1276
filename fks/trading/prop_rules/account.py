"""State of a prop account as the rules need it. None is unknown, which is not 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from fks.model.futures import SPECS

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Holding:
    """A position: contracts of one root, long above 0."""

    root: str
    quantity: int


@dataclass(frozen=True, slots=True)
class WorkingEntry:
    """A working order that may open or add. `quantity`: contracts, a buy above 0. `worst_loss`: USD from its price to
    its stop, costs included; None without a stop."""

    root: str
    quantity: int
    worst_loss: Decimal | None


@dataclass(frozen=True, slots=True)
class EntryRequest:
    """An entry that is to be checked; the fields are those of `WorkingEntry`."""

    root: str
    quantity: int
    worst_loss: Decimal | None


@dataclass(frozen=True, slots=True)
class AccountState:
    """Values of one account, in USD. `equity`: with open profit and loss. `day_start_balance`: at the start of
    `day`, a trade date. `highest`: the highest value that a trailing limit counts from: of end-of-day balances or,
    intraday, of equity. `best_day` and `total_profit`: of the payout period, closed days. `blocked`: a trade
    date up to whose end entries are blocked."""

    equity: Decimal | None = None
    day_start_balance: Decimal | None = None
    day: date | None = None
    highest: Decimal | None = None
    holdings: tuple[Holding, ...] = ()
    entries: tuple[WorkingEntry, ...] = ()
    best_day: Decimal | None = None
    total_profit: Decimal | None = None
    blocked: date | None = None

    @property
    def has_risk(self) -> bool:
        """Return whether a position is open or an entry works."""
        return bool(self.entries) or any(holding.quantity for holding in self.holdings)


def worst_loss(entries: Sequence[WorkingEntry | EntryRequest]) -> Decimal | None:
    """Return the loss in USD if all entries fill and reach their stops; None when one has no stop.

    A stop in profit (a loss below 0) does not lessen the others'.
    """
    total = _ZERO
    for entry in entries:
        if entry.worst_loss is None:
            return None
        total += max(entry.worst_loss, _ZERO)
    return total


def lots_at_most(
    holdings: Sequence[Holding], entries: Sequence[WorkingEntry | EntryRequest], micro_factor: Decimal
) -> Decimal:
    """Return the most lots that can come to be open: of each root the larger side, summed over the roots.

    Of a root, all entries of one side may fill and none of the other. A micro counts as `micro_factor`; a root without
    a specification counts as full size.
    """
    total = _ZERO
    for root in {item.root for item in (*holdings, *entries)}:
        held = sum(item.quantity for item in holdings if item.root == root)
        buys = sum(item.quantity for item in entries if item.root == root and item.quantity > 0)
        sells = sum(item.quantity for item in entries if item.root == root and item.quantity < 0)
        spec = SPECS.get(root)
        factor = micro_factor if spec is not None and spec.is_micro else Decimal(1)
        total += max(abs(held), abs(held + buys), abs(held + sells)) * factor
    return total
