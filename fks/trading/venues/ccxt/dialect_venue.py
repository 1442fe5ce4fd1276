"""The venue port over any dialect that has account reads: ccxt as transport, user events by polling.

An exchange whose dialect has brackets holds a stop and a take profit as one order, and takes them with the entry. At
the others an entry has a stop or a take profit, and never both.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from fks.clock import Clock
from fks.clock.waiting import end_task, wait_for_event
from fks.config.urls import is_loopback, is_test_host
from fks.model.account import Balance, Environment, Transfer, TransferKind, VenueIdentity
from fks.model.codes import Code
from fks.model.errors import ConfigError, KeyRefusedError, OutageError, PeerError
from fks.model.order import (
    PENDING,
    TERMINAL,
    Answer,
    Fill,
    Lookup,
    Order,
    OrderType,
    Outcome,
    Presence,
    Refusal,
    Report,
    Side,
    State,
    evolve,
)
from fks.model.ports import KeyRights, Log, Priority, SessionBack, SessionLost, VenueBudget, VenueEvent
from fks.trading.venues.base import READ_WAIT_S, mistake_in, priority_of, refused
from fks.trading.venues.binance.calling import CallingVenue, CallResult, as_answer
from fks.trading.venues.binance.classify import CallCourse, describe
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.brackets import OF_ENTRY, as_close, ids_in, leg_of, parts_of, wire_id
from fks.trading.venues.ccxt.dialect import CcxtCall, Dialect, PairNames, VenueExecution, classify_answer
from fks.trading.venues.ccxt.dialect_session import DialectSession

T = TypeVar("T")
#: seconds between two reads of the open orders, while one of ours is open and while none is
POLL_S, IDLE_POLL_S = 6.0, 30.0
_SOON_S = 0.3  # the exchange shows an order a moment after it acknowledged it
_LOST_AFTER = 3  # polls without an answer
_OVERLAP_NS = 60 * 1_000_000_000
_LISTED_NS = 3600 * 1_000_000_000  # more than the clocks differ: an order is listed by the exchange's time
_IDS_MAX = 20_000
_PAGES_MAX = 200
_PAGE_WAIT_S = 10.0  # further pages of a history wait so long for the rate limit
_HISTORY_S = 1.0
_PAIRS_S = 3600.0


class DialectVenue(CallingVenue):
    """Orders out to one exchange by its dialect. One object per (venue, account, role), with a key of its own.

    An order is acknowledged by the exchange's id in an answer that describes it; its state and its executions follow by
    polling. A cancel is acknowledged when a read shows the ended order with its executions; until then it is
    ambiguous. `events` polls the open orders every POLL_S while one of ours is open, else every IDLE_POLL_S, and soon
    after each send. Errors of reads: OutageError.
    """

    def __init__(
        self,
        dialect: Dialect,
        config: SessionConfig,
        clock: Clock,
        log: Log,
        may_send: Callable[[], bool] | None = None,
        budget: VenueBudget | None = None,
        may_protect: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(config, clock, log, may_send, budget, may_protect)
        if dialect.reads is None:
            raise ConfigError(
                f"the dialect of {dialect.name} is tested on recorded bodies only",
                remedy="trade at an exchange that 'fks venues list' shows as tradable",
            )
        self.dialect, self._reads = dialect, dialect.reads
        self.capabilities = dialect.capabilities
        self._session = DialectSession(dialect, config, clock)
        self._pairs: dict[str, PairNames] = {}  # by our symbol and by each name of answers
        self._pairs_due, self._pairs_s = True, 0.0
        #: exchange's order id -> limit prices by client order id; several of a bracket
        self._ids: OrderedDict[str, Mapping[str, Decimal | None]] = OrderedDict()
        self._bracket_ids: OrderedDict[str, str] = OrderedDict()  # exchange's order id -> the client ids of several
        self._origins: OrderedDict[str, str] = OrderedDict()  # exchange's ids of attached brackets -> of their entries
        self._watched: OrderedDict[str, Report] = OrderedDict()  # newest report by client order id
        self._sent_ns: OrderedDict[str, int] = OrderedDict()  # time of the send by client order id
        self._identity: VenueIdentity | None = None
        self._polling: asyncio.Task[None] | None = None
        self._poll_now = asyncio.Event()
        self._read_at_s, self._read_since_ns = float("-inf"), 0  # of the executions read last
        self._executions_read: list[VenueExecution] = []

    async def open(self) -> None:
        """Make the session ready, read the markets and compare clocks. An exchange that is down is no error here.

        Errors: ConfigError when a live key may withdraw, OutageError when that cannot be found out.
        """
        await self._session.open()
        await self._budget.start()
        try:
            await self._know_pairs()
            await self.skew_ms()
        except OutageError as error:
            self._log.warning("venue.unreachable", venue=self.name, detail=str(error))
        if self.config.is_live:
            await self._check_key()

    async def close(self) -> None:
        """End polling and all calls. Nothing can be sent afterwards."""
        if self._polling is not None:
            await end_task(self._polling)
            self._polling = None
        await self._end_calls()
        await self._session.close()
        await self._budget.stop()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once, with a deadline for the exchange's engine. A market order of a dialect with
        `market_range` is refused, and nothing is sent, while the last price cannot be read."""
        try:
            placed = await self._priced(order)
        except OutageError as error:
            return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, f"nothing was sent: {error}")
        (answer,) = await self._submit(
            (order,), lambda pair, now_ns: self.dialect.place(placed, pair, self._deadline_ns(now_ns))
        )
        return answer

    async def _priced(self, order: Order) -> Order:
        """Return the order; a market order with a limit price where the dialect has a `market_range`."""
        part = self.dialect.market_range
        if part is None or order.type is not OrderType.MARKET or order.symbol not in self._pairs or self._refusal:
            return order
        price = await self._get(
            self._reads.price(self._pairs[order.symbol].request), "last price", self._reads.price_of
        )
        return evolve(order, price=price * (1 + part if order.side is Side.BUY else 1 - part))

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Submit both as one order, where the dialect has brackets (`capabilities.has_oco`)."""
        brackets = self.dialect.brackets
        if brackets is None:
            answer = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self.dialect.name} has no OCO")
            return answer, answer
        first, second = await self._submit((stop, limit), lambda pair, _: brackets.place(stop, limit, pair))
        return first, second

    async def submit_entry(self, entry: Order, legs: Sequence[Order], *, sells_received: bool) -> tuple[Answer, ...]:
        """Submit an entry with its stop and its take profit, which the exchange places at its complete fill
        (`capabilities.attaches_exits`)."""
        brackets = self.dialect.brackets
        if brackets is None or len(legs) != 2:
            detail = f"{self.dialect.name} takes no entry with {len(legs)} exits"
            return (refused(Code.CLIENT_VALIDATION, Refusal.OTHER, detail),) * (len(legs) + 1)
        stop, limit = legs
        return await self._submit((entry, stop, limit), lambda pair, _: brackets.attach(entry, stop, limit, pair))

    async def submit_closing(self, entry: Order) -> Answer:
        """Submit an entry whose fills make their own stops (`capabilities.closes_fills`)."""
        closes = self.dialect.closes
        if closes is None or entry.stop_loss is None:
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self.dialect.name} makes no stop for its fills")
        (answer,) = await self._submit(
            (entry,), lambda pair, now_ns: closes.place(entry, pair, self._deadline_ns(now_ns))
        )
        return answer

    async def validate(self, order: Order) -> Answer:
        """Have the exchange check an order that it does not make (`dialect.validate`). ACK: it found no fault."""
        pair = self._pairs.get(order.symbol)
        if self.dialect.validate is None or pair is None:
            detail = f"{self.dialect.name} checks no order in {order.symbol}"
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, detail)
        now_ns = self._clock.now_ns() + self._session.skew_ns
        call = self.dialect.validate(order, pair.request, self._deadline_ns(now_ns))
        seen = await self._call(call, call.params, self.config.read_timeout_s)
        if seen.is_ok and isinstance(seen.wire.payload, Mapping) and not self.dialect.faults_of(seen.wire.payload):
            return Answer(Outcome.ACK, sent_ns=seen.wire.sent_ns)
        return self._unsuccessful(order, seen)

    def _deadline_ns(self, now_ns: int) -> int:
        return self.dialect.deadline_ns(now_ns, self.config.order_timeout_s)

    async def _submit(self, orders: Sequence[Order], make: Callable[[str, int], CcxtCall]) -> tuple[Answer, ...]:
        """Write the one request of `orders`, the first of which is sent at once. `make`: from the market's name in
        requests and the time there."""
        first = orders[0]
        wrong = next(filter(None, (mistake_in(order, self.capabilities.types) for order in orders)), None)
        if wrong is not None:
            return (refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong),) * len(orders)
        pair = self._pairs.get(first.symbol)
        if pair is None:
            self._pairs_due = True
            answer = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self.dialect.name} lists no {first.symbol}")
            if not self._pairs:
                detail = "nothing was sent: the markets are not read yet"
                answer = refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, detail)
            return (answer,) * len(orders)
        now_ns = self._clock.now_ns() + self._session.skew_ns
        for order in orders:
            _keep(self._sent_ns, order.client_order_id, now_ns)
        call = make(pair.request, now_ns)
        if (held := await self._held(call, priority_of(first), 1)) is not None:
            return (held,) * len(orders)
        may_leave = self._may_protect if first.is_reduce_only else self._may_send
        seen = await self._write(call, call.params, lambda late: list(self._sent(orders, late)), may_leave)
        answers = self._sent(orders, seen)
        self._poll_now.set()
        return answers

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Refuse: not offered (`capabilities.can_amend`)."""
        return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"amending is not offered at {self.dialect.name}")

    async def reprice(self, order: Order, price: Decimal) -> Answer:
        """Move the trigger of a stop, or the limit of another order, in place (`capabilities.can_reprice`)."""
        if self.dialect.reprice is None:
            detail = f"{self.dialect.name} moves no price in place"
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, detail)
        now_ns = self._clock.now_ns() + self._session.skew_ns
        call = self.dialect.reprice(order, price, self._deadline_ns(now_ns))
        if (held := await self._held(call, Priority.RESERVE)) is not None:
            return held
        seen = await self._write(call, call.params, lambda late: [], self._may_protect)
        if seen.is_ok and self.dialect.repriced_of(seen.wire.payload):
            return Answer(Outcome.ACK, sent_ns=seen.wire.sent_ns)
        return self._unsuccessful(order, seen)

    async def cancel(self, order: Order) -> Answer:
        """Cancel by client order id, or by the exchange's where it takes no other, then read the ended order: ACK
        carries its report, AMBIGUOUS means that the cancel may be under way. REFUSED UNKNOWN_ORDER: not open any more,
        which may mean filled."""
        if self.dialect.lookups is None and order.venue_order_id is None:
            found = await self.query(order.symbol, order.client_order_id, order.sent_ns or order.created_ns)
            if found.presence is Presence.NOT_FOUND:
                return refused("UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER, f"nothing was sent: {found.detail}")
            if found.report is None:
                detail = f"nothing was sent: the exchange's id of the order is not known ({found.detail})"
                return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, detail)
            order = evolve(order, venue_order_id=found.report.venue_order_id)
        pair = self._pairs.get(order.symbol)
        call = self.dialect.cancel(order, pair.request if pair is not None else order.symbol)
        if (held := await self._held(call, Priority.RESERVE)) is not None:
            return held
        seen = await self._write(call, call.params, lambda late: [], self._may_protect)
        self._poll_now.set()
        if not (seen.is_ok and self.dialect.cancelled_of(seen.wire.payload, order)):
            faults = self.dialect.faults_of(seen.wire.payload)
            if faults and all(fault.code in self.dialect.unknown_order for fault in faults):
                detail = describe(seen.wire, seen.error)
                return replace(refused("UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER, detail), sent_ns=seen.wire.sent_ns)
            if self.dialect.lookups is not None or faults or not seen.is_ok:
                return self._unsuccessful(order, seen)
        if self.dialect.closes is not None and order.venue_order_id is not None:
            found = await self.query_close(order)
        else:
            found = await self._query(order.symbol, order.client_order_id, order.venue_order_id)
        if found.report is not None and found.report.state in TERMINAL:
            return Answer(Outcome.ACK, found.report, sent_ns=seen.wire.sent_ns)
        detail = f"cancelled, and the ended order is not shown yet: {found.detail or found.presence.value}"
        return Answer(Outcome.AMBIGUOUS, detail=detail, sent_ns=seen.wire.sent_ns)

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return how long an order would wait for the exchange's rate limit if it were submitted now."""
        return self._budget.wait_s(0, priority, 1)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        """Ask for one order by our id in each place where the exchange keeps orders. NOT_FOUND only if all answered
        and none of them knows it; an answer with other orders proves nothing."""
        return await self._query(symbol, client_order_id, None, since_ns)

    async def closes_made(self, entry: Order) -> list[Report]:
        """Return all stops that fills of an entry made (`capabilities.closes_fills`). Errors: OutageError."""
        assert self.dialect.closes is not None, "fills make stops only there"
        found = dict[str, Report]()
        since_ns = (entry.sent_ns or entry.created_ns) - _LISTED_NS
        ended = self.dialect.closes.ended(since_ns + self._session.skew_ns)
        for report in (*await self.open_orders(), *await self._orders(ended, "orders that ended")):
            if report.leg is not None and report.leg.parent_id == entry.client_order_id:
                self._note(report)
                found[report.client_order_id] = report
        return list(found.values())

    async def query_close(self, close: Order) -> Lookup:
        """Ask for an order by the exchange's id (`capabilities.closes_fills`)."""
        try:
            self._check_refusal("an order")
            await self._know_pairs()
            reports = await self._by_ids([close.venue_order_id])
        except OutageError as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))
        for report in reports:
            self._note(report)
            if report.client_order_id == close.client_order_id:
                return Lookup(Presence.FOUND, report)
        return Lookup(Presence.NO_ANSWER, detail=f"{self.dialect.name} shows no order {close.venue_order_id}")

    async def _query(self, symbol: str, client_order_id: str, number: str | None, since_ns: int = 0) -> Lookup:
        if self._refusal:
            return Lookup(Presence.NO_ANSWER, detail=self._refusal)
        try:
            await self._know_pairs()
            pair = self._pairs.get(symbol)
            request = pair.request if pair is not None else symbol
            if self.dialect.lookups is None:
                return await self._look_in_listing(request, symbol, client_order_id, number, since_ns)
            for call in self.dialect.lookups(client_order_id, request):
                reports = await self._get(call, "an order", self._orders_in)
                if (report := next((r for r in reports if r.client_order_id == client_order_id), None)) is not None:
                    self._note(report)
                    return Lookup(Presence.FOUND, report)
                if reports:
                    return Lookup(Presence.NO_ANSWER, detail="other orders came: the filter by our id was ignored")
        except OutageError as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))
        return Lookup(Presence.NOT_FOUND, detail="not among open orders, not among closed ones")

    async def _look_in_listing(
        self, request: str, symbol: str, client_order_id: str, number: str | None, since_ns: int
    ) -> Lookup:
        """Look for an order by the exchange's id if that is known, then among the orders of the market from its send on
        (all of them where neither this session nor `since_ns` tells it), then behind each execution of an order that
        the list lacks.

        An execution whose order is shown nowhere may be ours: it proves nothing. Errors: OutageError.
        """
        assert self._reads.listing is not None
        since_ns = max(self._sent_ns.get(client_order_id, since_ns) - _LISTED_NS, 0)
        known = self._watched.get(client_order_id)
        reports = await self._by_ids([number or (known.venue_order_id if known is not None else None)])
        if not any(report.client_order_id == client_order_id for report in reports):
            reports = await self._orders(self._reads.listing(request, since_ns), "orders")
        unlisted = set[str]()
        if not any(report.client_order_id == client_order_id for report in reports):
            executed = {item.venue_order_id for item in await self._executions(since_ns) if item.symbol == symbol}
            unlisted = executed - {report.venue_order_id for report in reports}
            reports = await self._by_ids(unlisted)
            unlisted -= {str(report.venue_order_id) for report in reports}
        if (report := next((r for r in reports if r.client_order_id == client_order_id), None)) is not None:
            self._note(report)
            return Lookup(Presence.FOUND, report)
        if unlisted:
            return Lookup(Presence.NO_ANSWER, detail=f"executions of orders that are not shown: {sorted(unlisted)}")
        return Lookup(Presence.NOT_FOUND, detail="not among the orders of the market, and no execution is of another")

    async def open_orders(self) -> list[Report]:
        """Return every open order of the account, ours or not."""
        self._check_refusal("open orders")
        await self._know_pairs()
        reports = await self._orders(self._reads.open_orders, "open orders")
        for report in reports:
            self._note(report)
        return reports

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return the account's executions in `symbol` from `since_ns` on, oldest first, page by page to the end."""
        self._check_refusal("fills")
        found = [item for item in await self._executions(since_ns) if item.symbol == symbol]
        return await self._fills_of(found)

    async def balances(self) -> dict[str, Balance]:
        """Return the balances by currency; currencies with nothing are left out."""
        names = await self._currencies()
        rows = await self._list(self._reads.balances, "balances", lambda body: self._reads.balances_of(body, names))
        return {row.currency: row for row in rows if row.total}

    async def identity(self) -> VenueIdentity:
        """Return the owner of the key, read again; executions are named after it unless one was admitted."""
        number = await self._get(self._reads.owner, "account", self._reads.owner_of)
        found = VenueIdentity(self._environment(), number)
        self._identity = self._identity or found
        return found

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal; executions are named after `identity` from now on."""
        self._refusal, self._identity = "", identity

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        """Return deposits and withdrawals of the account's ledger, oldest first. Our stand-ins keep none. Errors:
        OutageError where they are not read: their amounts count as drift."""
        self._check_refusal("transfers")
        if self._environment() is not Environment.LIVE:
            return []
        if self._reads.transfers is None:
            raise OutageError(f"{self.name}: deposits and withdrawals at {self.dialect.name} are not read")
        names, found = await self._currencies(), list[Transfer]()
        for kind in TransferKind:
            call = self._reads.transfers(kind, since_ns)
            found += await self._list(call, "transfers", lambda body: self._reads.transfers_of(body, names))
        known = {item.reference: item for item in found if item.time_ns >= since_ns}
        return sorted(known.values(), key=lambda item: item.time_ns)

    async def skew_ms(self) -> float:
        """Return exchange time minus ours in milliseconds, no larger than proven: the exchange reports whole seconds,
        so a difference within them counts as none."""
        before = self._clock.now_ns()
        earliest, latest = await self._get(self._reads.clock, "time", self._reads.clock_of)
        after = self._clock.now_ns()
        # the answer was made between `before` and `after`
        skew_ns = max(earliest - after, 0) + min(latest - before, 0)
        self._session.skew_ns = skew_ns
        return skew_ns / 1e6

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return the last traded price, or None for a market that the exchange does not list."""
        await self._know_pairs()
        pair = self._pairs.get(symbol)
        if pair is None:
            return None
        return await self._get(self._reads.price(pair.request), "last price", self._reads.price_of)

    async def events(self) -> AsyncIterator[VenueEvent]:
        """Yield changes of orders and executions, for ever. One reader; the first starts the polling."""
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name=f"{self.name} polling")
        async for event in self._queue.read():
            yield event

    def on_bar(self, bar: object) -> None:
        """Ignore market data: this venue has its own."""

    # ── polling ──────────────────────────────────────────────────────────────────────────────────
    async def _poll(self) -> None:
        failures, is_up, since_ns = 0, False, self._clock.now_ns()
        while True:
            started_ns = self._clock.now_ns()
            self._poll_now.clear()
            try:
                await self._poll_once(since_ns - _OVERLAP_NS)
            except Exception as error:  # a bug must not end the polling unseen: it counts as no answer
                failures += 1
                if not isinstance(error, OutageError):
                    self._log.error("venue.raised", venue=self.name, detail=f"{type(error).__name__}: {error}")
                if is_up and failures >= _LOST_AFTER:
                    is_up = False
                    self._queue.put(SessionLost(str(error)))
                    self._log.warning("venue.stream_lost", venue=self.name, detail=str(error), failures=failures)
            else:
                failures, since_ns = 0, started_ns
                if not is_up:
                    is_up = True
                    self._queue.put(SessionBack())
                    self._log.info("venue.stream_up", venue=self.name)
            is_busy = failures > 0 or any(item.state not in TERMINAL for item in self._watched.values())
            pause_s = self.config.poll_s or (POLL_S if is_busy else IDLE_POLL_S)
            if await wait_for_event(self._poll_now, pause_s, self._clock):
                await self._clock.sleep(_SOON_S)

    async def _poll_once(self, since_ns: int) -> None:
        """Read the open orders and those that left them, and publish what changed: executions before reports."""
        await self._know_pairs()
        if self._refusal:  # whether the exchange answers is all that may be asked
            await self.skew_ms()
            return
        reports = {report.client_order_id: report for report in await self.open_orders()}
        gone = [item for name, item in self._watched.items() if item.state not in TERMINAL and name not in reports]
        for report in await self._by_ids(item.venue_order_id for item in gone):
            if report.client_order_id not in reports or report.code not in OF_ENTRY:
                reports[report.client_order_id] = report
        for item in gone:
            if item.client_order_id not in reports:  # the order manager asks about it by our id
                del self._watched[item.client_order_id]
        before = {name: self._watched.get(name) for name in reports}
        changed = [
            report
            for name, report in reports.items()
            if (known := before[name]) is None
            or (known.state, known.filled, known.code) != (report.state, report.filled, report.code)
        ]
        filled = {name: known.filled for name, known in before.items() if known is not None}
        if any(report.filled > filled.get(report.client_order_id, 0) for report in changed):
            for fill in await self._fills_of(await self._executions(since_ns)):
                self._queue.put(fill)
            if self.dialect.closes is not None:
                self._poll_now.set()  # a fill that came behind the list has made a stop
        for report in changed:
            self._queue.put(report)
            self._watch(report)

    def _watch(self, report: Report) -> None:
        self._note(report)
        _keep(self._watched, report.client_order_id, report)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    async def _begin(self, call: CcxtCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        return self._session.begin(call, wire)

    def _suspect(self) -> None:
        """Calls go over connections of their own: there is none to probe."""

    def _sent(self, orders: Sequence[Order], seen: CallResult) -> tuple[Answer, ...]:
        """Return what a send of `orders` as one order of the exchange came to."""
        name = wire_id(orders)
        named = evolve(orders[0], client_order_id=name)
        number = self.dialect.order_id_of(seen.wire.payload, named) if seen.is_ok else None
        if number is None:
            return (self._unsuccessful(orders[0], seen),) * len(orders)
        if len(orders) > 1:
            _keep(self._bracket_ids, number, name)
        answers = []
        for order in orders:
            # the answer has neither a state nor a time: both follow by polling
            ours = (order.client_order_id, number, order.symbol)
            report = Report(*ours, State.ACCEPTED, Decimal(0), 0, side=order.side, quantity=order.quantity)
            is_waiting = len(orders) > 2 and order is not orders[0]
            report = replace(report, code=PENDING if is_waiting else None, price=order.price)
            self._watch(report)
            answers.append(Answer(Outcome.ACK, report, sent_ns=seen.wire.sent_ns))
        if len(orders) == 2:
            _keep(self._ids, number, {order.client_order_id: order.price for order in orders})
        return tuple(answers)

    def _unsuccessful(self, order: Order, seen: CallResult) -> Answer:
        is_network = self._session.is_network(seen.error)
        verdict = classify_answer(self.dialect, seen.wire, seen.error, is_network=is_network)
        if verdict.outcome is not Outcome.REFUSED:
            self._log.warning(
                "venue.unclear", venue=self.name, client_order_id=order.client_order_id, detail=verdict.detail
            )
        return as_answer(verdict, seen)

    async def _get(
        self, call: CcxtCall, subject: str, reader: Callable[[Any], T], wait_max_s: float = READ_WAIT_S
    ) -> T:
        """Read something. Errors: OutageError when the rate limit is used up, without an answer, on a fault, and when
        the answer cannot be read."""
        wait_s = await self._budget.take(call.weight, Priority.READ, wait_max_s=wait_max_s)
        if wait_s > 0:
            raise OutageError(f"{self.name}: {subject}: the venue's rate limit has room in {wait_s:.1f} s")
        seen = await self._call(call, call.params, self.config.read_timeout_s)
        try:
            faults = self.dialect.faults_of(seen.wire.payload)
            if seen.is_ok and not faults:
                return reader(seen.wire.payload)
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error
        except Exception as error:  # a dialect may be another package's: its mistake costs this venue alone
            raise OutageError(f"{self.name}: {subject}: {type(error).__name__}: {error}") from error
        is_key = any(fault.code in self.dialect.key_refused for fault in faults)
        kind = KeyRefusedError if is_key else OutageError
        raise kind(f"{self.name}: {subject}: {describe(seen.wire, seen.error)}")

    async def _rights(self) -> KeyRights:
        await self._session.open()
        return await self._get(self._reads.owner, "key permissions", self._reads.rights_of)

    def _sign_with(self, config: SessionConfig) -> None:
        self._session.use_key(config)

    async def _know_pairs(self) -> None:
        """Read the markets, if none are known or one was missing at the last read an hour ago or earlier."""
        now_s = self._clock.monotonic()
        if not self._pairs_due or (self._pairs and now_s < self._pairs_s + _PAIRS_S):
            return
        found = await self._get(self._reads.markets, "markets", self._reads.markets_of)
        self._pairs = {name: pair for pair in found for name in (pair.symbol, *pair.answers)}
        self._pairs_due, self._pairs_s = not found, now_s

    async def _currencies(self) -> dict[str, str]:
        await self._know_pairs()
        pairs = self._pairs.values()
        return {pair.base_id: pair.base for pair in pairs} | {pair.quote_id: pair.quote for pair in pairs}

    async def _by_ids(self, numbers: Iterable[str | None]) -> list[Report]:
        return await self._apart(await self._listed_by_ids(numbers))

    async def _listed_by_ids(self, numbers: Iterable[str | None]) -> list[Report]:
        wanted, found = sorted({number for number in numbers if number}), list[Report]()
        for start in range(0, len(wanted), self._reads.ids_max):
            call = self._reads.by_ids(wanted[start : start + self._reads.ids_max])
            found += await self._list(call, "orders", self._orders_in)
        return found

    async def _orders(self, call: CcxtCall, subject: str) -> list[Report]:
        return await self._apart(await self._list(call, subject, self._orders_in))

    def _orders_in(self, body: Any) -> list[Report]:
        self._read_at_s = float("-inf")  # these orders may have executions that were not in the history read last
        reports = self._reads.orders_of(body, self._pairs)
        if self.dialect.closes is not None:
            for close, origin in self.dialect.closes.origins_of(body).items():
                _keep(self._origins, close, origin)
        if self.dialect.brackets is not None:
            for attached, origin in self.dialect.brackets.origins_of(body).items():
                _keep(self._origins, attached, origin)
            for report in reports:
                if report.venue_order_id is not None and len(ids_in(report.client_order_id)) > 1:
                    _keep(self._bracket_ids, report.venue_order_id, report.client_order_id)
        return reports

    async def _apart(self, listed: list[Report]) -> list[Report]:
        """Return the reports about orders of ours that the exchange's orders stand for; a bracket that was attached is
        joined to its entry, and the other one of the two is read where it is missing. Errors: OutageError."""
        if self.dialect.closes is not None:
            return await self._closes_in(listed)
        if self.dialect.brackets is None:
            return listed
        numbers, attached = {report.venue_order_id for report in listed}, dict[str, str]()
        for number, origin in self._origins.items():
            attached[origin] = number
        wanted = {self._origins.get(str(number)) for number in numbers} - numbers - self._bracket_ids.keys()
        filled = [str(r.venue_order_id) for r in listed if r.state is State.FILLED]
        wanted |= {attached[number] for number in filled if number in attached} - numbers
        listed = [*listed, *await self._listed_by_ids(wanted)]
        found, now_ns = dict[str, Report](), self._clock.now_ns() + self._session.skew_ns
        for report in listed:
            number = str(report.venue_order_id)
            if number in self._origins:
                ids = ids_in(self._bracket_ids.get(self._origins[number], ""))[1:]
                name = "".join(ids) or report.client_order_id
            else:
                name = report.client_order_id
            parts = parts_of(report, name, now_ns)
            own = [part for part in parts if part.code not in OF_ENTRY]
            if len(own) > 1:
                _keep(self._ids, number, {part.client_order_id: part.price for part in own})
            for part in parts:
                if part.client_order_id not in found or part.code not in OF_ENTRY:
                    found[part.client_order_id] = part
        return list(found.values())

    async def _closes_in(self, listed: list[Report]) -> list[Report]:
        """Return reports, with stops that were made for fills joined to their entries; these are read where their ids
        are not known. Errors: OutageError."""
        entries = {str(report.venue_order_id): report for report in listed}
        origins = {number: self._origins[number] for number in entries if number in self._origins}
        missing = [origin for origin in origins.values() if origin not in self._ids and origin not in entries]
        for report in (*entries.values(), *await self._listed_by_ids(missing)):
            if str(report.venue_order_id) in origins.values():
                self._note(report)
        found = []
        for number, report in entries.items():
            parents = self._ids.get(origins.get(number, ""), {})
            is_ours = bool(parents) and next(iter(parents)) != origins[number]
            found.append(as_close(report, next(iter(parents))) if is_ours else report)
        return found

    async def _executions(self, since_ns: int) -> list[VenueExecution]:
        """Return executions from `since_ns` on, oldest first. The history is of all markets: for the next one it is not
        asked for again within a second, unless orders were read in between."""
        await self._know_pairs()
        now_s = self._clock.monotonic()
        if now_s - self._read_at_s >= _HISTORY_S or since_ns < self._read_since_ns:
            call = self._reads.history(since_ns)
            found = await self._list(call, "executions", lambda body: self._reads.history_of(body, self._pairs))
            known = {item.trade_id: item for item in found}
            self._executions_read = sorted(known.values(), key=lambda item: (item.time_ns, item.trade_id))
            self._read_at_s, self._read_since_ns = now_s, since_ns
        return [item for item in self._executions_read if item.time_ns >= since_ns]

    async def _list(self, call: CcxtCall, subject: str, reader: Callable[[Any], list[T]]) -> list[T]:
        """Return the items of all pages. Errors: those of `_get`; OutageError for more than _PAGES_MAX pages."""
        found, page, wait_max_s = list[T](), call, READ_WAIT_S
        for _ in range(_PAGES_MAX):
            items, following = await self._get(
                page,
                subject,
                lambda body, page=page: (reader(body), self._reads.next_page(page, body)),  # type: ignore[misc]
                wait_max_s,
            )
            found += items
            if following is None:
                return found
            page, wait_max_s = following, _PAGE_WAIT_S
        raise OutageError(f"{self.name}: {subject}: more than {_PAGES_MAX} pages")

    async def _fills_of(self, executions: Sequence[VenueExecution]) -> list[Fill]:
        """Return executions as fills, under their orders' client ids, which the history does not carry."""
        known = self._identity or await self.identity()
        for report in await self._by_ids(
            item.venue_order_id for item in executions if item.venue_order_id not in self._ids
        ):
            self._note(report)
            if report.leg is not None and report.client_order_id not in self._watched:
                self._queue.put(report)  # it came and went between two polls: it has to be known before its executions
                self._watch(report)
        fill = partial(VenueExecution.as_fill, owner=known, venue=self.name, account_id=self.config.account_id)
        return [fill(item, client_order_id=self._owner_of(item)) for item in executions]

    def _owner_of(self, item: VenueExecution) -> str | None:
        prices = self._ids.get(item.venue_order_id)
        return None if prices is None else leg_of(prices, item.side, item.price)

    def _environment(self) -> Environment:
        url = self.config.rest_url
        if url is not None and is_loopback(url):
            return Environment.SIM
        return Environment.TEST if is_test_host(url, self.dialect.test_hosts) else Environment.LIVE

    def _note(self, report: Report) -> None:
        number, name = report.venue_order_id, report.client_order_id
        if number is not None and report.code not in OF_ENTRY and name not in self._ids.get(number, ()):
            _keep(self._ids, number, {name: report.price})


def _keep(kept: OrderedDict[str, T], name: str, value: T) -> None:
    """Set the newest entry; the oldest beyond _IDS_MAX goes."""
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > _IDS_MAX:
        kept.popitem(last=False)
