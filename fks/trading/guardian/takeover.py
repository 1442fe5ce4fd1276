"""Stops in the order manager's stead: while PostgreSQL is away and the order manager's process is proven gone.

The order manager goes on without PostgreSQL by its side journal, whose lock it holds until its process ends. Once the
guardian gets that lock, no order manager of this machine runs that may send anything: a later one needs PostgreSQL to
start, and waits for the lock. The guardian holds the lock for one round at a time.

A round reads the venue and places the stops that entries lack (`missing_stops`); it cancels nothing. Where the venue
refuses a stop because the market has passed its price, the guardian closes at the market what that was for, once and in
its role. An order's id is a function of entry, role and attempt, as the order manager's are, and it is a line of the
side journal before its bytes leave. The next order manager writes those lines to PostgreSQL as if they were its own.

The order manager may have sent orders that the guardian's last reading of PostgreSQL lacks. The venue takes none of
them later than `takeover_s` after the end of that process. Those that it took are open, or executed: the guardian
leaves their symbol as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.order import Answer, Order, OrderType, Report, Role, State
from fks.model.ports import Venue
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.system.process.journal_file import JournalFile
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.missing_stops import ReadVenue, missing_stops, unended
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, SideOrders
from fks.trading.guardian.submission import VenuePorts
from fks.trading.orders import events as e
from fks.trading.orders.build import leg_of, legs_of
from fks.trading.orders.machine import advance, begin
from fks.trading.orders.protection import GUARDIAN_ATTEMPTS, is_passed, next_attempt
from fks.trading.orders.side_lines import happened_line, placed_line
from fks.trading.orders.submit import Journaled, Submission
from fks.trading.risk.exits import split_at_lot


class Takeover:
    """`run` goes on until cancelled; `state` says where it is.

    `why_not` returns the reason why the guardian must not act now, "" when it may; it is asked before each send. `look`
    returns the snapshot with the orders of the side journal.
    """

    def __init__(
        self,
        context: GuardianContext,
        venues: Mapping[str, Venue],
        side_journal: Path,
        side: SideOrders,
        look: Callable[[], DatabaseSnapshot | None],
        why_not: Callable[[], str],
        page: Callable[[str, str], None],
    ) -> None:
        self._context, self._clock, self._timing = context, context.clock, context.timing
        self._venues, self._path, self._side = venues, side_journal, side
        self._look, self._why_not, self._page = look, why_not, page
        self._gone_s: float | None = None  # since when the process is proven gone (monotonic)
        self._orders: dict[str, OrdersAtVenue] = {}  # in this outage, by venue
        self._seen: dict[str, tuple[object, float]] = {}  # venue -> its open orders when nothing lacked, and when
        self._due: dict[str, tuple[int, float]] = {}  # entry -> sends in a row without a live stop, and the next one
        self._paged: set[tuple[str, str]] = set()  # entries with states of their stops
        self.state = "looks on"

    async def run(self) -> None:
        """Look, and place what is missing, until cancelled."""
        while True:
            is_active = False
            try:
                is_active = await self.round()
            except Exception as error:  # the kill switch does not die of a surprise here
                self.state = f"failed: {type(error).__name__}: {error}"
                self._context.log.error("guardian.takeover_failed", error=self.state)
            await self._clock.sleep(self._timing.watch_max_s if is_active else self._timing.round_max_s)

    async def round(self) -> bool:
        """Place the stops that are missing now, if this guardian may; return whether the venues were read."""
        if why := self._why_not():
            self._end(why)
            return False
        file = JournalFile(self._path)
        has_run = self._path.with_suffix(".lock").exists()  # an order manager of this machine had it
        if not (has_run and file.lock() and file.is_locked):
            self._end("the order manager's process is not proven gone")
            return False
        try:
            now = self._clock.monotonic()
            self._gone_s = now if self._gone_s is None else self._gone_s
            if now - self._gone_s < self._timing.takeover_s:
                self.state = "waits: the venue may still take requests of the order manager"
                return False
            states = ["protects"]
            for venue in self._venues.values():
                try:
                    await self._protect(venue, file)
                except OutageError as error:  # the next venue is another one
                    states.append(f"{venue.name}: {error}")
            self.state = "; ".join(states)
            return True
        finally:
            file.close()

    def _end(self, why: str) -> None:
        self._gone_s, self.state = None, f"looks on: {why}"
        for memory in (self._orders, self._seen, self._due, self._paged):
            memory.clear()

    async def _protect(self, venue: Venue, file: JournalFile) -> None:
        snapshot = self._look()
        assert snapshot is not None
        orders = snapshot.protected_orders(venue.name)
        if snapshot.identities:
            owner = await venue.identity()
            snapshot = snapshot.of_session(owner)
            known = snapshot.identities
            orders = [o for o in orders if o.account_id not in known or known[o.account_id].is_session(owner)]
        if not orders or venue.capabilities.keeps_bracket:
            return
        live = {report.client_order_id: report for report in await venue.open_orders()}
        now, seen = self._clock.monotonic(), {(id, report.filled) for id, report in live.items()}
        was, read_s = self._seen.get(venue.name, (None, 0.0))
        if was == seen and now - read_s < self._timing.history_s:
            return
        at_venue = self._orders.setdefault(venue.name, OrdersAtVenue(venue, self._context))
        unclear = await self._ask(at_venue, snapshot, orders, live)
        since = {s: snapshot.history_from_ns(venue.name, s) for s in {order.symbol for order in orders}}
        fills = [fill for symbol, from_ns in since.items() for fill in await venue.fills_since(symbol, from_ns)]
        view = ReadVenue(snapshot, live, at_venue.filled, unclear, fills, since)
        missing, is_unclear = missing_stops(view, orders)
        for parent, quantity in missing:
            rules = snapshot.rules_at(venue.name, parent.symbol)
            assert rules is not None, "a quantity is found by rules"
            parts = split_at_lot(quantity, rules.instrument(parent.symbol))
            await self._place(at_venue, file, parent, orders, quantity, parts)
        if not missing and not is_unclear:
            self._seen[venue.name] = seen, now

    async def _ask(
        self, at_venue: OrdersAtVenue, snapshot: DatabaseSnapshot, orders: Sequence[Order], live: dict[str, Report]
    ) -> set[str]:
        """Ask about the orders that may execute and are not listed; return those whose end is not proven."""
        unclear: set[str] = set()
        for id in [id for id in unended(snapshot, {Holder.of(order) for order in orders}) if id not in live]:
            known = snapshot.orders[id]
            order = at_venue.about(
                id,
                known.holder.symbol,
                role=known.role,
                sent_ns=known.changed_ns,
                is_acknowledged=known.is_acknowledged,
                has_left=known.state != State.INTENDED.value,
            )
            if order.is_ended:
                continue
            if why := self._why_not():  # an order manager that starts waits for the lock
                raise OutageError(why)
            report = await at_venue.ask(order)
            if report is not None and not order.is_ended:
                live[id] = report
            elif not order.is_ended:
                unclear.add(id)
        return unclear

    async def _place(
        self,
        at_venue: OrdersAtVenue,
        file: JournalFile,
        parent: Order,
        orders: Sequence[Order],
        quantity: Decimal,
        parts: Sequence[Decimal],
    ) -> None:
        """Send one stop under the next id of its entry, unless that id was sent before, and where the market has passed
        it the market orders over `parts` that close its quantity. Errors: OutageError."""
        tries, due_s = self._due.get(parent.client_order_id, (0, 0.0))
        if self._clock.monotonic() < due_s:
            return
        legs = [o for o in (*orders, *self._side.orders.values()) if o.parent_id == parent.client_order_id]
        attempt = (next_attempt(legs) // GUARDIAN_ATTEMPTS + 1) * GUARDIAN_ATTEMPTS
        now_ns = self._clock.now_ns()
        made = legs_of(parent, quantity=quantity, attempt=attempt, epoch=parent.epoch, now_ns=now_ns)
        stop = next(leg for leg in made if leg.role is Role.STOP_LOSS)
        ports = SidePorts(self._context, at_venue, self._why_not, file)
        done = list((await ports.submit(stop)).orders)
        for part in parts if any(map(is_passed, done)) else ():
            attempt, now_ns = attempt + GUARDIAN_ATTEMPTS, self._clock.now_ns()
            close = leg_of(parent, Role.STOP_LOSS, OrderType.MARKET, part, attempt, parent.epoch, now_ns)
            done += (await ports.submit(close)).orders
        wait_s = Backoff(self._timing.retry_s, self._timing.retry_max_s).wait_s(tries + 1)
        self._due[parent.client_order_id] = tries + 1, self._clock.monotonic() + wait_s
        for order in done:
            id, state, name = order.client_order_id, order.state.value, order.type.value
            self._context.log.warning("guardian.protects", client_order_id=id, symbol=order.symbol, state=state)
            if (parent.client_order_id, f"{name} {state}") not in self._paged:
                self._paged.add((parent.client_order_id, f"{name} {state}"))
                what = "stop" if order.type is OrderType.STOP else "close at the market of a stop that was passed"
                text = f"{what} {id} over {order.quantity:f} {order.symbol} is {state}"
                self._page("guardian.protects", f"PostgreSQL and the order manager are away: {text}")


class SidePorts(VenuePorts):
    """The ports of the submit protocol here: the order manager's side journal, whose lock this process holds."""

    def __init__(
        self, context: GuardianContext, orders: OrdersAtVenue, why_not: Callable[[], str], file: JournalFile
    ) -> None:
        super().__init__(context, orders, why_not)
        self._file = file

    async def journal(self, submission: Submission) -> Journaled:
        """Write the orders into the file. An order that is not on disk is not sent."""
        events = [e.IntendedAndSent(**self.stamp("send")) for _ in submission.orders]
        begun = tuple(begin(order, event).order for order, event in zip(submission.orders, events, strict=True))
        return Journaled(begun if self._write(placed_line(begun, events, None)) else ())

    async def record(self, order: Order, event: e.Event, answer: Answer | None) -> Order:
        """Write what the answer means; one that is not on disk is asked for again by the order's id."""
        self._write(happened_line([(order.client_order_id, event)]))
        return advance(order, event).order

    def _write(self, line: dict[str, Any]) -> bool:
        self._file.append({"at": iso(to_ns(to_datetime(self._clock.now_ns()))), **line})
        self._file.drop_unwritten()
        return self._file.error is None
