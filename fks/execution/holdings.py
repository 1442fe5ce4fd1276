"""What a venue says an account holds: balances, their history, and the part that fills of ours do not explain."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from fks.clock import Clock
from fks.execution.book import Book, VenueStatus
from fks.execution.ledger import Ledger
from fks.execution.timing import Tasks
from fks.model.account import Balance
from fks.model.errors import OutageError
from fks.model.order import State
from fks.model.ports import Log, Venue
from fks.portfolio.position import EXTERNAL
from fks.store.accounts import AccountStore, HistoryRow
from fks.store.positions import PositionStore

_CALM_S = 1.0
_READ_S = 15.0
_ZERO = Decimal(0)


class Holdings:
    """Balances of one venue in the book and in the tables. The venue's word replaces what fills made us expect."""

    def __init__(
        self, venue: Venue, status: VenueStatus, book: Book, ledger: Ledger, clock: Clock,
        *, accounts: AccountStore, positions: PositionStore, log: Log, tasks: Tasks,
    ) -> None:  # fmt: skip
        self._venue = venue
        self._status = status
        self._book = book
        self._ledger = ledger
        self._clock = clock
        self._accounts = accounts
        self._positions = positions
        self._log = log
        self._tasks = tasks
        self._task: asyncio.Task[object] | None = None
        self._differences: dict[str, Decimal] = {}
        self._noted: Decimal | None = None

    async def read(self) -> dict[str, Balance]:
        """Return the venue's balances. Errors: OutageError, TimeoutError."""
        async with asyncio.timeout(_READ_S):
            return await self._venue.balances()

    async def refresh(self) -> None:
        """Read the balances now; an outage leaves what is known."""
        try:
            balances = await self.read()
        except (OutageError, TimeoutError):
            return
        await self.keep(balances)

    def refresh_soon(self) -> None:
        """Read the balances once things have calmed down, at most once a second."""
        if self._task is None or self._task.done():
            self._task = self._tasks.spawn(self._refresh_later(), f"{self._venue.name} balances")

    async def _refresh_later(self) -> None:
        await self._clock.sleep(_CALM_S)
        await self.refresh()

    def see(self, balances: Sequence[Balance]) -> None:
        """Take balances that the venue pushed."""
        known = self._book.balances.setdefault(self._venue.name, {})
        known.update({balance.currency: balance for balance in balances})
        self.refresh_soon()

    async def keep(self, balances: dict[str, Balance]) -> None:
        """Take balances that were read, for the checks and for the tables; the tables may miss some in an outage."""
        self._book.balances[self._venue.name] = dict(balances)
        try:
            await self._accounts.save_balances(self._status.account_id, balances.values(), self._clock.now_ns())
            await self._note_history(balances)
        except OutageError:
            self._log.debug("balances.unsaved", venue=self._venue.name)

    async def _note_history(self, balances: dict[str, Balance]) -> None:
        """Add a point to the balance history when the account's own currency has moved."""
        account = self._book.accounts.get(self._status.account_id)
        held = None if account is None else balances.get(account.currency)
        if account is None or held is None or held.total == self._noted:
            return
        cause = "snapshot" if self._noted is None else "fill"
        self._noted = held.total
        equity = held.total
        for (owner, venue, symbol, _), position in self._book.positions.items():
            if (owner, venue) == (account.id, self._venue.name) and position.quantity:
                equity += position.quantity * (self._price(symbol) or position.average_price)
        row = HistoryRow(account.id, self._clock.now_ns(), account.currency, held.total, equity, cause, None)
        await self._accounts.note_balance(row)

    def _price(self, symbol: str) -> Decimal | None:
        return next((m.price for (_, name), m in self._book.marks.items() if name == symbol and m.price), None)

    # ── the part that is not ours ────────────────────────────────────────────────────────────────
    async def find_externals(self, balances: dict[str, Balance], symbols: Sequence[str], *, is_sure: bool) -> None:
        """Write what the venue holds of each base beyond our fills; not while something there is in doubt.

        While trading, balances and fills come on two roads: unless `is_sure`, a difference counts once it was seen twice.
        """
        name, account_id, done = self._venue.name, self._status.account_id, set[str]()
        for symbol in symbols:
            place = (account_id, name, symbol)
            base = self._base(symbol)
            in_doubt = any(order.state in (State.SENDING, State.UNKNOWN) for order in self._book.open_at(place))
            if base is None or base in done or in_doubt:
                continue
            done.add(base)
            held = balances.get(base)
            external = (held.total if held is not None else _ZERO) - self._ours(base)
            if external == self._book.position(*place, EXTERNAL).quantity:
                self._differences.pop(symbol, None)
            elif is_sure or self._differences.get(symbol) == external:
                await self._note_external(symbol, external)
            else:
                self._differences[symbol] = external

    def _ours(self, base: str) -> Decimal:
        name, account_id = self._venue.name, self._status.account_id
        return sum(
            (
                position.quantity
                for (owner, venue, symbol, instance), position in self._book.positions.items()
                if (owner, venue) == (account_id, name) and instance != EXTERNAL and self._base(symbol) == base
            ),
            _ZERO,
        )

    def _base(self, symbol: str) -> str | None:
        return next((i.base for (_, name), i in self._book.instruments.items() if name == symbol), None)

    async def _note_external(self, symbol: str, quantity: Decimal) -> None:
        place = (self._status.account_id, self._venue.name, symbol)
        now_ns = self._clock.now_ns()
        await self._ledger.patiently(lambda: self._positions.save_external(*place, quantity, now_ns))
        self._book.put_position(replace(self._book.position(*place, EXTERNAL), quantity=quantity, updated_ns=now_ns))
        self._log.info("position.external", venue=self._venue.name, symbol=symbol, quantity=str(quantity))
