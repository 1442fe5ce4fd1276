"""Accounts, balances and positions."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Account:
    """A trading account. `mode` is paper or live; `venue` is where its orders go."""

    id: int
    name: str
    account_type: str  # personal | prop
    venue: str
    broker: str
    currency: str
    initial_balance: Decimal
    mode: str = "paper"
    is_enabled: bool = True


@dataclass(frozen=True, slots=True)
class Balance:
    """What a venue says an account holds of one currency."""

    currency: str
    free: Decimal
    locked: Decimal

    @property
    def total(self) -> Decimal:
        return self.free + self.locked


@dataclass(frozen=True, slots=True)
class Position:
    """Signed quantity (base, net of base fees) from fills only, of one strategy instance ("" = persons, "external").

    The account's position in a symbol is the sum over instances. `average_price` is the average cost of what is open.
    """

    account_id: int
    venue: str
    symbol: str
    instance: str
    quantity: Decimal
    average_price: Decimal
    realized_pnl: Decimal
    fees: Decimal
    updated_ns: int = 0
