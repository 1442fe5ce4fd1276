"""Result of several members on one account: each member's result, and the account's equity and fills."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np

from fks.config.risk import Risk
from fks.model.bar import Floats, Ints
from fks.research.backtest.backtest import Backtest
from fks.research.backtest.fingerprint import account_fills_hash, account_inputs_hash
from fks.research.backtest.rows import FillRow


@dataclass(frozen=True, slots=True)
class AccountFill:
    """A fill of an account: its member, by number and name, and the symbol."""

    number: int
    member: str
    symbol: str
    fill: FillRow

    def as_dict(self) -> dict[str, str]:
        return {"member": self.member, "symbol": self.symbol, **self.fill.as_dict()}


@dataclass(frozen=True)
class AccountResult:
    """A finished run of several members on one account.

    `results` has the result of each member: its fills, trades and denials, and as equity the account's starting cash
    with this member's profit alone. `ends_ns` are the ends of all decided bars of all members. At each of them, shapes
    (n,): `equity` (quote), `exposure`, the sum of the positions' absolute values by symbol (quote), and `holding`, the
    number of members with a position. A position counts from its fill on, at the newest close of its symbol.
    """

    names: tuple[str, ...]
    results: tuple[Backtest, ...]
    starting_cash: Decimal
    limits: Risk
    ends_ns: Ints
    equity: Floats
    exposure: Floats
    holding: Ints
    fills: tuple[AccountFill, ...]
    all_ends_of_results: tuple[Ints, ...]  # the end of each bar of each member, warm-up included

    @property
    def ends_of_results(self) -> tuple[Ints, ...]:
        """Return the ends of the decided bars of each member: those of its equity."""
        return tuple(ends[r.first :] for ends, r in zip(self.all_ends_of_results, self.results, strict=True))

    def on_account(self, number: int) -> Floats:
        """Return the equity of one member at each of `ends_ns`: its newest by then, at first the starting cash."""
        column = np.concatenate([[float(self.starting_cash)], self.results[number].equity])
        found: Floats = column[np.searchsorted(self.ends_of_results[number], self.ends_ns, side="right")]
        return found

    @property
    def cash(self) -> Decimal:
        """Return the quote at the end."""
        return self.starting_cash + sum((r.cash - self.starting_cash for r in self.results), Decimal(0))

    @cached_property
    def denied_count(self) -> dict[str, int]:
        """Return how many entries were denied, by code."""
        found = Counter[str]()
        for result in self.results:
            found.update(result.denied_count)
        return dict(found)

    @cached_property
    def inputs_hash(self) -> str:
        """Return the fingerprint of everything that went in."""
        members = [(name, result.inputs_hash) for name, result in zip(self.names, self.results, strict=True)]
        return account_inputs_hash(members, self.starting_cash, self.limits)

    @cached_property
    def fills_hash(self) -> str:
        """Return the fingerprint of the ordered fills of all members."""
        return account_fills_hash([(row.number, row.symbol, row.fill) for row in self.fills])
