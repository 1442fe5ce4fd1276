"""Portfolios in the database: their members, the holdings of these, and their equity over time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from fks.model.accounting.attribution import (
    AttributedFill,
    AttributedPayment,
    AttributedSplit,
    PortfolioState,
    PositionName,
    holdings_of,
    state_of,
)
from fks.model.accounting.valuation import (
    EquityBefore,
    HeldPosition,
    PortfolioHolding,
    Rate,
    Rates,
    Valuation,
    holding_of,
    value_holdings,
)
from fks.model.errors import InputError, conflict, not_found
from fks.model.futures import instrument_of_symbol
from fks.model.instrument import assumed_instrument
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.store.base import SqlStore, query, reads
from fks.store.db import Database, Querier, Row, Transaction
from fks.store.portfolio_runs import check_idle

#: Not a number alone: a portfolio is named by its number or its name.
PORTFOLIO_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Portfolio:
    """One portfolio. `accounts` and `instances` are its members, of an archived one the last. `equity`: the newest.
    `day_end_min`: when its day ends, minutes after midnight UTC."""

    id: int
    name: str
    base_currency: str
    benchmark: str | None
    state: str
    version: int
    day_end_min: int
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
            raise not_found("PORTFOLIO_UNKNOWN", f"there is no portfolio {name!r}", "see 'fks portfolio list --all'")
        return _portfolio(row)

    async def holdings(
        self, portfolio_id: int, contract_prices: Mapping[str, Decimal | None]
    ) -> tuple[list[PortfolioHolding], list[HeldPosition]]:
        """Return the holdings of the members, and the positions that are in them or in the balances of accounts.

        `contract_prices`: by symbol, None if a price is missing or too old. The coins of a member account are its
        venue's balances, its strategies' coins included; of its contracts the open profit counts. A member instance has
        its own positions alone.
        """
        found = [
            PortfolioHolding(
                row["account"],
                row["asset"],
                row["quantity"],
                is_cash=row["asset"] == row["currency"],
                venue=row["venue"],
            )
            for row in await self._db.fetch("portfolios.balances", portfolio_id)
        ]
        positions = []
        for row in await self._db.fetch("portfolios.positions", portfolio_id):
            position = _position(row, contract_prices)
            if position is not None:
                positions.append(position)
                if position.is_member or position.is_contract:
                    found.append(holding_of(position, is_member=position.is_member))
            elif row["is_member"]:
                found.append(_unlisted(row))
        return found, positions

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

    async def equity_due(self) -> set[int]:
        """Return the portfolios whose day has ended since their newest equity, or that had a deposit or withdrawal."""

    async def note_equity(
        self,
        portfolio_id: int,
        at: datetime,
        valuation: Valuation,
        flow: Decimal | None,
        invested: Mapping[str, Decimal],
        state: Mapping[str, Any],
        rates: Mapping[str, Rate],
    ) -> None:
        """Write the equity of a moment with the rates that it used, once. `flow` None: it has no rate, and the row is
        incomplete. `state`: the holdings of a complete one, for its attribution."""
        await self._db.execute(
            "portfolios.note_equity",
            portfolio_id,
            at,
            valuation.equity,
            valuation.cash,
            flow or Decimal(0),
            valuation.is_complete and flow is not None,
            {currency: f"{amount:f}" for currency, amount in invested.items() if amount},
            dict(state),
            [
                {
                    "asset": asset,
                    "rate": f"{rate.value:f}",
                    "rate_time": None if rate.time_ns is None else iso(rate.time_ns),
                    "legs": rate.legs,
                }
                for asset, rate in rates.items()
            ],
        )

    async def rates(self, portfolio_id: int, at: datetime) -> dict[str, Rate]:
        """Return the rates that the equity of a moment used, by asset."""
        rows = await self._db.fetch("portfolios.rates", portfolio_id, at)
        return {
            row["asset"]: Rate(
                row["rate"], None if row["rate_time"] is None else to_ns(row["rate_time"]), (*row["legs"],)
            )
            for row in rows
        }

    async def valuation_at(self, portfolio: Portfolio, at: datetime) -> tuple[int, Valuation] | None:
        """Return the last complete valuation at or before a moment with its time, by the rates that it used then; None
        without one."""
        row = await self._db.fetchrow("portfolios.state_at", portfolio.id, at)
        if row is None:
            return None
        rates = await self.rates(portfolio.id, row["time"])
        state = state_of(to_ns(row["time"]), row["equity"], row["held"], {})
        into = portfolio.base_currency
        return state.time_ns, value_holdings(holdings_of(state), Rates.stored(rates, into), into)

    async def equity(self, portfolio_id: int, since: datetime, limit: int) -> list[dict[str, Any]]:
        """Return the equity over time, oldest first: the newest `limit` rows."""

    async def limits(self, portfolio_id: int) -> list[dict[str, Any]]:
        """Return the limits of entries with what was measured last, by kind."""

    async def note_limit(
        self, portfolio_id: int, kind: str, observed: Decimal | None, at_ns: int, missing: str
    ) -> None:
        """Write a measurement of a limit; `observed` None if it is not known, and `missing` says why."""
        await self._db.execute("portfolios.note_limit", portfolio_id, kind, observed, to_datetime(at_ns), missing)

    async def traded(self, portfolio_id: int, start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Return the executions of the members after `start` up to `end`, by quote currency: how many won and lost,
        what they gained and gave (positive, before fees), and the value of all."""

    async def states(self, portfolio_id: int, start: datetime, end: datetime) -> list[PortfolioState]:
        """Return the states between which a span is attributed, the first and the last, of the same members.

        The first is the last complete one at or before `start`, else the first after it; it is later if members changed
        in between. Empty without two.
        """
        rows = await self._db.fetch("portfolios.states", portfolio_id, start, end)
        if len(rows) < 2:
            return []
        states = []
        for row in rows:
            rates = {asset: rate.value for asset, rate in (await self.rates(portfolio_id, row["time"])).items()}
            states.append(state_of(to_ns(row["time"]), row["equity"], row["held"], rates))
        return states

    async def moves(
        self, portfolio_id: int, start: datetime, end: datetime
    ) -> tuple[list[AttributedFill], list[AttributedPayment], list[AttributedSplit]]:
        """Return executions, payments (deposits, withdrawals, income) and splits after `start` up to `end`, oldest
        first."""
        fills = [attributed_fill(row) for row in await self._db.fetch("portfolios.fills", portfolio_id, start, end)]
        payments = []
        for row in await self._db.fetch("portfolios.payments", portfolio_id, start, end):
            for amount, part in ((row["amount"], row["part"]), (-row["fee"], "fees")):
                if amount:
                    place = (row["reference"], to_ns(row["time"]), row["account"], row["venue"], row["asset"])
                    payments.append(AttributedPayment(*place, amount, part, row["symbol"]))
        splits = []
        for row in await self._db.fetch("portfolios.splits", portfolio_id, start, end):
            if instrument_of_symbol(row["exchange"], row["symbol"]) is None and row["multiplier"] in (None, 1):
                base = row["base"] or assumed_instrument(row["exchange"], row["symbol"], "").base
                splits.append(
                    AttributedSplit(
                        id=str(row["id"]),
                        time_ns=to_ns(row["time"]),
                        account=row["account"],
                        venue=row["venue"],
                        symbol=row["symbol"],
                        base=base,
                        change=row["change"],
                        new=row["new_shares"],
                        old=row["old_shares"],
                        is_member=row["is_member"],
                    )
                )
        return fills, payments, splits


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
            id = await add_portfolio(tx, name, base_currency, benchmark, accounts, instances, by)
            return await PortfolioStore(tx).get(str(id))

    async def change(
        self,
        name: str,
        *,
        version: int,
        new_name: str | None = None,
        benchmark: str | None = None,
        is_benchmark_given: bool = False,
        day_end_min: int | None = None,
        accounts: Sequence[str] | None = None,
        instances: Sequence[str] | None = None,
    ) -> Portfolio:
        """Change a portfolio that is at `version`; None stays, a list of members replaces that of its kind. Then its
        limits are not known until they are measured.

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
                raise conflict(
                    "PORTFOLIO_VERSION",
                    f"portfolio {before.name} is at version {before.version}, not {version}: it was changed meanwhile",
                    "read it again, and send its version with the change",
                )
            is_renamed = new_name is not None and new_name != before.name
            if is_renamed and await tx.fetchrow("portfolios.list", True, new_name) is not None:
                raise _taken(str(new_name))
            row = (before.id, version, new_name, benchmark, is_benchmark_given, day_end_min)
            await tx.fetchrow("portfolios.change", *row)
            if accounts is not None or instances is not None:
                kept = before.accounts if accounts is None else accounts
                await _set_members(tx, before.id, kept, before.instances if instances is None else instances)
                await tx.execute("portfolios.forget_measurements", before.id)
            return await store.get(str(before.id))

    async def set_limits(self, name: str, limits: Sequence[tuple[str, Decimal, float]], by: str) -> Portfolio:
        """Make these (kind, value, age_max_s) all limits of a portfolio. Errors: InputError 404, 409
        PORTFOLIO_ARCHIVED."""
        kinds, values, ages = ([row[at] for row in limits] for at in range(3))
        async with self._db.transaction() as tx:
            await tx.execute("portfolios.lock_members")
            found = await PortfolioStore(tx).get(name)
            _check_active(found)
            await tx.execute("portfolios.set_limits", found.id, kinds, values, ages, by)
            return found

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


async def add_portfolio(
    tx: Transaction,
    name: str,
    base_currency: str,
    benchmark: str | None,
    accounts: Sequence[str],
    instances: Sequence[str],
    by: str,
) -> int:
    """Make a portfolio in a transaction; return its id. Errors: those of `PortfolioChanges.add`."""
    await tx.execute("portfolios.lock_members")
    id = await tx.fetchval("portfolios.add", name, base_currency, benchmark, by)
    if id is None:
        raise _taken(name)
    await _set_members(tx, id, accounts, instances)
    return int(id)


async def _set_members(tx: Transaction, id: int, accounts: Sequence[str], instances: Sequence[str]) -> None:
    """Make exactly these the members. Errors: InputError 404 for one that is unknown, 409 for one that is taken."""
    rows = await tx.fetch("portfolios.known_members", [*accounts], [*instances])
    known = {row["name"]: row["account_id"] for row in rows if row["instance_id"] is None}
    numbers = {str(number): number for number in known.values()}
    for name in accounts:
        if name not in known and name not in numbers:
            raise not_found("ACCOUNT_UNKNOWN", f"there is no account {name!r}", "see 'fks accounts list'")
    listed = {row["instance_id"] for row in rows}
    for name in instances:
        if name not in listed:
            raise not_found("INSTANCE_UNKNOWN", f"there is no strategy instance {name!r}", "see 'fks strategies list'")
    account_ids = sorted({known[name] if name in known else numbers[name] for name in accounts})
    if taken := await tx.fetchrow("portfolios.overlaps", id, account_ids, [*instances]):
        raise conflict(
            "PORTFOLIO_MEMBER",
            f"the holdings of {taken['member']} are in portfolio {taken['portfolio']} already",
            "remove it there first; an account brings the holdings of its strategy instances",
        )
    await tx.execute("portfolios.leave", id, account_ids, [*instances])
    await tx.execute("portfolios.join", id, account_ids, sorted({*instances}))


def _check_active(portfolio: Portfolio) -> None:
    if portfolio.state != "active":
        raise conflict(
            "PORTFOLIO_ARCHIVED", f"portfolio {portfolio.name} is archived", "make another one: fks portfolio create"
        )


def _taken(name: str) -> InputError:
    return conflict(
        "PORTFOLIO_EXISTS",
        f"there is a portfolio named {name!r} already, perhaps an archived one",
        "choose another name",
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
        venue=row["venue"],
        is_member=row["is_member"],
    )


def attributed_fill(row: Row | Mapping[str, Any]) -> AttributedFill:
    """Return the execution of a row of `portfolios.fills` or `trade_journal.fills`."""
    contract = instrument_of_symbol(row["exchange"] or "", row["symbol"])
    item = contract or assumed_instrument(row["exchange"] or "", row["symbol"], row["fee_currency"])
    base, quote, multiplier = row["base"], row["quote"], row["multiplier"]
    if base is None:
        base, quote, multiplier = item.base, item.quote, item.multiplier
    fee_quote = row["fee_quote"]
    if fee_quote is None and row["fee_currency"] in (base, quote):
        fee_quote = row["fee"] * (row["price"] if row["fee_currency"] == base else 1)
    return AttributedFill(
        id=str(row["id"]),
        time_ns=to_ns(row["time"]),
        name=PositionName(row["account"], row["venue"], row["instance"], row["symbol"]),
        base=base,
        quote=quote,
        multiplier=multiplier,
        quantity=row["quantity"],
        price=row["price"],
        decided=row["decided"],
        fee=row["fee"],
        fee_currency=row["fee_currency"] or quote,
        fee_quote=fee_quote,
        realized=row["realized_pnl"],
        is_contract=contract is not None or multiplier != 1,
        is_member=row["is_member"],
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
