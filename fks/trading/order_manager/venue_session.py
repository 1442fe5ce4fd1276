"""The session of one venue: its state, its events, and the comparison of its reports with our journal (C3, C7).

COLD → SYNCING → READY → STALE → SYNCING; DOWN while the session does not open. Entries need READY; exits need positions
that were read once. The session of one venue never waits for another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fks.clock.waiting import wait_for_event
from fks.model.backoff import Backoff
from fks.model.copies import LEADER, is_ninja
from fks.model.errors import ConfigError, FksError, OutageError, StaleEpochError
from fks.model.ids import is_ours
from fks.model.order import LIVE, Fill, Order, Presence, Report, Role, State
from fks.model.ports import BalancesSeen, SessionBack, SessionLost, Venue
from fks.store.positions import PositionStore
from fks.trading.order_manager.account_identity import AccountIdentity, IdentityRefusedError, session_accounts
from fks.trading.order_manager.balances import AccountBalances, AccountStores
from fks.trading.order_manager.cache import VenueStatus
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.drift import DriftWatch
from fks.trading.order_manager.lost_orders import LostOrders
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.orders import events as e
from fks.trading.venues.closed import ClosedVenue

_OVERLAP_NS = 600 * 1_000_000_000  # C3: fills since the last stored one minus ten minutes
_READS_MAX = 5
_QUERIES_AT_ONCE = 8
CLOSED_RETRY_S = 30.0  # until a venue is made again whose settings cannot be used
_RETRY = Backoff(0.5, 5.0)
_SKEW_S = 20.0
_READ_S = 15.0
_HOLD_POLL_S = 0.1
_ACCOUNT_S = 2.0
_REFUSED_S = 5.0  # until a session that belongs to another account is looked at again
_PROTECT_S = 5.0  # how long READY waits for the protection of what is held


class VenueSession:
    """Hard state: the journal. Soft state: the venue's status, balances, and orders of ours that have no row."""

    def __init__(
        self,
        context: OrderManagerContext,
        venue: Venue,
        status: VenueStatus,
        workers: PositionWorkers,
        venue_orders: VenueOrders,
    ) -> None:
        self._venue, self._context = venue, context
        self.status = status
        self._cache = context.cache
        self._ledger = context.ledger
        self._venue_orders = venue_orders
        self._workers = workers
        self._settings = context.settings
        self._clock = context.clock
        stores = AccountStores.of(context.db, context.lease)
        self.balances = AccountBalances(context, venue, status, stores)
        self._identity = AccountIdentity(context, venue, status, stores)
        self._lost = LostOrders(context, venue, status, stores.incidents)
        self._drift = DriftWatch(context, venue, status, stores, self.balances, self._lost)
        self._log = context.log
        self._publisher = context.publisher
        self._tasks = context.tasks
        self._is_session = False
        self._look = asyncio.Event()
        self._foreign: set[str] = set()
        self._paged_held = ""  # what the last page about a closed venue said

    # ── life ─────────────────────────────────────────────────────────────────────────────────────
    async def run(self) -> None:
        """Open the session, listen, compare, and compare again: after every reconnect and every `sweep_s`."""
        self._identity.hold()  # before the first await: queries of unresolved orders begin with this task
        if isinstance(self._venue, ClosedVenue):
            await self._make(self._venue)
        await self._wait_for_account()
        await self._lost.load()
        while self._context.is_on_hold:  # what a predecessor still sends is read once it sends no more
            await self._clock.sleep(_HOLD_POLL_S)
        await self._open()
        self._tasks.spawn(self._listen(), f"{self._venue.name} events")
        self._tasks.spawn(self._keep_time(), f"{self._venue.name} clock")
        self._tasks.spawn(self._drift.run(), f"{self._venue.name} drift")
        self._tasks.spawn(self.balances.run(), f"{self._venue.name} snapshots")
        wait_s = 0.0
        while True:
            self._look.clear()
            self.status.compares_begun += 1
            try:
                if not self._cache.is_journal_up and self.status.has_positions:
                    await self._compare_orders()  # the rest needs PostgreSQL
                elif self.status.state == "READY":
                    await self._sweep()
                else:
                    await self._sync()
                wait_s = 0.0
                self.status.compares_done = self.status.compares_begun
                await self._wait(self._settings.venue.sweep_s)
            except IdentityRefusedError as error:
                self.status.is_connected = False
                await self._set_state("REFUSED", str(error))
                await self._wait(_REFUSED_S)
            except (OutageError, TimeoutError) as error:
                self.status.is_connected = self._is_session
                if not self._cache.is_journal_up:  # compared in full once it is back
                    await self._wait(_RETRY.first_s)
                    continue
                await self._set_state("STALE" if self.status.state in ("READY", "STALE") else "SYNCING", str(error))
                wait_s = _RETRY.next_s(wait_s)
                await self._wait(wait_s)

    async def _wait_for_account(self) -> None:
        """Return once an account of FKS has this venue: the reports of a session belong to an account.

        One that is made while the order manager runs has no past of ours, and is taken up here.
        """
        name = self._venue.name
        while not self.status.account_id:
            is_live = self._settings.venue.live
            account = session_accounts(self._cache.accounts.values(), is_live=is_live).get(name)
            if account is not None:
                self.status.account_id = account.id
                return
            reason = f"no account has the venue {name}: fks accounts create NAME --venue {name}"
            if self.status.detail != reason:
                await self._set_state("COLD", reason)
            await self._wait(_ACCOUNT_S)

    def compare_now(self) -> int:
        """Compare the journal with the venue at once; return which comparison (`status.compares_done`) that will be."""
        self._look.set()
        return self.status.compares_begun + 1

    async def _make(self, venue: ClosedVenue) -> None:
        """Return once the venue could be made; until then it is DOWN, and what is held there pages."""
        wait_s = 0.0
        while True:
            try:
                self._context.venues[venue.name] = await venue.make()
                return
            except (ConfigError, OutageError) as error:
                await self._set_state("DOWN", str(error))
                is_config = isinstance(error, ConfigError)
                if is_config or self._away_s() > self._settings.supervision.sessions_wait_max_s:
                    await self._page_held(str(error))
                wait_s = CLOSED_RETRY_S if is_config else _RETRY.next_s(wait_s)
                await self._clock.sleep(wait_s)

    def _away_s(self) -> float:
        return self._clock.monotonic() - (self.status.away_s or self._clock.monotonic())

    async def _page_held(self, reason: str) -> None:
        """Page once for each reason why positions or open orders at a closed venue, of any account, are left alone."""
        name = self._venue.name
        if self._paged_held == reason or not self._cache.is_journal_up:
            return
        try:
            positions = await PositionStore(self._context.db, self._context.lease).page(venues=[name])
            orders = await self._ledger.store.open([name])
        except OutageError:
            return  # looked up at the next try
        held = sorted({position.symbol for position in positions if position.quantity != 0})
        if held or orders:
            self._paged_held = reason
            what = f"positions in {', '.join(held) or 'nothing'} and {len(orders)} open orders"
            self._publisher.alert(
                "page",
                "venue.closed",
                f"{name} cannot be used while it holds {what}: {reason}",
                venue=name,
            )

    async def _open(self) -> None:
        wait_s = 0.0
        while True:
            try:
                await self._venue.open()
                return
            except StaleEpochError:
                raise
            except FksError as error:  # one venue's trouble is not the others'
                await self._set_state("DOWN", str(error))
                wait_s = _RETRY.next_s(wait_s)
                await self._clock.sleep(wait_s)

    async def close(self) -> None:
        """Let go of the session."""
        try:
            async with asyncio.timeout(2.0):
                await self._venue.close()
        except TimeoutError:
            self._log.warning("venue.close_timeout", venue=self._venue.name)

    async def _wait(self, seconds: float) -> None:
        await wait_for_event(self._look, seconds, self._clock)

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._clock.sleep(_SKEW_S)
                await self._compare_clocks()
            except (OutageError, TimeoutError):
                self._log.debug("venue.clock_unread", venue=self._venue.name)

    async def _compare_clocks(self) -> None:
        async with asyncio.timeout(_READ_S):
            self.status.skew_ms = await self._venue.skew_ms()
        self.status.skew_at_s = self._clock.monotonic()

    async def _set_state(self, state: str, detail: str = "") -> None:
        if (self.status.state, self.status.detail) == (state, detail):
            return
        if state == "READY":
            self.status.ready_times += 1
        if self.status.state != state:
            self.status.away_s = None if state == "READY" else self.status.away_s or self._clock.monotonic()
            self._log.info("venue.state", venue=self._venue.name, state=state, detail=detail)
        self.status.state, self.status.detail = state, detail
        await self.save_state()

    async def save_state(self) -> None:
        """Write what is known of the venue; an outage is left to the next time."""
        if not self._cache.is_journal_up:
            return  # events of the venue are not held up by it
        try:
            await self._context.facts.save_venue_state(
                self._venue.name,
                self.status.account_id,
                self.status.state,
                self.status.detail,
                self.status.skew_ms,
                self._clock.now_ns(),
            )
        except OutageError:
            self._log.debug("venue.state_unsaved", venue=self._venue.name)

    # ── listening ────────────────────────────────────────────────────────────────────────────────
    async def _listen(self) -> None:
        async for event in self._venue.events():
            if isinstance(event, Report | Fill):
                taken = self.on_report(event) if isinstance(event, Report) else self.on_fill(event)
                if self._is_known(event.client_order_id) or event.source == Role.LIQUIDATION:
                    await taken  # a forced close before the ends of orders: legs of what is held would be placed again
                else:  # the journal is asked about it: what is known does not wait for the answer
                    self._tasks.spawn(taken, f"{self._venue.name} unknown order")
            elif isinstance(event, BalancesSeen):
                self.balances.see(event.balances)
            elif isinstance(event, SessionLost):
                await self._on_lost(event.detail)
            else:
                assert isinstance(event, SessionBack)
                self._is_session = True
                self._look.set()

    def _is_known(self, client_order_id: str | None) -> bool:
        is_kept = client_order_id is not None and self._cache.recall(client_order_id) is not None
        return is_kept or self._venue.capabilities.keeps_bracket

    async def _on_lost(self, detail: str) -> None:
        self._is_session = False
        if self.status.state == "READY":
            await self._set_state("STALE", detail)
        for order in [o for o in self._cache.orders.values() if o.venue == self._venue.name and o.state in LIVE]:
            event = e.SessionBroke(**self._ledger.stamp("session-broke", "stream"))
            await self._ledger.apply(order.client_order_id, event)

    async def on_report(self, report: Report) -> None:
        """Apply what the venue says of an order; an open order that is not ours is reported once, and one of ours that
        has no row pages. Neither is adopted unless a person says so."""
        if self.status.refusal or await self._ledger.report(report) is not None:
            return
        if is_ours(report.client_order_id if report.leg is None else report.leg.parent_id):
            self._lost.note(report)
        else:
            self._note_foreign(report)

    async def on_fill(self, fill: Fill) -> None:
        """Book an execution: to its order, whatever state that is in, or to the account as external. One of an order of
        ours that has no row waits for it, or for a person."""
        if self.status.refusal or self._ledger.is_booked(fill):
            return
        order = await self._owner(fill)
        if order is not None:
            await self._venue_orders.book_entry(order)
            await self._ledger.apply(order.client_order_id, self._ledger.fill_seen(fill))
            return
        if is_ours(fill.client_order_id) and not self._lost.is_explained(fill.client_order_id):
            self._lost.note(fill)
        else:
            await self._book_external(fill)

    async def settle_lost(self) -> None:
        """Book the executions of orders without a row that have one by now, or that a person has explained."""
        fills = await self._lost.settled()
        for fill in fills:
            await self.on_fill(fill)
        if fills and self.status.state == "READY":
            self._look.set()  # what they moved was noted as external

    async def _owner(self, fill: Fill) -> Order | None:
        if fill.client_order_id is not None and (order := await self._ledger.find(fill.client_order_id)) is not None:
            return order
        number = fill.venue_order_id
        if is_ours(fill.client_order_id) and self._venue.capabilities.keeps_bracket:
            # a leg that came and went while nothing listened: an exit would sell again what it has closed
            report = (await self._venue.query(fill.symbol, str(fill.client_order_id))).report
            return None if report is None or report.leg is None else await self._ledger.report(report)
        if number is None or is_ours(fill.client_order_id):
            return None
        store = self._ledger.store
        return await self._ledger.patiently(lambda: store.by_venue_id(self._venue.name, fill.symbol, number))

    async def _book_external(self, fill: Fill) -> None:
        mine = replace(fill, account_id=self.status.account_id, venue=self._venue.name)
        if not await self._ledger.book_external(mine, self._cache.exchange_of(self._venue.name, fill.symbol)):
            return
        about: dict[str, Any] = {
            "symbol": fill.symbol,
            "venue": fill.venue,
            "quantity": fill.quantity,
            "side": fill.side.value,
        }
        if fill.source == Role.LIQUIDATION:
            text = f"{fill.symbol} was closed by force at {fill.price:f}: the equity no longer covers its margin"
            self._publisher.alert("page", "fill.liquidation", text, **about)
        else:
            text = f"an execution in {fill.symbol} that no order of ours explains"
            self._publisher.alert("warning", "fill.external", text, **about)

    def _note_foreign(self, report: Report) -> None:
        if report.state in LIVE and report.client_order_id not in self._foreign and len(self._foreign) < 10_000:
            self._foreign.add(report.client_order_id)
            self._publisher.alert(
                "warning",
                "order.external",
                f"an open order in {report.symbol} at {self._venue.name} is not ours",
                client_order_id=report.client_order_id,
                symbol=report.symbol,
                venue=self._venue.name,
            )

    # ── comparing ────────────────────────────────────────────────────────────────────────────────
    async def _sync(self) -> None:
        """Reconcile (C3), then correct protections, then READY. Until the event stream is there, it stays SYNCING."""
        await self._set_state("SYNCING")
        start = self._clock.monotonic()
        await self._compare_clocks()
        await self._identity.verify()
        balances = await self.balances.read()
        for _ in range(_READS_MAX):
            before = balances
            self.balances.begin_comparison()
            await self._compare_orders()
            await self._compare_fills()
            query = self.balances.ask(is_settled=True)
            balances = await self.balances.read()
            if balances == before:
                break
        await self.balances.keep(balances, query)
        # the cores judge their legs the moment the positions are known: a lost cancel is repeated from then on, and
        # neither protection nor exits wait for the next steps, which need PostgreSQL
        self.status.is_connected = self.status.has_positions = True
        self._workers.recheck(self._venue.name)  # protection first: entries open after it
        await self.settle_lost()
        await self._find_externals()
        self._context.meter.observe("fks_reconcile_seconds", self._clock.monotonic() - start, venue=self._venue.name)
        await self._workers.settled(self._venue.name, _PROTECT_S)
        if self._is_session and not self._look.is_set():
            await self._set_state("READY")
        elif not self._is_session:
            await self._set_state("SYNCING", "the event stream is not subscribed yet")
        self._workers.recheck(self._venue.name)

    async def _sweep(self) -> None:
        """Look for events that a healthy stream may have lost: ends of orders, executions, balances (C7)."""
        self.balances.begin_comparison()
        await self._compare_orders()
        await self._compare_fills()
        await self.settle_lost()
        query = self.balances.ask(is_settled=True)
        balances = await self.balances.read()
        await self.balances.keep(balances, query)
        await self._find_externals()
        # if the stream broke meanwhile, the session is STALE and is synced again
        if self._is_session and not self._look.is_set():
            await self._set_state("READY")

    async def _compare_orders(self) -> None:
        # orders sent after the query cannot be in the list; times prove nothing: the clock may have been set meanwhile
        sent = [
            name
            for name, order in self._cache.orders.items()
            if order.venue == self._venue.name and order.state not in (State.INTENDED, State.SENDING)
        ]
        async with asyncio.timeout(_READ_S):
            reports = {report.client_order_id: report for report in await self._venue.open_orders()}
        ours = [order for name in sent if (order := self._cache.orders.get(name)) is not None]
        gate = asyncio.Semaphore(_QUERIES_AT_ONCE)
        await asyncio.gather(*(self._compare_one(order, reports.get(order.client_order_id), gate) for order in ours))
        if self.status.ready_times == 0:
            await self._find_sent(reports)
        for report in reports.values():
            if report.client_order_id not in self._cache.orders and self._cache.is_journal_up:
                await self.on_report(report)

    async def _find_sent(self, reports: Mapping[str, Report]) -> None:
        """Look up legs that the journal says were not sent, though their entries are filled: a predecessor may have
        sent them without PostgreSQL, where its side journal cannot be read."""
        for leg in list(self._cache.orders.values()):
            parent = self._cache.recall(leg.parent_id or "")
            is_due = leg.state is State.INTENDED and parent is not None and parent.filled > 0
            if leg.venue != self._venue.name or not is_due:
                continue
            report = reports.get(leg.client_order_id) or (await self._venue_orders.query(leg)).report
            if report is None:
                continue
            sent = e.Sent(**self._ledger.stamp("found", "reconcile"), quantity=report.quantity)
            is_unsent = await self._ledger.apply(
                leg.client_order_id, sent, guard=lambda order: order.state is State.INTENDED
            )
            if is_unsent is not None:
                await self._compare_one(is_unsent, report, asyncio.Semaphore(1))

    async def _compare_one(self, order: Order, report: Report | None, gate: asyncio.Semaphore) -> None:
        async with gate:
            if report is None:
                lookup = await self._venue_orders.query(order)
                if lookup.presence is Presence.NOT_FOUND and order.state in LIVE:
                    event = e.NotListed(**self._ledger.stamp("not-listed", "reconcile"))
                    await self._ledger.apply(order.client_order_id, event)
                report = lookup.report
            if report is None:
                self._venue_orders.query_soon(order.client_order_id)
                return
            if report.filled > order.filled:
                await self._venue_orders.fetch_fills(order)
            await self._ledger.report(report)

    async def _compare_fills(self) -> None:
        asked_ns, lost = self._clock.now_ns(), self._lost.times()
        last = await self._ledger.read(lambda: self._ledger.store.last_fills(self.status.account_id, self._venue.name))
        for symbol in sorted(self._symbols() | set(last)):
            async with asyncio.timeout(_READ_S):
                since_ns = self._since_ns(symbol, last.get(symbol), lost.get(symbol))
                fills = await self._venue.fills_since(symbol, since_ns)
            for fill in await self._unbooked(fills):
                await self.on_fill(fill)
        self._lost.note_read(lost, asked_ns)

    async def _unbooked(self, fills: Sequence[Fill]) -> list[Fill]:
        if not fills:
            return []
        journal = self._ledger.journal
        booked = await self._ledger.read(lambda: journal.booked(self.status.account_id, fills))
        return [fill for fill in fills if fill.fill_id not in booked]

    async def _find_externals(self) -> None:
        if 0 not in self.status.lost.values():  # else a row may be on its way (a kill while PostgreSQL was down)
            is_sure = self.status.ready_times == 0
            await self.balances.find_externals(sorted(self._symbols()), is_sure=is_sure)

    def _symbols(self) -> set[str]:
        name = self._venue.name
        homes = {name, LEADER} if is_ninja(name) else {name}  # a follower repeats what the leader's instances trade
        found = {i.symbol for i in self._cache.instances.values() if i.venue in homes}
        found |= {o.symbol for o in self._cache.orders.values() if o.venue == name} | self.status.lost.keys()
        return found | {key[2] for key, p in self._cache.positions.items() if key[1] == name and p.quantity != 0}

    def _since_ns(self, symbol: str, last_ns: int | None, lost_ns: int | None) -> int:
        """Return from when on executions may be missing here. `lost_ns`: those of orders without a row.

        Where nothing of ours was executed and nothing is open, there is no past of ours to look for: the account's
        earlier trading is in its balances.
        """
        if last_ns is not None:
            return min(last_ns, lost_ns or last_ns) - _OVERLAP_NS
        times = [o.sent_ns for o in self._cache.orders.values() if o.venue == self._venue.name and o.symbol == symbol]
        known = [time_ns for time_ns in (*times, lost_ns) if time_ns]
        now_ns = self._clock.now_ns()
        if known and min(known) > now_ns:  # the clock was set back since
            return 0
        return max(min(known) - _OVERLAP_NS - self._venue_orders.steps.spread_ns, 0) if known else now_ns
