"""The order service: signals in, orders out, and what became of them, until it is stopped or a newer self takes over.

Hard state: signals, orders, order_events, trades and positions. Soft state: the book, rebuilt by `start`.

    Started:  open orders are in memory, those an earlier epoch was sending are UNKNOWN, nothing was sent.
    Running:  each ready signal gets one outcome; each order's bytes leave at most once; a venue that is not reconciled
              takes no entries; while PostgreSQL is away no entry is sent, protection and exits go on through the side
              journal, and nothing is lost.
    Stopped:  nothing is sent any more; an order on its way is UNKNOWN to the next epoch, which asks.
    Raised:   StaleEpochError when a newer epoch owns the lease: this process may not write any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Final

from fks.model.account import Environment
from fks.model.codes import Code
from fks.model.copies import LEADER, is_ninja
from fks.model.errors import InputError, OutageError, StaleEpochError
from fks.model.futures import contract_of, trade_date
from fks.model.futures.roll import roll_notice
from fks.model.health import Check, failed
from fks.model.kill import Kills
from fks.model.ninja import platform_of
from fks.model.order import LIVE, OPEN, TERMINAL, Order, OrderType, Role, State
from fks.model.ports import Meter, Pager, Venue
from fks.model.signal import OUTCOMES, Signal
from fks.store.bars import BarStore
from fks.store.bus import BARS, HEALTH, KILL, WAKE
from fks.store.positions import PositionStore
from fks.store.risk import RiskStore
from fks.system.runtime import Runtime
from fks.trading.credentials.carrier import CredentialWatch
from fks.trading.order_manager.account_identity import session_accounts
from fks.trading.order_manager.account_values import AccountValues
from fks.trading.order_manager.amendments import Amendments
from fks.trading.order_manager.bar_feed import BarFeed, FedVenue
from fks.trading.order_manager.cache import OrderCache, VenueStatus
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.copying import Copier, CopyWatch
from fks.trading.order_manager.correlations import Correlations
from fks.trading.order_manager.entry_groups import EntryGroups
from fks.trading.order_manager.intake import Intake
from fks.trading.order_manager.ledger import Ledger
from fks.trading.order_manager.position_workers import PositionWorkers, Recorder
from fks.trading.order_manager.publisher import Publisher
from fks.trading.order_manager.refresh import Refresher
from fks.trading.order_manager.settlement import PersonRequests
from fks.trading.order_manager.side_journal import SideJournal
from fks.trading.order_manager.splits import SplitWatch
from fks.trading.order_manager.submission import Submissions
from fks.trading.order_manager.tasks import Tasks, settled
from fks.trading.order_manager.tick_feed import TickFeed, TickVenue
from fks.trading.order_manager.trailing import TrailingStops
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.order_manager.venue_session import VenueSession
from fks.trading.orders import events as e
from fks.trading.orders.crash_points import At, nowhere
from fks.trading.orders.machine import Act, Step
from fks.trading.orders.messages import Limits, PositionKey
from fks.trading.orders.sent_ids import SentIds
from fks.trading.portfolio.position import EXTERNAL
from fks.trading.risk.policy import JournalState
from fks.trading.venues.closed import unconfigured_venue

JOURNAL_LOOK_S = 0.2  # between two looks for a journal that is away
SIDE_LOCK_S = 6.0  # the guardian may hold the side journal's lock for one read of the venue more
JOURNAL_PAGE_S = 5.0  # until an outage of PostgreSQL pages, if money is at work
HELD_S = 20.0  # a look at a place that holds its signals back takes a few seconds
ENTERING = (Role.ENTRY, Role.ORDER)
DRAIN_S, PUBLISH_S = 3.0, 0.5  # of a drain: for what is in flight; for messages and alerts


_ROLL_LOOK_S: Final = 60.0


class RollWatch:
    """Positions in futures that near their expiry: an alert from the roll date on, a page some days before the end.

    It never trades: an account at a prop firm may not hold the next contract, and two orders at a roll can fill apart.
    Soft state: the reports of a trade date, so that each is made once a day.
    """

    def __init__(self, context: OrderManagerContext) -> None:
        self._context = context
        self._days = context.settings.ninja.roll_page_days
        self._reported: dict[tuple[str, str], tuple[date, bool]] = {}

    async def run(self) -> None:
        """Look each minute, for ever."""
        while True:
            held = self._held()
            if held:
                # the first look at a product makes its calendar, which takes seconds
                await asyncio.to_thread(self._warm, [symbol for _, symbol in held])
                self.look()
            await self._context.clock.sleep(_ROLL_LOOK_S)

    def look(self) -> None:
        """Report each held contract that is due."""
        on = trade_date(self._context.clock.now_ns())
        for (venue, symbol), quantity in self._held().items():
            contract = contract_of(symbol)
            try:
                due = None if contract is None else roll_notice(contract, on, urgent_days=self._days)
            except InputError as error:
                self._context.log.error("roll.calendar", symbol=symbol, reason=str(error))
                continue
            if due is None or self._reported.get((venue, symbol)) == (on, due.is_urgent):
                continue
            self._reported[venue, symbol] = on, due.is_urgent
            self._context.publisher.alert(
                "page" if due.is_urgent else "warning",
                "futures.expiry_near" if due.is_urgent else "futures.roll_due",
                f"{quantity:f} {due}",
                venue=venue,
                symbol=symbol,
                quantity=str(quantity),
                deadline=due.deadline.isoformat(),
                successor=due.successor.name,
            )

    def _held(self) -> dict[tuple[str, str], Decimal]:
        found: dict[tuple[str, str], Decimal] = {}
        for position in self._context.cache.positions.values():
            if is_ninja(position.venue):
                key = position.venue, position.symbol
                found[key] = found.get(key, Decimal(0)) + position.quantity
        return {key: quantity for key, quantity in found.items() if quantity}

    def _warm(self, symbols: list[str]) -> None:
        on = trade_date(self._context.clock.now_ns())
        for symbol in symbols:
            if (contract := contract_of(symbol)) is not None:
                try:
                    roll_notice(contract, on, urgent_days=self._days)
                except InputError:
                    continue


class OrderManager:
    """See the module's text. Everything it needs is given: `kill_file` reads the guardian's own file, `at` is called at
    the labelled points of the order path (`fks.trading.orders.crash_points`), `sent` knows which ids may have left
    before."""

    def __init__(
        self,
        runtime: Runtime,
        venues: Mapping[str, Venue],
        *,
        kill_file: Callable[[], Kills] = Kills,
        at: At = nowhere,
        sent: SentIds | None = None,
        limits: Limits | None = None,
        recorder: Recorder | None = None,
        side: SideJournal | None = None,
        pager: Pager | None = None,
        hold_s: float = 0.0,
        credentials: Sequence[CredentialWatch] = (),
    ) -> None:
        """`hold_s`: how long a predecessor that is not proven gone may go on sending without PostgreSQL."""
        db, bus, settings, lease = runtime.db, runtime.bus, runtime.settings, runtime.lease
        self._bus, self._venues, self._settings = bus, dict(venues), settings
        self._clock, self._meter, self._log, self._lease = runtime.clock, runtime.meter, runtime.log, lease
        self._tasks, self._sent = Tasks(), sent or SentIds()
        self.cache = OrderCache(settings, values=AccountValues(RiskStore(db), Correlations(BarStore(db))))
        self._pager, self._side, self._credentials = pager, side, credentials
        self._publisher = Publisher(db, bus, runtime.log, pager=pager, is_away=lambda: not self.cache.is_journal_up)
        self._ledger = Ledger(runtime, self.cache, self._publisher, side=side, at=at, on_commit=self._on_commit)
        context = self._context = OrderManagerContext(
            settings,
            runtime.clock,
            db,
            bus,
            runtime.log,
            runtime.meter,
            lease,
            self._venues,
            self.cache,
            self._ledger,
            self._publisher,
            self._tasks,
            at,
            runtime.clock.monotonic() + hold_s if hold_s else 0.0,
        )
        self._sessions: dict[str, VenueSession] = {}
        self._feeds: dict[str, BarFeed | TickFeed] = {}
        self._venue_orders = VenueOrders(context, self._sent)
        rules = settings.ninja.copy_rules()
        copier = Copier(context, rules)
        self._groups = EntryGroups(context)
        submissions = Submissions(
            context,
            self._venue_orders,
            kill_file=kill_file,
            refresh_balances=self._refresh_balances,
            on_placed=self._on_placed,
            copier=copier,
            groups=self._groups,
        )
        self._workers = PositionWorkers(
            context,
            submissions,
            self._venue_orders,
            limits=limits or Limits(),
            flattened_here=[
                name
                for name, venue in self._venues.items()
                if isinstance(venue, FedVenue) or not venue.capabilities.has_guardian
            ],
            recorder=recorder,
        )
        self._trailing = TrailingStops(context, self._workers)
        self._splits = SplitWatch(
            context,
            self._workers,
            self._venue_orders,
            self._trailing,
            refresh_balances=self._refresh_balances,
        )
        self._copy_watch, self._roll_watch = CopyWatch(context, rules), RollWatch(context)
        self._intake = Intake(
            context,
            self._workers,
            self._prepare,
            learn=self._sent.learn,
            copier=copier,
            groups=self._groups,
        )
        self._groups.wake_intake = self._intake.wake
        self._refresher = Refresher(context, self._workers, self._venue_orders, kill_file=kill_file)
        amendments = Amendments(context, submissions, self._venue_orders, self._workers, wake_intake=self._intake.wake)
        self._person_requests = PersonRequests(context, self._sessions, self._workers, amendments)
        self._state = "new"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def start(self) -> None:
        """Load accounts, instruments, positions and open orders. Safe to run twice. Sends nothing.

        Errors: OutageError when PostgreSQL does not answer, StaleEpochError when a newer epoch owns the lease.
        """
        self._state = "starting"
        _begin_counters(self._meter)
        await self._check_epoch()
        await self._refresher.load()
        by_venue = session_accounts(self.cache.accounts.values(), is_live=self._settings.venue.live)
        for name in await self._held_without_settings([one for one in by_venue if one not in self._venues]):
            self._venues[name] = unconfigured_venue(name)
        await self._context.facts.drop_venue_states(list(self._venues))
        for name, venue in self._venues.items():
            account = by_venue.get(name)
            self.cache.venues[name] = VenueStatus(
                name,
                0 if account is None else account.id,
                venue.capabilities,
                margin_of=venue.margin_of if isinstance(venue, FedVenue) else lambda symbol: None,
                wait_s=venue.wait_s,
                key_fault=partial(getattr, venue, "key_fault", ""),
                away_s=self._clock.monotonic(),
            )
        if self._side is not None:
            until_s = self._clock.monotonic() + SIDE_LOCK_S
            while not self._side.lock():
                if self._clock.monotonic() >= until_s:
                    raise OutageError("another order manager of this home still runs", remedy="wait for its end")
                await self._clock.sleep(JOURNAL_LOOK_S)
            await self._ledger.come_back()  # what an earlier process did while PostgreSQL was away
        # what other accounts did under the same venue's name (the demo, before real money) is no business of this
        # session
        owners = {name: status.account_id for name, status in self.cache.venues.items()}
        for position in await PositionStore(self._context.db).page(venues=list(self._venues)):
            if position.account_id == owners[position.venue]:
                self.cache.put_position(position)
        orders = [o for o in await self._ledger.store.open(list(self._venues)) if o.account_id == owners[o.venue]]
        for order in orders:
            self.cache.put(order)
        await self._ledger.apply_at_start(
            [
                (order, e.Replayed(**self._ledger.stamp("replay", "replay"), epoch=self._lease.epoch))
                for order in orders
                if order.state in OPEN
            ]
        )
        for name, venue in self._venues.items():
            status = self.cache.venues[name]
            self._sessions[name] = VenueSession(self._context, venue, status, self._workers, self._venue_orders)
            if isinstance(venue, FedVenue):
                self._feeds[name] = self._make_feed(venue)
                await self._feeds[name].restore(by_venue.get(name))
            await self._sessions[name].save_state()
        await self._splits.load()  # before the cores place a leg in the old shares
        await self._workers.restore()
        await self._person_requests.end_exits()  # before the cores receive a signal whose exit was ended meanwhile
        self._state = "started"
        self._log.info("orders.started", epoch=self._lease.epoch, open=len(orders), unknown=self.cache.unknown())

    async def run(self) -> None:
        """Work until cancelled. Errors: StaleEpochError, or whatever broke a part: let the supervisor restart it."""
        self._state = "running"
        self._venue_orders.resume()
        self._tasks.spawn(self._publisher.run(), "publisher")
        if self._pager is not None:
            self._tasks.spawn(self._pager.run(), "pager")
        for keys in self._credentials:
            self._tasks.spawn(keys.run(self._publisher.alert), "credentials")
        if self._side is not None or self._pager is not None or self._context.is_on_hold:
            self._tasks.spawn(self._watch_journal(), "journal")
        self._tasks.spawn(self._listen(), "bus")
        self._tasks.spawn(self._refresher.run(), "refresher")
        self._tasks.spawn(self._refresher.watch(), "refresher without PostgreSQL")
        self._tasks.spawn(self._settle_lost(), "lost orders")
        self._tasks.spawn(self._person_requests.run(), "person requests")
        for session in self._sessions.values():
            self._tasks.spawn(session.run(), f"session {session.status.name}")
        for feed in self._feeds.values():
            self._tasks.spawn(feed.run(), "feed")
        self._tasks.spawn(self._workers.run(), "position workers")
        fed = [name for name, feed in self._feeds.items() if isinstance(feed, BarFeed)]
        self._tasks.spawn(self._trailing.run(without=fed), "trailing stops")
        self._tasks.spawn(self._copy_watch.run(), "copies")
        self._tasks.spawn(self._groups.run(), "groups of entries")
        self._tasks.spawn(self._roll_watch.run(), "rolls")
        self._tasks.spawn(self._splits.run(), "splits")
        self._tasks.spawn(self._intake.run(), "intake")
        try:
            await self._tasks.join()
        finally:
            self._state = "stopping"
            await self._tasks.close()

    async def drain(self) -> None:
        """Take no new decision; finish those in hand, to the venue's answer and the journal; then publish what is
        left.

        Signals not decided stay `ready` for the next epoch. Errors: OutageError when something is in flight after
        DRAIN_S (a venue that does not answer, a database that is away): the next epoch asks about it.
        """
        self._state = "draining"
        self._intake.drain()
        self._workers.drain()
        is_done = await settled(
            self._clock,
            lambda: self._workers.is_drained and not self._venue_orders.is_cancelling and self._ledger.is_idle,
            DRAIN_S,
        )
        is_done = await settled(self._clock, lambda: self._publisher.is_idle, PUBLISH_S) and is_done
        if not is_done:
            raise OutageError(f"orders are in flight after {DRAIN_S:g} s", remedy="the next epoch asks about them")

    async def stop(self) -> None:
        """Send nothing more and let go of the venues. What was on its way is asked about by the next epoch."""
        self._state = "stopping"
        await self._tasks.close()
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._state = "stopped"

    async def refresh(self) -> None:
        """Read at once what is else read each second, or every few. Errors: OutageError."""
        await self._refresher.load()
        self._workers.recheck()

    @property
    def is_ready(self) -> bool:
        """Return whether entries may go everywhere: journal up, lease held, every venue with an account READY."""
        is_running = self._state == "running" and self._context.can_commit
        return is_running and all(status.state == "READY" for status in self._traded())

    def _traded(self) -> list[VenueStatus]:
        """Return the venues with an account; all of them while there is none."""
        venues = list(self.cache.venues.values())
        return [status for status in venues if status.account_id] or venues

    def problems(self) -> list[Check]:
        """Return a journal that is down, accounts without a session, and signals that wait though nothing keeps them.

        Ages are of the last look at the tables, at most a second old. A new process does not help a venue that is
        away: it would have to reconcile it first. Signals that no core takes while their venue is READY may need one.
        Those that were looked at just now wait for something that no restart brings: the end of a halt, of an order.
        """
        cache, limits, now_s = self.cache, self._settings.supervision, self._clock.monotonic()
        found = []
        if not cache.is_journal_up:
            found.append(failed("database", "the journal takes nothing: nothing is sent", about="journal"))
        for status in self._traded():
            away_s = 0.0 if status.away_s is None else now_s - status.away_s
            if away_s > limits.sessions_wait_max_s:
                text = f"{status.name} is {status.state} for {away_s:.0f} s: {status.detail or 'no session yet'}"
                found.append(failed("venue", text, status.name))
            waiting = cache.ready.get(status.name)
            if waiting is None or status.away_s is not None or cache.is_killed:
                continue
            if waiting.age_s > limits.signals_wait_max_s:
                text = f"{waiting.count} signals wait for {status.name}, the oldest for {waiting.age_s:.0f} s"
                held = sum(
                    count
                    for key, (count, at_s) in cache.held.items()
                    if key[1] == status.name and now_s - at_s < HELD_S
                )
                found.append(failed("queue", text, status.name, is_mended_by_restart=waiting.count > held))
        return found

    def detail(self) -> dict[str, object]:
        """Return what status shows: small and JSON-able."""
        counts = self.cache.counts()
        return {
            "state": self._state if self.cache.is_journal_up else "JOURNAL_DOWN",
            "epoch": self._lease.epoch,
            "is_leader": self._lease.holds(),
            "is_killed": self.cache.is_killed,
            "open": sum(counts.values()),
            "unknown": self.cache.unknown(),
            "orders": {state: count for state, count in counts.items() if count},
            "venues": {name: status.state for name, status in self.cache.venues.items()},
            "tasks": len(self._tasks),
        }

    # ── parts ────────────────────────────────────────────────────────────────────────────────────
    def _make_feed(self, venue: Venue) -> BarFeed | TickFeed:
        """Return what feeds a venue that fills from market data: sealed bars, or trades and quotes as they come."""
        bars = BarFeed(self._context, venue, self._workers, self._trailing)
        is_bars = self._settings.sim.fills == "tape" or self._settings.paper.fills == "bars"
        if is_bars or not isinstance(venue, TickVenue):
            return bars
        return TickFeed(self._context, bars, venue)

    async def _held_without_settings(self, names: list[str]) -> set[str]:
        """Return those of these venues where something of ours is held or may still execute. What was held at a local
        exchange ended with that."""
        local = {
            account.id
            for account in self.cache.accounts.values()
            if account.identity is not None and account.identity.environment is Environment.SIM
            if platform_of(account.venue) is None
        }
        positions = [one for one in await PositionStore(self._context.db).page(venues=names) if one.quantity]
        held = {one.venue for one in positions if one.instance != EXTERNAL and one.account_id not in local}
        orders = await self._ledger.store.open(names)
        return held | {order.venue for order in orders if order.account_id not in local}

    async def _check_epoch(self) -> None:
        newest = await self._context.facts.lease_epoch(self._lease.name)
        if newest > self._lease.epoch:
            raise StaleEpochError(
                f"lease {self._lease.name} epoch {self._lease.epoch}: epoch {newest} owns it", remedy="stop at once"
            )

    async def _refresh_balances(self, venue: str) -> None:
        await self._sessions[venue].balances.refresh()

    async def _prepare(self, signal: Signal) -> None:
        await self._ledger.patiently(lambda: self._refresher.learn_of(signal))
        if (feed := self._feeds.get(signal.venue)) is not None:
            await self._ledger.patiently(lambda: feed.catch_up(signal))

    async def _settle_lost(self) -> None:
        while True:
            await self._clock.sleep(1.0)
            for session in self._sessions.values():
                await session.settle_lost()

    async def _watch_journal(self) -> None:
        """Look whether PostgreSQL answers while it, or the lease, is away, and have the cores act on what changed."""
        before, away_s, is_paged = self._context.journal, None, False
        while True:
            await self._clock.sleep(JOURNAL_LOOK_S)
            if not self._context.can_commit:
                try:
                    await self._ledger.come_back()
                except OutageError as error:
                    self._ledger.note_away(error)
            if self._side is not None:
                self._meter.gauge("fks_queue_depth", float(self._side.depth), queue="side_journal")
            if self.cache.is_journal_up:
                away_s, is_paged = None, False
            else:
                away_s = self._clock.monotonic() if away_s is None else away_s
                if not is_paged and self._clock.monotonic() - away_s >= JOURNAL_PAGE_S:
                    is_paged = self._page_at_risk()
            if (journal := self._context.journal) is before:
                continue
            before = journal
            self._log.warning("journal.changed", journal=journal.value)
            self._workers.recheck()
            if journal is JournalState.COMMITS:
                for session in self._sessions.values():
                    await session.save_state()
                    session.compare_now()

    def _page_at_risk(self) -> bool:
        """Page about an outage of PostgreSQL if money is at work; return whether it is."""
        held = sum(
            1 for position in self.cache.positions.values() if position.quantity and position.instance != EXTERNAL
        )
        resting = sum(1 for order in self.cache.orders.values() if order.role in ENTERING and order.state in LIVE)
        if not held and not resting:
            return False
        goes_on = "go on through the side journal" if self._context.journal is JournalState.SIDE else "wait"
        text = f"PostgreSQL is away with {held} open positions and {resting} resting orders"
        message = f"{text}: protection and exits {goes_on}"
        self._publisher.alert("page", "journal.down", message, positions=held, orders=resting)
        return True

    async def _listen(self) -> None:
        """Turn messages into wake-ups; their contents are read from the tables."""
        async for channel, payload in self._bus.subscribe(WAKE, KILL, HEALTH, BARS):
            symbol, kind = (payload.get("symbol"), payload.get("type")) if isinstance(payload, dict) else ("", "")
            if channel == BARS:
                self._trailing.wake(str(symbol))
                for feed in self._feeds.values():
                    feed.wake()
            elif channel == WAKE and kind == "stop":  # a strategy moved it
                self._trailing.wake(str(symbol), is_moved=True)
                self._person_requests.wake()
            elif channel == WAKE and kind == "signal":
                self._intake.wake()
            elif channel == HEALTH:  # a part ended, maybe a collector: its feeds are not known to be fresh
                self._refresher.wake()
            else:
                self._intake.wake()
                self._refresher.wake()
                self._person_requests.wake()

    # ── what a transition asks for ───────────────────────────────────────────────────────────────
    def _on_commit(self, key: PositionKey, order: Order | None, steps: Sequence[Step]) -> None:
        """Start what committed transitions ask for, and give the core of the key what changed. Never waits."""
        if order is None:
            self._workers.positions_changed(key)
            return
        for step in steps:
            self._act(order, step)
        if order.role is Role.ENTRY and order.state in TERMINAL and not order.filled:
            self._groups.wake()  # the other legs of its group are ended, if it has one
        session = self._sessions.get(order.venue)
        if session is not None and order.filled and any(step.is_changed for step in steps):
            session.balances.refresh_soon()  # not every venue pushes them, and a fill may come in an answer
        self._workers.order_changed(order)

    def _act(self, order: Order, step: Step) -> None:
        name = order.client_order_id
        for act in step.acts:
            if act is Act.SEND_CANCEL:
                self._venue_orders.send_cancel(order)
            elif act in (Act.ASK, Act.FETCH_FILLS):
                if act is Act.ASK or order.reported_cum_qty > order.filled:
                    self._venue_orders.query_soon(name, is_forced=act is Act.ASK)
            elif act is Act.CANCEL_UNLESS_VALID:
                self._cancel_unless_valid(order, step.before)
        if Act.PAGE in step.acts or Act.ALERT in step.acts:
            self._alert(order, step)

    def _on_placed(self, order: Order) -> None:
        self._workers.order_changed(order)
        if order.venue == LEADER:  # its copies were committed with it
            self._intake.wake()

    def _cancel_unless_valid(self, order: Order, before: State | None) -> None:
        # a strategy that its order's end was reported to waits for it no longer, however long the order might rest
        rests = order.role is Role.ENTRY and order.type is not OrderType.MARKET
        is_over = order.valid_until_ns is None or order.valid_until_ns < self._clock.now_ns()
        if rests or is_over or before is State.CANCELLED:  # what a person cancelled is not kept for its time
            self._tasks.spawn(
                self._venue_orders.cancel(order.client_order_id, by="", reason="it lives after all"), "cancel late"
            )

    def _alert(self, order: Order, step: Step) -> None:
        is_protection = order.role in (Role.STOP_LOSS, Role.TAKE_PROFIT)
        event = f"order.{order.state.value.lower()}" if not step.is_quarantined else "order.quarantine"
        if step.is_impossible_fill:
            event = "IMPOSSIBLE_FILL"
        self._publisher.alert(
            "page" if Act.PAGE in step.acts else "warning",
            event,
            f"{order.role.value} order {order.client_order_id} in {order.symbol}: {order.state.value}"
            + (" late" if order.is_late else "")
            + (" overfilled" if order.is_overfilled else "")
            + (" (a protection)" if is_protection else ""),
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            venue=order.venue,
            row=step.number,
            code=order.code,
        )


def _begin_counters(meter: Meter) -> None:
    """Begin the counters of outcomes at zero: to Prometheus a first increase from nothing is none."""
    for signal in OUTCOMES:
        meter.count("fks_signals_total", 0.0, state=signal.value)
    for state in State:
        meter.count("fks_orders_total", 0.0, state=state.value)
    for code in Code:
        meter.count("fks_denials_total", 0.0, code=code.value)
