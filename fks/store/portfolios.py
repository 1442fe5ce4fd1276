"""Portfolios in the database: their members, the holdings of these, and their equity over time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.futures import instrument_of_symbol
from fks.model.errors import InputError
from fks.portfolio.valuation import EquityBefore, HeldPosition, PortfolioHolding, Valuation, holding_of
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database, Querier, Row, Transaction
from fks.store.portfolio_runs import check_idle

#: Not a number alone: a portfolio is named by its number or its name.
PORTFOLIO_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Portfolio:
    """One portfolio. `accounts` and `instances` are its members, of an archived one the last. `equity`: the newest."""

    id: int
    name: str
    base_currency: str
    benchmark: str | None
    state: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    accounts: list[str]
    instances: list[str]
    equity_time: datetime | None
    equity: Decimal | None
    is_complete: bool | None


_portfolio = reads(Portfolio)


class PortfolioStore(SqlStore[Querier], queries="portfolios"):
    """Reads of portfolios and of their holdings, in one transaction or each by itself."""

    async def all(self, *, with_archived: bool = False) -> list[Portfolio]:
        """Return the portfolios, by name."""
        return [_portfolio(row) for row in await self._db.fetch("portfolios.list", with_archived, None)]

    async def get(self, name: str) -> Portfolio:
        """Return one portfolio by its number or its name, an archived one too. Errors: InputError 404."""
        row = await self._db.fetchrow("portfolios.list", True, name)
        if row is None:
            raise InputError(
                f"there is no portfolio {name!r}",
                code="PORTFOLIO_UNKNOWN",
                status=404,
                remedy="see 'fks portfolio list --all'",
            )
        return _portfolio(row)

    async def holdings(
        self, portfolio_id: int, contract_prices: Mapping[str, Decimal | None]
    ) -> list[PortfolioHolding]:
        """Return the holdings of the members. `contract_prices`: by symbol, None if a price is missing or too old.

        The coins of a member account are its venue's balances, its strategies' coins included; of its contracts the
        open profit counts. A member instance has its own positions alone.
        """
        found = [
            PortfolioHolding(row["account"], row["asset"], row["quantity"], is_cash=row["asset"] == row["currency"])
            for row in await self._db.fetch("portfolios.balances", portfolio_id)
        ]
        for row in await self._db.fetch("portfolios.positions", portfolio_id):
            position, is_member = _position(row, contract_prices), row["is_member"]
            if position is None:
                if is_member:
                    found.append(_unlisted(row))
            elif is_member or position.is_contract:
                found.append(holding_of(position, is_member=is_member))
        return found

    async def contracts(self, portfolio_id: int) -> set[str]:
        """Return the symbols of contracts that the members hold."""
        rows = await self._db.fetch("portfolios.positions", portfolio_id)
        held = (_position(row, {}) for row in rows if row["quantity"])
        return {position.symbol for position in held if position is not None and position.is_contract}

    @query("transfers")
    async def transferred(self, portfolio_id: int) -> dict[str, Decimal]:
        """Return deposits less withdrawals of member accounts since they joined, by asset."""

    async def before(self, portfolio_id: int) -> EquityBefore | None:
        """Return the last complete equity; None while there is none."""
        row = await self._db.fetchrow("portfolios.before", portfolio_id)
        if row is None:
            return None
        invested = {currency: Decimal(amount) for currency, amount in row["invested"].items()}
        return EquityBefore(row["equity"], invested, row["flows"], row["are_members_changed"])

    async def lock(self, portfolio_id: int) -> datetime | None:
        """Keep other writers of its equity out until the transaction ends, and return the time; None if archived."""

    async def note_equity(
        self,
        portfolio_id: int,
        at: datetime,
        valuation: Valuation,
        flow: Decimal | None,
        invested: Mapping[str, Decimal],
    ) -> None:
        """Write the equity of a moment, once. `flow` None: it has no rate, and the row is incomplete."""
        await self._db.execute(
            "portfolios.note_equity",
            portfolio_id,
            at,
            valuation.equity,
            valuation.cash,
            flow or Decimal(0),
            valuation.is_complete and flow is not None,
            {currency: f"{amount:f}" for currency, amount in invested.items() if amount},
        )

    async def equity(self, portfolio_id: int, since: datetime, limit: int) -> list[dict[str, Any]]:
        """Return the equity over time, oldest first: the newest `limit` rows."""


class PortfolioChanges:
    """Changes of portfolios. Each is one transaction that holds the lock of all members: no holding gets two
    portfolios, whichever replicas are asked at once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(
        self,
        name: str,
        *,
        base_currency: str,
        benchmark: str | None,
        accounts: Sequence[str],
        instances: Sequence[str],
        by: str,
    ) -> Portfolio:
        """Make a portfolio. Errors: InputError 404 for an unknown member, 409 PORTFOLIO_EXISTS, PORTFOLIO_MEMBER."""
        async with self._db.transaction() as tx:
            await tx.execute("portfolios.lock_members")
            id = await tx.fetchval("portfolios.add", name, base_currency, benchmark, by)
            if id is None:
                raise _taken(name)
            await _set_members(tx, id, accounts, instances)
            return await PortfolioStore(tx).get(str(id))

    async def change(
        self,
        name: str,
        *,
        version: int,
        new_name: str | None = None,
        benchmark: str | None = None,
        is_benchmark_given: bool = False,
        accounts: Sequence[str] | None = None,
        instances: Sequence[str] | None = None,
    ) -> Portfolio:
        """Change a portfolio that is at `version`; None stays, a list of members replaces that of its kind.

        Errors: InputError 404 for it or a member, 409 PORTFOLIO_VERSION, PORTFOLIO_ARCHIVED, PORTFOLIO_EXISTS,
        PORTFOLIO_MEMBER, PORTFOLIO_RUNNING.
        """
        async with self._db.transaction() as tx:
            await tx.execute("portfolios.lock_members")
            store = PortfolioStore(tx)
            before = await store.get(name)
            _check_active(before)
            await check_idle(tx, before.id, before.name)
            if before.version != version:
                raise InputError(
                    f"portfolio {before.name} is at version {before.version}, not {version}: it was changed meanwhile",
                    code="PORTFOLIO_VERSION",
                    status=409,
                    remedy="read it again, and send its version with the change",
                )
            is_renamed = new_name is not None and new_name != before.name
            if is_renamed and await tx.fetchrow("portfolios.list", True, new_name) is not None:
                raise _taken(str(new_name))
            await tx.fetchrow("portfolios.change", before.id, version, new_name, benchmark, is_benchmark_given)
            if accounts is not None or instances is not None:
                kept = before.accounts if accounts is None else accounts
                await _set_members(tx, before.id, kept, before.instances if instances is None else instances)
            return await store.get(str(before.id))

    async def archive(self, name: str) -> Portfolio:
        """Archive a portfolio: its members are free, its equity stays. Errors: InputError 404, 409
        PORTFOLIO_ARCHIVED, PORTFOLIO_RUNNING."""
        async with self._db.transaction() as tx:
            await tx.execute("portfolios.lock_members")
            before = await PortfolioStore(tx).get(name)
            _check_active(before)
            await check_idle(tx, before.id, before.name)
            await tx.execute("portfolios.archive", before.id)
            return await PortfolioStore(tx).get(str(before.id))


def portfolio_json(portfolio: Portfolio) -> dict[str, Any]:
    """Return a portfolio as the values of an answer."""
    return asdict(portfolio)


async def _set_members(tx: Transaction, id: int, accounts: Sequence[str], instances: Sequence[str]) -> None:
    """Make exactly these the members. Errors: InputError 404 for one that is unknown, 409 for one that is taken."""
    rows = await tx.fetch("portfolios.known_members", [*accounts], [*instances])
    known = {row["name"]: row["account_id"] for row in rows if row["instance_id"] is None}
    numbers = {str(number): number for number in known.values()}
    for name in accounts:
        if name not in known and name not in numbers:
            raise InputError(
                f"there is no account {name!r}", code="ACCOUNT_UNKNOWN", status=404, remedy="see 'fks accounts list'"
            )
    listed = {row["instance_id"] for row in rows}
    for name in instances:
        if name not in listed:
            raise InputError(
                f"there is no strategy instance {name!r}",
                code="INSTANCE_UNKNOWN",
                status=404,
                remedy="see 'fks strategies list'",
            )
    account_ids = sorted({known[name] if name in known else numbers[name] for name in accounts})
    if taken := await tx.fetchrow("portfolios.overlaps", id, account_ids, [*instances]):
        raise InputError(
            f"the holdings of {taken['member']} are in portfolio {taken['portfolio']} already",
            code="PORTFOLIO_MEMBER",
            status=409,
            remedy="remove it there first; an account brings the holdings of its strategy instances",
        )
    await tx.execute("portfolios.leave", id, account_ids, [*instances])
    await tx.execute("portfolios.join", id, account_ids, sorted({*instances}))


def _check_active(portfolio: Portfolio) -> None:
    if portfolio.state != "active":
        raise InputError(
            f"portfolio {portfolio.name} is archived",
            code="PORTFOLIO_ARCHIVED",
            status=409,
            remedy="make another one: fks portfolio create",
        )


def _taken(name: str) -> InputError:
    return InputError(
        f"there is a portfolio named {name!r} already, perhaps an archived one",
        code="PORTFOLIO_EXISTS",
        status=409,
        remedy="choose another name",
    )


def _position(row: Row, prices: Mapping[str, Decimal | None]) -> HeldPosition | None:
    """Return a row of positions; None without metadata of its symbol."""
    base, quote, multiplier = row["base"], row["quote"], row["multiplier"]
    contract = instrument_of_symbol(row["exchange"] or "", row["symbol"])
    if base is None and contract is not None:
        base, quote, multiplier = contract.base, contract.quote, contract.multiplier
    if base is None:
        return None
    return HeldPosition(
        account=row["account"],
        instance=row["instance"],
        symbol=row["symbol"],
        base=base,
        quote=quote,
        quantity=row["quantity"],
        average_price=row["average_price"],
        realized_pnl=row["realized_pnl"],
        fees=row["fees"],
        multiplier=multiplier,
        price=prices.get(row["symbol"]),
        is_contract=contract is not None or multiplier != 1,
    )


def _unlisted(row: Row) -> PortfolioHolding:
    return PortfolioHolding(
        account=row["account"],
        asset=row["symbol"],
        amount=None,
        instance=row["instance"],
        symbol=row["symbol"],
        quantity=row["quantity"],
        missing=f"{row['symbol']}: no exchange lists it",
    )
