"""Accounts and their balances, as the venue last reported them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from fks.model.account import Account, Balance, Environment, VenueIdentity
from fks.model.ports import Lease
from fks.model.timeframe import to_datetime, to_ns
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


class AccountStore:
    """Reads and writes of accounts, balances and balance_history. Takes a database or an open transaction."""

    def __init__(self, querier: Querier, lease: Lease | None = None) -> None:
        self._db, self._lease = querier, lease

    async def page(self) -> list[Account]:
        """Return every account, by id."""
        return [account_of(row) for row in await self._db.fetch("accounts.list")]

    async def create(
        self,
        name: str,
        *,
        venue: str,
        account_type: str = "personal",
        broker: str = "",
        currency: str = "USDT",
        initial_balance: Decimal = Decimal(0),
        mode: str = "paper",
    ) -> Account:
        """Return the account of that name, added when there was none; an existing one is left as it is."""
        row = await self._db.fetchrow(
            "accounts.create", name, account_type, venue, broker, currency, initial_balance, mode
        )
        assert row is not None
        return account_of(row)

    async def fix_identity(self, account_id: int, identity: VenueIdentity) -> VenueIdentity | None:
        """Give the account this identity unless it has one; return its identity, None when there is no such account."""
        row = await self._db.fetchrow(
            "accounts.fix_identity",
            account_id,
            identity.environment.value,
            identity.uid,
            identity.network_epoch,
            *fence_of(self._lease),
        )
        return None if row is None else identity_of(row)

    async def identity(self, account_id: int) -> VenueIdentity | None:
        """Return the identity of an account, None before its first session."""
        row = await self._db.fetchrow("accounts.identity", account_id)
        return None if row is None else identity_of(row)

    async def has_traded(self, account_id: int) -> bool:
        """Return whether an order of the account may ever have reached its venue."""
        return bool(await self._db.fetchval("accounts.has_traded", account_id))

    async def save_balances(self, account_id: int, balances: Iterable[Balance], now_ns: int) -> None:
        """Write the balances that the venue reported; equal rows are left alone."""
        rows = [
            {"currency": b.currency, "free": format(b.free, "f"), "locked": format(b.locked, "f")} for b in balances
        ]
        if rows:
            await self._db.execute(
                "accounts.save_balances", account_id, to_datetime(now_ns), rows, *fence_of(self._lease)
            )

    async def balances(self, account_id: int | None = None) -> list[BalanceRow]:
        """Return the balances of the accounts, as last reported."""
        return [
            BalanceRow(
                row["account_id"], Balance(row["currency"], row["free"], row["locked"]), to_ns(row["updated_at"])
            )
            for row in await self._db.fetch("accounts.balances", account_id)
        ]

    async def note_balance(self, row: HistoryRow) -> None:
        """Add one point to the balance history."""
        await self._db.execute(
            "accounts.note_balance",
            row.account_id,
            row.currency,
            row.balance,
            row.equity,
            row.cause,
            row.reference,
            to_datetime(row.time_ns),
            *fence_of(self._lease),
        )

    async def history(self, account_id: int, limit: int = 100) -> list[HistoryRow]:
        """Return the newest points of an account's balance history, newest first."""
        return [
            HistoryRow(
                row["account_id"],
                to_ns(row["time"]),
                row["currency"],
                row["balance"],
                row["equity"],
                row["cause"],
                row["reference"],
            )
            for row in await self._db.fetch("accounts.history", account_id, limit)
        ]


def account_of(row: Row) -> Account:
    """Return a row of the accounts table as a value."""
    return Account(
        id=row["id"],
        name=row["name"],
        account_type=row["account_type"],
        venue=row["venue"],
        broker=row["broker"],
        currency=row["currency"],
        initial_balance=row["initial_balance"],
        mode=row["mode"],
        is_enabled=row["is_enabled"],
        identity=identity_of(row),
    )


def identity_of(row: Row) -> VenueIdentity | None:
    """Return the identity columns of a row of the accounts table, or None before the first session."""
    if row["environment"] is None:
        return None
    return VenueIdentity(Environment(row["environment"]), row["uid"] or "", row["network_epoch"] or "")
