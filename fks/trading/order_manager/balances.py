"""Balances of an account as its venue reports them, their history, and the part that no fill of ours explains."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from fks.model.account import Account, Balance, Transfer, TransferKind
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.order import State
from fks.model.ports import Lease, Venue
from fks.model.timeframe import NS
from fks.store.accounts import AccountStore, HistoryRow
from fks.store.db import Database
from fks.store.facts import FactStore
from fks.store.holdings import HoldingStore
from fks.store.incidents import IncidentStore
from fks.store.orders import OrderStore
from fks.store.positions import PositionStore
from fks.trading.order_manager.balance_reads import BalanceQuery
from fks.trading.order_manager.cache import VenueStatus
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.portfolio.position import EXTERNAL

_CALM_S = 1.0
_SNAPSHOT_NS = 300 * NS
_ROUNDING = Decimal("0.0001")
_READ_S = 15.0
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class AccountStores:
    """The tables of accounts and their money, as one writer sees them."""

    accounts: AccountStore
    positions: PositionStore
    holdings: HoldingStore
    incidents: IncidentStore
    facts: FactStore
    orders: OrderStore

    @staticmethod
    def of(db: Database, lease: Lease) -> AccountStores:
        """Return the stores, their writes fenced by `lease`."""
        return AccountStores(
            AccountStore(db, lease),
            PositionStore(db, lease),
            HoldingStore(db, lease),
            IncidentStore(db, lease),
            FactStore(db, lease),
            OrderStore(db),
        )


class AccountBalances:
    """Balances of one venue in the book and in the tables. The venue's word replaces what fills made us expect."""

    def __init__(self, context: OrderManagerContext, venue: Venue, status: VenueStatus, stores: AccountStores) -> None:
        self._venue = venue
        self._status = status
        self._accounts, self._positions = stores.accounts, stores.positions
        self._cache, self._ledger, self._tasks = context.cache, context.ledger, context.tasks
        self._clock, self._log = context.clock, context.log
        self._task: asyncio.Task[object] | None = None
        self._is_due = False  # a read that begins later
        self._differences: dict[str, Decimal] = {}
        self._noted: tuple[Decimal, Decimal, Decimal] | None = None  # total, and what executions and fees had moved
        self._transfers: list[Transfer] = []
        self.is_unexplained = False  # the account's currency moved by more than executions and transfers

    def begin_comparison(self) -> None:
        """Remember the balances that are known while the venue's executions are compared."""
        self._cache.begin_comparison(self._venue.name)

    def ask(self, *, is_settled: bool = False) -> BalanceQuery:
        """Return a question for the balances, which is sent by `read` at once. `is_settled`: the venue's executions
        were compared just now."""
        return self._cache.ask_balances(self._venue.name, self._clock.now_ns(), is_settled=is_settled)

    async def read(self) -> dict[str, Balance]:
        """Return the venue's balances. Errors: OutageError, TimeoutError."""
        async with asyncio.timeout(_READ_S):
            return await self._venue.balances()

    async def refresh(self) -> None:
        """Read the balances now; an outage leaves what is known."""
        query = self.ask()
        try:
            balances = await self.read()
        except (OutageError, TimeoutError):
            return
        await self.keep(balances, query)

    def refresh_soon(self) -> None:
        """Read the balances once things have calmed down, at most once a second; once more when that is asked for while
        they are read."""
        self._is_due = True
        if self._task is None or self._task.done():
            self._task = self._tasks.spawn(self._refresh_later(), f"{self._venue.name} balances")

    async def _refresh_later(self) -> None:
        while self._is_due:
            await self._clock.sleep(_CALM_S)
            self._is_due = False
            await self.refresh()

    def see(self, balances: Sequence[Balance]) -> None:
        """Take balances that the venue pushed."""
        self._cache.see_balances(self._venue.name, balances)
        self.refresh_soon()

    async def keep(self, balances: dict[str, Balance], query: BalanceQuery) -> None:
        """Take the answer to a question, for the checks and the tables, unless a later one was answered before; the
        tables may miss some in an outage. They have the time of the question: the answer may lack an execution of
        after it."""
        if not self._cache.put_balances(query, balances):
            return
        try:
            await self._accounts.save_balances(self._status.account_id, balances.values(), query.asked_ns)
            await self._note_history(balances)
        except OutageError:
            self._log.debug("balances.unsaved", venue=self._venue.name)

    # ── history ──────────────────────────────────────────────────────────────────────────────────
    async def run(self) -> None:
        """Write a snapshot of the account every 5 minutes of the clock, midnight UTC among them, for ever."""
        while True:
            now_ns = self._clock.now_ns()
            await self._clock.sleep((_SNAPSHOT_NS - now_ns % _SNAPSHOT_NS) / NS)
            if self._status.refusal or not self._status.has_positions:
                continue
            try:
                query = self.ask()
                await self.keep(await self.read(), query)
                await self._snapshot()
            except (OutageError, TimeoutError):
                self._log.debug("balances.unsaved", venue=self._venue.name)

    async def note_transfer(self, transfer: Transfer) -> None:
        """Add a deposit or withdrawal to the balance history. Errors: OutageError."""
        account = self._cache.accounts.get(self._status.account_id)
        balances = self._cache.balances.get(self._venue.name, {})
        if account is None:
            return
        if transfer.asset == account.currency:
            self._transfers.append(transfer)
            await self._note_history(balances)
            return
        held = balances.get(transfer.asset, Balance(transfer.asset, _ZERO, _ZERO))
        row = HistoryRow(
            account.id, self._clock.now_ns(), transfer.asset, held.total, None, transfer.kind.value, transfer.reference
        )
        await self._accounts.note_balance(row)

    async def _note_history(self, balances: dict[str, Balance]) -> None:
        """Add points to the balance history when the account's own currency has moved, one for each cause.

        A move that executions, fees and transfers do not explain is left to the next look: the execution may be booked
        a moment later, the transfer listed minutes later. What stays unexplained is in the next snapshot.
        """
        account = self._cache.accounts.get(self._status.account_id)
        held = None if account is None else balances.get(account.currency)
        if account is None or held is None:
            return
        executed, fees = self._cache.flows.get((self._venue.name, account.currency), (_ZERO, _ZERO))
        if self._noted is None:
            await self._snapshot()
            return
        total, executed_then, fees_then = self._noted
        steps: list[tuple[str, str | None, Decimal]] = [
            ("fill", None, executed - executed_then),
            ("fee", None, fees_then - fees),
            *((item.kind.value, item.reference, _moved(item)) for item in self._transfers),
        ]
        explained = sum((amount for _, _, amount in steps), total)
        self.is_unexplained = abs(held.total - explained) > _ROUNDING
        if self.is_unexplained or not any(amount for _, _, amount in steps):
            return
        self._noted, self._transfers = (held.total, executed, fees), []
        equity, now_ns = self._equity(account, held.total), self._clock.now_ns()
        for cause, reference, amount in steps:
            total += amount
            if amount:
                await self._accounts.note_balance(
                    HistoryRow(
                        account.id,
                        now_ns,
                        account.currency,
                        total,
                        None if equity is None else equity - held.total + total,
                        cause,
                        reference,
                    )
                )

    async def _snapshot(self) -> None:
        """Write what is held now, whatever the cause; transfers that no move was seen of come before it."""
        account = self._cache.accounts.get(self._status.account_id)
        held = None if account is None else self._cache.balances.get(self._venue.name, {}).get(account.currency)
        if account is None or held is None:
            return
        flows = self._cache.flows.get((self._venue.name, account.currency), (_ZERO, _ZERO))
        waiting, self._transfers, self._noted, self.is_unexplained = self._transfers, [], (held.total, *flows), False
        equity, now_ns = self._equity(account, held.total), self._clock.now_ns()
        for cause, reference in [*((item.kind.value, item.reference) for item in waiting), ("snapshot", None)]:
            await self._accounts.note_balance(
                HistoryRow(account.id, now_ns, account.currency, held.total, equity, cause, reference)
            )

    def _equity(self, account: Account, balance: Decimal) -> Decimal | None:
        """Return the balance and the positions in the account's currency; None where a rate into it is missing."""
        equity, cache = balance, self._cache
        for (owner, venue, symbol, _), position in cache.positions.items():
            if (owner, venue) == (account.id, self._venue.name) and position.quantity:
                price = self._price(symbol) or position.average_price
                if self._venue.capabilities.is_margin:  # open profit alone: the contracts were not paid for
                    price = (price - position.average_price) * self._multiplier(symbol)
                rate: Decimal | None = Decimal(1)
                if (instrument := self._instrument(symbol)) is not None and instrument.quote != account.currency:
                    rates = cache.values.rates(cache, instrument.exchange, self._clock.now_ns())
                    rate = rates.rate(instrument.quote, account.currency)
                if rate is None:
                    return None
                equity += position.quantity * price * rate
        return equity

    def _price(self, symbol: str) -> Decimal | None:
        return next((m.price for (_, name), m in self._cache.marks.items() if name == symbol and m.price), None)

    def _instrument(self, symbol: str) -> Instrument | None:
        return next((i for (_, name), i in self._cache.instruments.items() if name == symbol), None)

    def _multiplier(self, symbol: str) -> Decimal:
        instrument = self._instrument(symbol)
        return Decimal(1) if instrument is None else instrument.multiplier

    def price_in(self, asset: str, currency: str) -> Decimal | None:
        """Return the price of an asset in a currency, None when no collected symbol has it."""
        if asset == currency:
            return Decimal(1)
        symbols = (s for (_, s), i in self._cache.instruments.items() if (i.base, i.quote) == (asset, currency))
        return next((price for symbol in symbols if (price := self._price(symbol)) is not None), None)

    # ── the part that is not ours ────────────────────────────────────────────────────────────────
    async def find_externals(self, symbols: Sequence[str], *, is_sure: bool) -> None:
        """Write what the venue holds of each base beyond our fills; not while something there is unresolved.

        It is noted in one symbol of the base, however many trade it: counted twice, a person could sell as external
        what an instance bought. While trading, balances and fills arrive separately: unless `is_sure`, a difference
        counts once it was seen twice.
        """
        venue, balances = self._venue.name, self._cache.balances.get(self._venue.name, {})
        by_base: dict[str, list[str]] = {}
        for symbol in symbols:
            if (base := self._base(symbol)) is not None:
                by_base.setdefault(base, []).append(symbol)
        for base, same in by_base.items():
            if self._cache.is_balance_unsure(venue, base) or any(self._is_unresolved(symbol) for symbol in same):
                continue
            held = balances.get(base)
            external = (held.total if held is not None else _ZERO) - self._ours(base)
            noted = {symbol: self._external(symbol) for symbol in same}
            home = max(noted.items(), key=lambda item: abs(item[1]))[0]
            wanted = {symbol: external if symbol == home else _ZERO for symbol in same}
            if noted == wanted:
                self._differences.pop(base, None)
            elif is_sure or self._differences.get(base) == external:
                for symbol in same:
                    if noted[symbol] != wanted[symbol]:
                        await self._note_external(symbol, wanted[symbol])
            else:
                self._differences[base] = external

    def _is_unresolved(self, symbol: str) -> bool:
        open_here = self._cache.open_at((self._status.account_id, self._venue.name, symbol))
        return any(
            order.state in (State.SENDING, State.UNKNOWN) or order.reported_cum_qty > order.filled
            for order in open_here
        )

    def _external(self, symbol: str) -> Decimal:
        return self._cache.position(self._status.account_id, self._venue.name, symbol, EXTERNAL).quantity

    def _ours(self, base: str) -> Decimal:
        name, account_id = self._venue.name, self._status.account_id
        return sum(
            (
                position.quantity
                for (owner, venue, symbol, instance), position in self._cache.positions.items()
                if (owner, venue) == (account_id, name) and instance != EXTERNAL and self._base(symbol) == base
            ),
            _ZERO,
        )

    def _base(self, symbol: str) -> str | None:
        instrument = self._instrument(symbol)
        return None if instrument is None else instrument.base

    async def _note_external(self, symbol: str, quantity: Decimal) -> None:
        key = (self._status.account_id, self._venue.name, symbol)
        now_ns = self._clock.now_ns()
        await self._ledger.patiently(lambda: self._positions.save_external(*key, quantity, now_ns))
        known = self._cache.position(*key, EXTERNAL)
        self._cache.put_position(replace(known, quantity=quantity, average_price=_ZERO, updated_ns=now_ns))
        self._ledger.positions_changed(key)  # an exit may wait for coins that are back
        self._log.info("position.external", venue=self._venue.name, symbol=symbol, quantity=str(quantity))


def _moved(transfer: Transfer) -> Decimal:
    return transfer.amount if transfer.kind is TransferKind.DEPOSIT else -transfer.amount - transfer.fee
