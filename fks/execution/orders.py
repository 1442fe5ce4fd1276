"""The order service: signals in, orders out, and what became of them, until it is stopped or a newer self takes over.

Hard state: signals, orders, order_events, trades and positions. Soft state: the book, rebuilt by `start`.

    Started:  open orders are in memory, those an earlier epoch was sending are UNKNOWN, nothing was sent.
    Running:  each ready signal gets one outcome; each order's bytes leave at most once; a venue that is not reconciled
              takes no entries; while PostgreSQL is away nothing is sent and nothing is lost.
    Stopped:  nothing is sent any more; what was on its way is UNKNOWN to the next epoch, which asks.
    Raised:   StaleEpochError when a newer epoch owns the lease: this process may not write any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from fks.clock import Clock
from fks.config.settings import Settings
from fks.execution.announcer import Announcer
from fks.execution.armer import Armer
from fks.execution.book import Book, VenueStatus
from fks.execution.checks import order_problems
from fks.execution.desk import Desk
from fks.execution.door import WAKE
from fks.execution.exits import Exits
from fks.execution.feeder import FedVenue, Feeder
from fks.execution.flattener import Flattener
from fks.execution.intake import Intake, deny
from fks.execution.ledger import Ledger
from fks.execution.sender import Sender
from fks.execution.timing import Tasks, settled
from fks.execution.watch import Watch
from fks.model.account import Account
from fks.model.errors import OutageError, StaleEpochError
from fks.model.health import Problem
from fks.model.order import OPEN, TERMINAL, Order, Role, State
from fks.model.ports import Lease, Log, Meter, Venue
from fks.model.signal import Signal
from fks.orders import events as e
from fks.orders.machine import Act, Step
from fks.portfolio.position import EXTERNAL
from fks.risk.check import Denied
from fks.store.accounts import AccountStore
from fks.store.bus import BARS, HEALTH, KILL, SIGNALS, Bus
from fks.store.db import Database
from fks.store.facts import Facts
from fks.store.positions import PositionStore
from fks.store.signals import SignalRecord, SignalStore

DRAIN_S, TELL_S = 3.0, 0.5  # of a drain: for what is in flight; for messages and alerts


class OrderService:
    """See the module's text. Everything it needs is given: `is_killed` also asks the guardian's own file."""

    def __init__(
        self, db: Database, bus: Bus, venues: Mapping[str, Venue], settings: Settings, clock: Clock, meter: Meter,
        log: Log, lease: Lease, *, is_killed: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._db, self._bus, self._venues, self._settings = db, bus, dict(venues), settings
        self._clock, self._meter, self._log, self._lease = clock, meter, log, lease
        self._facts, self._signals = Facts(db, lease), SignalStore(db, lease)
        self._accounts, self._positions = AccountStore(db, lease), PositionStore(db, lease)
        self._tasks = Tasks()
        self.book = Book(settings)
        self._announcer = Announcer(db, bus, log)
        self._ledger = Ledger(db, self.book, lease, clock, meter=meter, log=log, announcer=self._announcer)
        self._ledger.on_step = self._on_step
        self._sender = Sender(
            self._venues, self.book, self._ledger, settings, clock, lease,
            meter=meter, log=log, announcer=self._announcer, tasks=self._tasks, is_killed=is_killed,
        )  # fmt: skip
        self._armer = Armer(
            self._venues, self.book, self._ledger, self._sender, clock, lease,
            announcer=self._announcer, tasks=self._tasks,
        )  # fmt: skip
        self._desks: dict[str, Desk] = {}
        self._feeders: dict[str, Feeder] = {}
        self._exits = Exits(
            self._signals, self.book, self._ledger, self._sender, clock, lease, meter=meter, log=log,
            announcer=self._announcer, refresh_balances=self._refresh_balances, rearm=self._armer.wake, deny=self._deny,
            tasks=self._tasks,
        )  # fmt: skip
        self._intake = Intake(
            self._signals, self.book, self._ledger, self._sender, self._exits, clock, lease, meter=meter, log=log,
            announcer=self._announcer, tasks=self._tasks, refresh_balances=self._refresh_balances, prepare=self._prepare,
            rearm=self._armer.wake,
        )  # fmt: skip
        self._watch = Watch(
            self.book, self._facts, self._signals, self._ledger, self._sender, self._accounts, clock,
            meter=meter, log=log, announcer=self._announcer, is_killed=is_killed, wake=self._intake.wake,
            rearm_all=self._rearm_all,
        )  # fmt: skip
        self._state = "new"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Load accounts, instruments, positions and open orders. Safe to run twice. Sends nothing.

        Errors: OutageError when PostgreSQL does not answer, StaleEpochError when a newer epoch owns the lease.
        """
        self._state = "starting"
        await self._check_epoch()
        await self._watch.load()
        by_venue = self._accounts_by_venue(list(self.book.accounts.values()))
        for name, venue in self._venues.items():
            account = by_venue.get(name)
            self.book.venues[name] = VenueStatus(
                name, 0 if account is None else account.id, venue.capabilities, away_s=self._clock.monotonic()
            )
        for position in await self._positions.page(venues=list(self._venues)):
            self.book.put_position(position)
        orders = await self._ledger.store.open(list(self._venues))
        for order in orders:
            self.book.put(order)
        await self._ledger.apply_at_start([
            (order, e.Replayed(**self._ledger.stamp("replay", "replay"), epoch=self._lease.epoch))
            for order in orders
            if order.state in OPEN
        ])  # fmt: skip
        for name, venue in self._venues.items():
            self._desks[name] = self._desk(venue, self.book.venues[name])
            if isinstance(venue, FedVenue):
                self._feeders[name] = Feeder(
                    venue, self.book, self._armer, self._facts, self._settings, self._clock, self._log
                )
                await self._feeders[name].restore(by_venue.get(name))
            await self._desks[name].save_state()
        self._state = "started"
        self._log.info("orders.started", epoch=self._lease.epoch, open=len(orders), unknown=self.book.unknown())

    async def run(self) -> None:
        """Work until cancelled. Errors: StaleEpochError, or whatever broke a part: let the supervisor restart it."""
        self._state = "running"
        for order in list(self.book.orders.values()):
            if order.state is State.UNKNOWN or order.announced > order.filled:
                self._sender.ask(order.client_order_id)
        for (*_, instance), position in list(self.book.positions.items()):
            if position.quantity != 0 and instance not in ("", EXTERNAL):
                self._tasks.spawn(self._exits.take_up(position), f"take up {position.symbol}")
        self._tasks.spawn(self._announcer.run(), "announcer")
        self._tasks.spawn(self._listen(), "bus")
        self._tasks.spawn(self._watch.run(), "watch")
        self._tasks.spawn(self._strays(), "strays")
        for desk in self._desks.values():
            self._tasks.spawn(desk.run(), f"desk {desk.status.name}")
        for feeder in self._feeders.values():
            self._tasks.spawn(feeder.run(), "feeder")
        if self._feeders:
            flattener = Flattener(
                self._feeders, self.book, self._facts, self._ledger, self._sender, self._clock, self._lease, self._log
            )
            self._tasks.spawn(flattener.run(), "flattener")
        self._tasks.spawn(self._intake.run(), "intake")
        try:
            await self._tasks.join()
        finally:
            self._state = "stopping"
            await self._tasks.close()

    async def drain(self) -> None:
        """Take no new decision; finish those in hand, to the venue's answer and the journal; then tell what is left to tell.

        Signals not decided stay `ready` for the next epoch. Errors: OutageError when something is in flight after DRAIN_S
        (a venue that does not answer, a database that is away): the next epoch asks about it.
        """
        self._state = "draining"
        self.book.gate.close()
        is_done = await settled(
            self._clock, lambda: self.book.gate.is_empty and not self._sender.is_cancelling and self._ledger.is_idle, DRAIN_S
        )
        is_done = await settled(self._clock, lambda: self._announcer.is_idle, TELL_S) and is_done
        if not is_done:
            raise OutageError(f"orders are in flight after {DRAIN_S:g} s", remedy="the next epoch asks about them")

    async def stop(self) -> None:
        """Send nothing more and let go of the venues. What was on its way is asked about by the next epoch."""
        self._state = "stopping"
        await self._tasks.close()
        await asyncio.gather(*(desk.close() for desk in self._desks.values()))
        self._state = "stopped"

    @property
    def is_ready(self) -> bool:
        """Return whether entries may go everywhere: journal up, lease held, every venue READY."""
        venues = self.book.venues.values()
        return (
            self._state == "running" and self.book.is_journal_up and self._lease.holds()
            and all(status.state == "READY" for status in venues)
        )  # fmt: skip

    def problems(self) -> list[Problem]:
        """Return what is wrong now."""
        return order_problems(self.book, self._settings.supervision, self._clock.monotonic())

    def detail(self) -> dict[str, object]:
        """Return what status shows: small and JSON-able."""
        counts = self.book.counts()
        return {
            "state": self._state if self.book.is_journal_up else "JOURNAL_DOWN",
            "epoch": self._lease.epoch,
            "is_leader": self._lease.holds(),
            "is_killed": self.book.is_killed,
            "open": sum(counts.values()),
            "unknown": self.book.unknown(),
            "orders": {state: count for state, count in counts.items() if count},
            "venues": {name: status.state for name, status in self.book.venues.items()},
            "tasks": len(self._tasks),
        }

    # ── parts ────────────────────────────────────────────────────────────────────────────────────
    def _desk(self, venue: Venue, status: VenueStatus) -> Desk:
        return Desk(
            venue, status, self.book, self._ledger, self._sender, self._armer, self._settings, self._clock, self._lease,
            facts=self._facts, accounts=self._accounts, positions=self._positions, meter=self._meter, log=self._log,
            announcer=self._announcer, tasks=self._tasks, wake=self._intake.wake,
        )  # fmt: skip

    def _accounts_by_venue(self, accounts: list[Account]) -> dict[str, Account]:
        """Return the account that each venue's session belongs to: the first enabled one that trades there."""
        found: dict[str, Account] = {}
        for account in sorted(accounts, key=lambda item: (not item.is_enabled, item.id)):
            found.setdefault(account.venue, account)
        return found

    async def _check_epoch(self) -> None:
        newest = await self._facts.lease_epoch(self._lease.name)
        if newest > self._lease.epoch:
            raise StaleEpochError(
                f"lease {self._lease.name} epoch {self._lease.epoch}: epoch {newest} owns it", remedy="stop at once"
            )

    async def _refresh_balances(self, venue: str) -> None:
        await self._desks[venue].holdings.refresh()

    async def _prepare(self, signal: Signal) -> None:
        await self._ledger.patiently(lambda: self._watch.learn_of(signal))
        if (feeder := self._feeders.get(signal.venue)) is not None:
            await self._ledger.patiently(lambda: feeder.catch_up(signal))

    async def _deny(self, record: SignalRecord, denied: Denied) -> None:
        await deny(
            record, denied, self._ledger, self._clock, self._lease,
            meter=self._meter, log=self._log, announcer=self._announcer,
        )  # fmt: skip

    async def _strays(self) -> None:
        while True:
            await self._clock.sleep(1.0)
            for desk in self._desks.values():
                await desk.look_at_strays()

    async def _listen(self) -> None:
        """Turn messages into wake-ups; what they say is read from the tables."""
        channels = [SIGNALS, WAKE, KILL, HEALTH, *([BARS] if self._feeders else [])]
        async for channel, _ in self._bus.subscribe(*channels):
            if channel == BARS:
                for feeder in self._feeders.values():
                    feeder.wake()
            elif channel == SIGNALS:
                self._intake.wake()
            elif channel == HEALTH:  # a part ended, maybe a collector: its feeds are not known to be fresh
                self._watch.wake()
            else:
                self._intake.wake()
                self._watch.wake()

    def _rearm_all(self) -> None:
        for (account_id, venue, symbol, instance), position in self.book.positions.items():
            if position.quantity != 0:
                self._armer.wake((account_id, venue, symbol), instance)

    # ── what a transition asks for ───────────────────────────────────────────────────────────────
    def _on_step(self, order: Order, step: Step) -> None:
        """Start what a committed transition asks for. Never waits."""
        name = order.client_order_id
        for act in step.acts:
            if act is Act.SEND_CANCEL:
                self._sender.send_cancel(order)
            elif act in (Act.ASK, Act.FETCH_FILLS):
                if act is Act.ASK or order.announced > order.filled:
                    self._sender.ask(name, is_forced=act is Act.ASK)
            elif act is Act.PROTECT:
                self._armer.note(order)
            elif act is Act.CANCEL_UNLESS_VALID:
                self._cancel_unless_valid(order)
            elif act is Act.HALT:
                self.book.halted.add(order.instance)
        # the answer to an exit's own send is dealt with where it was awaited; this is what turned out later
        is_late_end = step.before not in (None, State.SENDING) and step.before in OPEN and order.state in TERMINAL
        if order.role is Role.EXIT and is_late_end and order.filled < order.quantity:
            self._tasks.spawn(self._exits.close_again(order), f"close again {order.symbol}")
        if Act.PAGE in step.acts or Act.ALERT in step.acts:
            self._tell(order, step)
        if order.state in TERMINAL:
            self._intake.wake_for((order.account_id, order.venue, order.symbol))

    def _cancel_unless_valid(self, order: Order) -> None:
        if order.valid_until_ns is None or order.valid_until_ns < self._clock.now_ns():
            self._tasks.spawn(self._sender.cancel(order.client_order_id, by="", reason="it lives after all"), "cancel late")

    def _tell(self, order: Order, step: Step) -> None:
        is_protection = order.role in (Role.STOP_LOSS, Role.TAKE_PROFIT)
        event = f"order.{order.state.value.lower()}" if step.number != 42 else "order.quarantine"
        if step.number == 40:
            event = "IMPOSSIBLE_FILL"
        self._announcer.alert(
            "page" if Act.PAGE in step.acts else "warning", event,
            f"{order.role.value} order {order.client_order_id} in {order.symbol}: {order.state.value}"
            + (" late" if order.is_late else "") + (" overfilled" if order.is_overfilled else "")
            + (" (a protection)" if is_protection else ""),
            client_order_id=order.client_order_id, symbol=order.symbol, venue=order.venue, row=step.number,
            code=order.code,
        )  # fmt: skip

