"""Accounts and their balances, as the venue last reported them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from fks.model.account import Account, Balance, Environment, VenueIdentity
from fks.model.timeframe import to_datetime
from fks.store.base import FencedStore, query, reader, reads
from fks.store.db import Querier, Row
from fks.store.leases import fence_of


@dataclass(frozen=True, slots=True)
class BalanceRow:
    """A balance, its account, and when it was last written."""

    account_id: int
    balance: Balance
    updated_ns: int


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One point of an account's balance history. `cause` is fill, fee, funding, deposit, withdrawal or snapshot."""

    account_id: int
    time_ns: int
    currency: str
    balance: Decimal
    equity: Decimal | None
    cause: str
    reference: str | None


reads(HistoryRow, time_ns="time")


@reader
def identity_of(row: Row) -> VenueIdentity | None:
    """Return the identity columns of a row of the accounts table, or None before the first session."""
    if row["environment"] is None:
        return None
    return VenueIdentity(Environment(row["environment"]), row["uid"] or "", row["network_epoch"] or "")


class AccountStore(FencedStore[Querier], queries="accounts"):
    """Reads and writes of accounts, balances and balance_history. Takes a database or an open transaction."""

    @query("list")
    async def page(self) -> list[Account]:
        """Return every account, by id."""

    async def create(
        self,
        name: str,
        *,
        account_type: str = "personal",
        venue: str,
        broker: str = "",
        currency: str = "USDT",
        initial_balance: Decimal = Decimal(0),
        mode: str = "paper",
    ) -> Account:
        """Return the account of that name, added when there was none; an existing one is left as it is."""

    @query(binds=("account_id", "identity.environment", "identity.uid", "identity.network_epoch"), is_fenced=True)
    async def fix_identity(self, account_id: int, identity: VenueIdentity) -> VenueIdentity | None:
        """Give the account this identity unless it has one; return its identity, None when there is no such account."""

    async def identity(self, account_id: int) -> VenueIdentity | None:
        """Return the identity of an account, None before its first session."""

    async def has_traded(self, account_id: int) -> bool:
        """Return whether an order of the account may ever have reached its venue."""

    async def save_balances(self, account_id: int, balances: Iterable[Balance], now_ns: int) -> None:
        """Write the balances that the venue reported; equal rows are left alone until an execution is booked."""
        rows = [
            {"currency": b.currency, "free": format(b.free, "f"), "locked": format(b.locked, "f")} for b in balances
        ]
        if rows:
            await self._db.execute(
                "accounts.save_balances", account_id, to_datetime(now_ns), rows, *fence_of(self._lease)
            )

    async def balances(self, account_id: int | None = None) -> list[BalanceRow]:
        """Return the balances of the accounts, as last reported."""

    @query(
        binds=(
            *("row.account_id", "row.currency", "row.balance", "row.equity", "row.cause", "row.reference"),
            "row.time_ns",
        ),
        is_fenced=True,
    )
    async def note_balance(self, row: HistoryRow) -> None:
        """Add one point to the balance history."""

    async def history(self, account_id: int, limit: int = 100) -> list[HistoryRow]:
        """Return the newest points of an account's balance history, newest first."""
