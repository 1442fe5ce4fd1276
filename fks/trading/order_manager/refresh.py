"""The watch: reads once a second what others wrote, and does what only the passing of time asks for."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from fks.clock.waiting import wait_for_event
from fks.model.copies import copied_instance
from fks.model.errors import OutageError
from fks.model.kill import KillMode, Kills, KillScope
from fks.model.order import OPEN, Order, Request, Role, Side, State
from fks.model.signal import Signal, SignalState
from fks.model.timeframe import iso
from fks.store.accounts import AccountStore
from fks.store.venues import VenueStore
from fks.trading.order_manager.context import OrderManagerContext
from fks.trading.order_manager.position_workers import PositionWorkers
from fks.trading.order_manager.venue_orders import VenueOrders
from fks.trading.risk.intent import intent_of
from fks.trading.risk.policy import JournalState
from fks.trading.risk.resting import RestingEntries
from fks.trading.venues.registry import unproven_plugin

_PERIOD_S = 1.0
_FIGURES = ("fks_account_pnl_day", "fks_account_exposure")
_SLOW_EVERY = 10  # periods between reads of what hardly changes


class Refresher:
    """Keeps the cache's facts fresh: marks, instances, kill switch, rules of venues, guardian, instruments, accounts,
    the day's loss."""

    def __init__(
        self,
        context: OrderManagerContext,
        workers: PositionWorkers,
        venue_orders: VenueOrders,
        *,
        kill_file: Callable[[], Kills],
    ) -> None:
        self._context = context
        self._cache = context.cache
        self._venue_orders = venue_orders
        self._workers = workers
        self._clock = context.clock
        self._meter = context.meter
        self._log = context.log
        self._publisher = context.publisher
        self._kill_file = kill_file
        self._again = asyncio.Event()
        # the collector and the guardian may start beside it, once in vain
        starts_s = 2 * context.settings.supervision.start_timeout_s
        self._resting = RestingEntries(self._clock.monotonic() + starts_s)
        self._seen_kills = self._seen_file = self._kills = Kills()

    def wake(self) -> None:
        """Look now instead of at the next second."""
        self._again.set()

    async def load(self) -> None:
        """Read everything once. Errors: OutageError."""
        await self._read_slow()
        await self._read_fast()

    async def learn_of(self, signal: Signal) -> None:
        """Read again what a signal needs, if any of it came after the last look: a fresh symbol's first signal is not
        denied.

        Errors: OutageError.
        """
        feed = signal.exchange, signal.symbol
        if feed not in self._cache.instruments or signal.account_id not in self._cache.accounts:
            await self._read_slow()
        if feed not in self._cache.marks or (
            signal.timeframe is not None
            and (copied_instance(signal.instance) or signal.instance) not in self._cache.instances
        ):
            await self._read_fast()

    async def run(self) -> None:
        """Read and act for ever. An outage of one read skips that alone: no cancel waits for another reading."""
        turn = 0
        while True:
            self._again.clear()
            await self._unless_away(self._cancel_wanted)
            if turn % _SLOW_EVERY == 0:
                await self._unless_away(self._read_slow)
            await self._unless_away(self._read_fast)
            await self._unless_away(self._expire_signals)
            if self._cache.is_journal_up:
                await self._unless_away(self._end_resting)
            self._gauge()
            turn += 1
            await wait_for_event(self._again, _PERIOD_S, self._clock)

    async def watch(self) -> None:
        """Do for ever what needs no PostgreSQL while that is away: a read of it may take long to fail."""
        while True:
            await self._clock.sleep(_PERIOD_S)
            if not self._cache.is_journal_up:
                self._read_kill_file()
                if self._context.journal is JournalState.SIDE:
                    await self._unless_away(self._end_resting)

    async def _unless_away(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except OutageError as error:
            self._log.debug("watch.skipped", error=str(error))

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def _read_slow(self) -> None:
        self._cache.instruments = {(i.exchange, i.symbol): i for i in await self._context.facts.instruments()}
        self._cache.accounts = {account.id: account for account in await AccountStore(self._context.db).page()}
        self._cache.disk_free_mb = _free_mb(self._cache.settings.home)
        self._cache.portfolio_limits = await self._context.facts.portfolio_limits()

    async def _read_fast(self) -> None:
        self._cache.marks = {(m.exchange, m.symbol): m for m in await self._context.facts.marks()}
        began_s = self._clock.monotonic()
        self._cache.instances = {i.id: i for i in await self._context.facts.instances()}
        # what a person enabled again is halted no longer; a halt that was written meanwhile may not be in what was read
        self._cache.halted = {name: at_s for name, at_s in self._cache.halted.items() if at_s >= began_s}
        self._cache.ready = await self._context.signals.waiting(list(self._cache.venues))
        gates = await self._context.facts.gates(self._cache.settings.risk.guardian_age_max_s)
        self._take_kills(gates.kills)
        self._cache.venue_rules = dict(gates.rules)
        self._cache.is_guardian_alive, self._cache.escalated = gates.is_guardian_alive, gates.escalated
        if self._cache.settings.venues.plugins:
            passes, settings = await VenueStore(self._context.db).passes(), self._cache.settings
            names = settings.venues_at_exchanges()
            self._cache.unproven = {name: unproven_plugin(settings.at(name), passes) for name in names}
        for gate in self._cache.prop.values():
            await gate.refresh()
        news = await self._cache.values.refresh(self._cache, self._clock.now_ns())
        if news.begun_ns is not None:
            self._log.info("risk.day", day=iso(news.begun_ns))
        for account_id, loss in news.reached.items():
            self._publisher.alert(
                "warning",
                "risk.loss_day",
                f"account {account_id} lost {loss:f} today: no entries until the day ends",
                account_id=account_id,
            )

    def _read_kill_file(self) -> None:
        """Look at the file alone while PostgreSQL is away. A kill that it showed, and shows no longer, was released;
        one that only the tables showed may be another machine's."""
        shown = {kill.scope for kill in self._kill_file()}
        released = {kill.scope for kill in self._seen_file} - shown
        self._take_kills(Kills(kill for kill in self._kills if kill.scope not in released))

    def _take_kills(self, kills: Kills) -> None:
        cache, self._kills = self._cache, kills
        self._seen_file = by_file = self._kill_file()  # it may be ahead of the tables
        # the core closes under the id of a row: a kill that is in the file alone has no id yet
        cache.kills = Kills((*kills, *(replace(kill, kill_id="") for kill in by_file)))
        # compared with what the cores were last given: a submission may have read the file, and set the mode, before
        seen, self._seen_kills = self._seen_kills, cache.kills
        if seen == cache.kills:
            return
        if _modes(seen) != _modes(cache.kills):  # else only a kill's id is new: what closes for it may begin
            scopes = sorted({str(kill.scope) for kill in cache.kills})
            mode = cache.kills.mode.value
            self._log.warning("orders.killed" if cache.is_killed else "orders.resumed", mode=mode, scopes=scopes)
            self._meter.gauge("fks_kill_engaged", 1.0 if cache.is_killed else 0.0)
        self._workers.recheck()

    # ── acting ───────────────────────────────────────────────────────────────────────────────────
    async def _expire_signals(self) -> None:
        """End pending signals that no person approved."""
        for record in await self._context.signals.expire(self._clock.now_ns()):
            self._meter.count("fks_signals_total", state=SignalState.EXPIRED.value)
            self._publisher.signal(record, SignalState.EXPIRED, "SIGNAL_EXPIRED")

    async def _end_resting(self) -> None:
        """Cancel resting orders whose time is over, whose instance no longer decides, or that a check which ends them
        would deny now (`ENDS_RESTING`): nothing else would end them. Without PostgreSQL a cancel is
        a line of the side journal."""
        now_ns = self._clock.now_ns()
        orders = list(self._cache.orders.values())
        self._resting.keep(self._cache.orders)
        for order in orders:
            if (reason := self._end_reason(order, now_ns)) is not None:
                await self._venue_orders.cancel(order.client_order_id, by="", reason=reason)

    def _end_reason(self, order: Order, now_ns: int) -> str | None:
        """Return why an order is to be cancelled now, or None."""
        if order.request is not Request.NONE or order.state not in OPEN or order.state is State.SENDING:
            return None
        if order.role not in (Role.ENTRY, Role.ORDER):
            return None
        if order.valid_until_ns is not None and now_ns > order.valid_until_ns:
            return "valid_until has passed"
        if order.role is Role.ENTRY and (state := self._cache.instance_state(order.instance)):
            return f"instance {order.instance} is {state.lower()}"
        venue = self._cache.venues.get(order.venue)
        if venue is None or (order.side is Side.SELL and not venue.capabilities.can_short):
            return None  # nothing known of it, or it can only reduce
        intent, now_s = intent_of(order), self._clock.monotonic()
        view = self._cache.view(intent, now_ns=now_ns, monotonic_s=now_s, is_leader=True)
        denial = self._resting.due(intent, view, now_s)
        return None if denial is None else f"{denial.code}: {denial.observed}, limit {denial.limit}"

    async def _cancel_wanted(self) -> None:
        """Carry out cancels that persons asked for over HTTP."""
        for client_order_id in await self._context.ledger.store.wanted_cancels(list(self._cache.venues)):
            order = self._cache.orders.get(client_order_id)
            if order is None or order.request is Request.NONE:
                await self._venue_orders.cancel(client_order_id, by="person", reason="asked for")

    def _gauge(self) -> None:
        for state, count in self._cache.counts().items():
            self._meter.gauge("fks_orders_open", float(count), state=state)
        self._meter.gauge("fks_queue_depth", float(sum(w.count for w in self._cache.ready.values())), queue="signals")
        for account, figures in self._cache.values.figures(self._cache, self._clock.now_ns()).items():
            for name, value in zip(_FIGURES, figures, strict=True):
                if value is None:  # what is held has no price: an old figure would look like a true one
                    self._meter.remove(name, account=account)
                else:
                    self._meter.gauge(name, float(value), account=account)
        for venue in self._cache.venues.values():
            if venue.skew_ms is not None:
                self._meter.gauge("fks_clock_offset_seconds", venue.skew_ms / 1000, source=venue.name)


def _modes(kills: Kills) -> dict[KillScope, KillMode]:
    return {scope: Kills(k for k in kills if k.scope == scope).mode for scope in {k.scope for k in kills}}


def _free_mb(home: Path) -> float:
    """Return the free space of the disk of FKS_HOME, in MB; 0 when it cannot be read."""
    try:
        return shutil.disk_usage(next(place for place in (home, *home.parents) if place.exists())).free / 1e6
    except (OSError, StopIteration):
        return 0.0
