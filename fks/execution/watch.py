"""The watch: reads once a second what others wrote, and does what only the passing of time asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from fks.clock import Clock
from fks.execution.announcer import Announcer
from fks.execution.book import Book
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.model.errors import OutageError
from fks.model.order import OPEN, Order, Request, Role, State
from fks.model.ports import Log, Meter
from fks.model.signal import Signal, SignalState
from fks.model.timeframe import NS
from fks.store.accounts import AccountStore
from fks.store.facts import Facts
from fks.store.signals import SignalStore

_PERIOD_S = 1.0
_SLOW_EVERY = 10  # periods between reads of what hardly changes
_DAY_NS = 86400 * NS


class Watch:
    """Keeps the book's facts fresh: marks, instances, kill switch, instruments, accounts, the day's loss."""

    def __init__(
        self, book: Book, facts: Facts, signals: SignalStore, ledger: Ledger, sender: Sender, accounts: AccountStore,
        clock: Clock, *, meter: Meter, log: Log, announcer: Announcer, is_killed: Callable[[], bool],
        wake: Callable[[], None], rearm_all: Callable[[], None],
    ) -> None:  # fmt: skip
        self._book = book
        self._facts = facts
        self._signals = signals
        self._ledger = ledger
        self._sender = sender
        self._accounts = accounts
        self._clock = clock
        self._meter = meter
        self._log = log
        self._announcer = announcer
        self._is_killed = is_killed
        self._wake_intake = wake
        self._rearm_all = rearm_all
        self._again = asyncio.Event()

    def wake(self) -> None:
        """Look now instead of at the next second."""
        self._again.set()

    async def load(self) -> None:
        """Read everything once. Errors: OutageError."""
        await self._read_slow()
        await self._read_fast()

    async def learn_of(self, signal: Signal) -> None:
        """Read again what a signal needs, if any of it came after the last look: a fresh symbol's first signal is not denied.

        Errors: OutageError.
        """
        feed = signal.exchange, signal.symbol
        if feed not in self._book.instruments or signal.account_id not in self._book.accounts:
            await self._read_slow()
        if feed not in self._book.marks or (signal.timeframe is not None and signal.instance not in self._book.instances):
            await self._read_fast()

    async def run(self) -> None:
        """Read and act for ever; an outage skips a turn."""
        turn = 0
        while True:
            self._again.clear()
            try:
                if turn % _SLOW_EVERY == 0:
                    await self._read_slow()
                await self._read_fast()
                await self._expire()
                await self._cancel_wanted()
            except OutageError as error:
                self._log.debug("watch.skipped", error=str(error))
            self._gauge()
            turn += 1
            waiter = asyncio.ensure_future(self._again.wait())
            sleeper = asyncio.ensure_future(self._clock.sleep(_PERIOD_S))
            try:
                await asyncio.wait({waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
                sleeper.cancel()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def _read_slow(self) -> None:
        self._book.instruments = {(i.exchange, i.symbol): i for i in await self._facts.instruments()}
        self._book.accounts = {account.id: account for account in await self._accounts.page()}

    async def _read_fast(self) -> None:
        self._book.marks = {(m.exchange, m.symbol): m for m in await self._facts.marks()}
        self._book.instances = {i.id: i for i in await self._facts.instances()}
        self._book.ready = await self._signals.waiting(list(self._book.venues))
        await self._read_kill()
        day = self._clock.now_ns() // _DAY_NS
        if day != self._book.realized_day:
            self._book.realized = await self._ledger.store.realized_since(day * _DAY_NS)
            self._book.realized_day = day
            self._log.info("risk.day", day=datetime.fromtimestamp(day * 86400, UTC).date().isoformat())

    async def _read_kill(self) -> None:
        was, is_now = self._book.is_killed, self._is_killed() or await self._facts.is_killed()
        self._book.is_killed = is_now
        if was != is_now:
            self._log.warning("orders.killed" if is_now else "orders.resumed")
            self._meter.gauge("fks_kill_engaged", 1.0 if is_now else 0.0)
        if was and not is_now:
            self._rearm_all()

    # ── acting ───────────────────────────────────────────────────────────────────────────────────
    async def _expire(self) -> None:
        """End pending signals nobody approved, and cancel resting orders whose time is over."""
        now_ns = self._clock.now_ns()
        for record in await self._signals.expire(now_ns):
            self._meter.count("fks_signals_total", state=SignalState.EXPIRED.value)
            self._announcer.signal(record, SignalState.EXPIRED, "SIGNAL_EXPIRED")
        for order in list(self._book.orders.values()):
            if self._is_over(order, now_ns):
                await self._sender.cancel(order.client_order_id, by="", reason="valid_until has passed")

    @staticmethod
    def _is_over(order: Order, now_ns: int) -> bool:
        return (
            order.valid_until_ns is not None and now_ns > order.valid_until_ns and order.request is Request.NONE
            and order.state in OPEN and order.state is not State.SENDING
            and order.role in (Role.ENTRY, Role.ORDER)
        )  # fmt: skip

    async def _cancel_wanted(self) -> None:
        """Carry out cancels that persons asked for through the door."""
        for client_order_id in await self._ledger.store.wanted_cancels(list(self._book.venues)):
            order = self._book.orders.get(client_order_id)
            if order is None or order.request is Request.NONE:
                await self._sender.cancel(client_order_id, by="person", reason="asked for")

    def _gauge(self) -> None:
        for state, count in self._book.counts().items():
            self._meter.gauge("fks_orders_open", float(count), state=state)
