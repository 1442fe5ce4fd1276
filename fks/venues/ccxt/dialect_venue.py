"""The venue port over any dialect that has account reads: ccxt as transport, user events by polling.

Protection stays local here: no dialect has an OCO, so an entry has a stop or a take profit, and never both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from fks.clock import Clock
from fks.clock.waiting import wait_for_event
from fks.config.urls import is_loopback, is_test_host
from fks.model.account import Balance, Environment, Transfer, TransferKind, VenueIdentity
from fks.model.codes import Code
from fks.model.errors import ConfigError, OutageError, PeerError
from fks.model.order import TERMINAL, Answer, Fill, Lookup, Order, Outcome, Presence, Refusal, Report, State
from fks.model.ports import Log, Priority, SessionBack, SessionLost, VenueBudget, VenueEvent
from fks.venues.base import READ_WAIT_S, mistake_in, priority_of, refused
from fks.venues.binance.calling import CallingVenue, CallResult, as_answer
from fks.venues.binance.classify import CallCourse, describe
from fks.venues.binance.config import SessionConfig
from fks.venues.ccxt.dialect import AccountPage, CcxtCall, Dialect, PairNames, VenueExecution, classify_answer
from fks.venues.ccxt.dialect_session import DialectSession

T = TypeVar("T")
#: seconds between two reads of the open orders, while one of ours is open and while none is
POLL_S, IDLE_POLL_S = 6.0, 30.0
_SOON_S = 0.3  # the exchange shows an order a moment after it acknowledged it
_LOST_AFTER = 3  # polls without an answer
_OVERLAP_NS = 60 * 1_000_000_000
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
        self._ids: OrderedDict[str, str] = OrderedDict()  # exchange's order id -> client order id
        self._watched: OrderedDict[str, Report] = OrderedDict()  # newest report by client order id
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
            _, may_withdraw = await self._get(self._reads.owner, "key permissions", self._reads.owner_of)
            if may_withdraw:
                raise ConfigError(
                    f"the API key of venue {self.name!r} may withdraw, or does not say that it may not",
                    remedy="make a key without the withdrawal right; FKS does not start live with one that has it",
                )

    async def close(self) -> None:
        """End polling and all calls. Nothing can be sent afterwards."""
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling
            self._polling = None
        await self._end_calls()
        await self._session.close()
        await self._budget.stop()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once, with a deadline for the exchange's engine."""
        if wrong := mistake_in(order, self.capabilities.types):
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
        pair = self._pairs.get(order.symbol)
        if pair is None:
            self._pairs_due = True
            if not self._pairs:
                return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, "nothing was sent: the markets are not read yet")
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self.dialect.name} lists no {order.symbol}")
        now_ns = self._clock.now_ns() + self._session.skew_ns
        call = self.dialect.place(order, pair.request, self.dialect.deadline_ns(now_ns, self.config.order_timeout_s))
        if (held := await self._held(call, priority_of(order), 1)) is not None:
            return held
        may_leave = self._may_protect if order.is_reduce_only else self._may_send
        seen = await self._write(call, call.params, lambda late: [self._sent(order, late)], may_leave)
        answer = self._sent(order, seen)
        self._poll_now.set()
        return answer

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Refuse: no dialect has an OCO (`capabilities.has_oco`)."""
        answer = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self.dialect.name} has no OCO")
        return answer, answer

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Refuse: not offered (`capabilities.can_amend`)."""
        return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"amending is not offered at {self.dialect.name}")

    async def cancel(self, order: Order) -> Answer:
        """Cancel by client order id, then read the ended order: ACK carries its report, AMBIGUOUS means that the cancel
        may be under way. REFUSED UNKNOWN_ORDER: not open any more, which may mean filled."""
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
            return self._unsuccessful(order, seen)
        found = await self.query(order.symbol, order.client_order_id)
        if found.report is not None and found.report.state in TERMINAL:
            return Answer(Outcome.ACK, found.report, sent_ns=seen.wire.sent_ns)
        detail = f"cancelled, and the ended order is not shown yet: {found.detail or found.presence.value}"
        return Answer(Outcome.AMBIGUOUS, detail=detail, sent_ns=seen.wire.sent_ns)

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return how long an order would wait for the exchange's rate limit if it were submitted now."""
        return self._budget.wait_s(0, priority, 1)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str) -> Lookup:
        """Ask for one order by our id in each place where the exchange keeps orders. NOT_FOUND only if all answered
        and none of them knows it; an answer with other orders proves nothing."""
        if self._refusal:
            return Lookup(Presence.NO_ANSWER, detail=self._refusal)
        try:
            await self._know_pairs()
            pair = self._pairs.get(symbol)
            for call in self.dialect.lookups(client_order_id, pair.request if pair is not None else symbol):
                reports = await self._get(call, "an order", self._orders_in)
                if (report := next((r for r in reports if r.client_order_id == client_order_id), None)) is not None:
                    self._note(report)
                    return Lookup(Presence.FOUND, report)
                if reports:
                    return Lookup(Presence.NO_ANSWER, detail="other orders came: the filter by our id was ignored")
        except OutageError as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))
        return Lookup(Presence.NOT_FOUND, detail="not among open orders, not among closed ones")

    async def open_orders(self) -> list[Report]:
        """Return every open order of the account, ours or not."""
        self._check_refusal("open orders")
        await self._know_pairs()
        reports = await self._get(self._reads.open_orders, "open orders", self._orders_in)
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
        rows = await self._get(self._reads.balances, "balances", lambda body: self._reads.balances_of(body, names))
        return {row.currency: row for row in rows if row.total}

    async def identity(self) -> VenueIdentity:
        """Return the owner of the key, read again; executions are named after it unless one was admitted."""
        number, _ = await self._get(self._reads.owner, "account", self._reads.owner_of)
        found = VenueIdentity(self._environment(), number)
        self._identity = self._identity or found
        return found

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal; executions are named after `identity` from now on."""
        self._refusal, self._identity = "", identity

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        """Return deposits and withdrawals of the account's ledger, oldest first. Our stand-in keeps none."""
        self._check_refusal("transfers")
        if self._environment() is not Environment.LIVE:
            return []
        names, found = await self._currencies(), list[Transfer]()
        for kind in TransferKind:
            found += await self._pages(
                "transfers",
                lambda offset, kind=kind: self._reads.transfers(kind, since_ns, offset),  # type: ignore[misc]
                lambda body, offset: self._reads.transfers_of(body, names, offset),
            )
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
            self._poll_now.clear()
            if await wait_for_event(self._poll_now, POLL_S if is_busy else IDLE_POLL_S, self._clock):
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
            reports[report.client_order_id] = report
        for item in gone:
            if item.client_order_id not in reports:  # the order manager asks about it by our id
                del self._watched[item.client_order_id]
        before = {name: self._watched.get(name) for name in reports}
        changed = [
            report
            for name, report in reports.items()
            if (known := before[name]) is None or (known.state, known.filled) != (report.state, report.filled)
        ]
        filled = {name: known.filled for name, known in before.items() if known is not None}
        if any(report.filled > filled.get(report.client_order_id, 0) for report in changed):
            for fill in await self._fills_of(await self._executions(since_ns)):
                self._queue.put(fill)
        for report in changed:
            self._queue.put(report)
            self._watch(report)

    def _watch(self, report: Report) -> None:
        self._note(report)
        self._watched[report.client_order_id] = report
        self._watched.move_to_end(report.client_order_id)
        while len(self._watched) > _IDS_MAX:
            self._watched.popitem(last=False)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    async def _begin(self, call: CcxtCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        return self._session.begin(call, wire)

    def _suspect(self) -> None:
        """Calls go over connections of their own: there is none to probe."""

    def _sent(self, order: Order, seen: CallResult) -> Answer:
        """Return what a send of `order` came to."""
        number = self.dialect.order_id_of(seen.wire.payload, order) if seen.is_ok else None
        if number is None:
            return self._unsuccessful(order, seen)
        # the answer has neither a state nor a time: both follow by polling
        ours = (order.client_order_id, number, order.symbol)
        report = Report(*ours, State.ACCEPTED, Decimal(0), 0, side=order.side, quantity=order.quantity)
        self._watch(report)
        return Answer(Outcome.ACK, report, sent_ns=seen.wire.sent_ns)

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
        if not seen.is_ok or self.dialect.faults_of(seen.wire.payload):
            raise OutageError(f"{self.name}: {subject}: {describe(seen.wire, seen.error)}")
        try:
            return reader(seen.wire.payload)
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error

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
        wanted, found = sorted({number for number in numbers if number}), list[Report]()
        for start in range(0, len(wanted), self._reads.ids_max):
            call = self._reads.by_ids(wanted[start : start + self._reads.ids_max])
            found += await self._get(call, "orders", self._orders_in)
        return found

    def _orders_in(self, body: Any) -> list[Report]:
        self._read_at_s = float("-inf")  # these orders may have executions that were not in the history read last
        return self._reads.orders_of(body, self._pairs)

    async def _executions(self, since_ns: int) -> list[VenueExecution]:
        """Return executions from `since_ns` on, oldest first. The history is of all markets: for the next one it is not
        asked for again within a second, unless orders were read in between."""
        await self._know_pairs()
        now_s = self._clock.monotonic()
        if now_s - self._read_at_s >= _HISTORY_S or since_ns < self._read_since_ns:
            found = await self._pages(
                "executions",
                lambda offset: self._reads.history(since_ns, offset),
                lambda body, offset: self._reads.history_of(body, self._pairs, offset),
            )
            known = {item.trade_id: item for item in found}
            self._executions_read = sorted(known.values(), key=lambda item: (item.time_ns, item.trade_id))
            self._read_at_s, self._read_since_ns = now_s, since_ns
        return [item for item in self._executions_read if item.time_ns >= since_ns]

    async def _pages(
        self, subject: str, call: Callable[[int], CcxtCall], reader: Callable[[Any, int], AccountPage[T]]
    ) -> list[T]:
        """Return the items of all pages. Pages shift while the list grows: an item may come twice, none is left out."""
        found, offset = list[T](), 0
        for number in range(_PAGES_MAX):
            wait_max_s = _PAGE_WAIT_S if number else READ_WAIT_S
            page = await self._get(call(offset), subject, lambda body, at=offset: reader(body, at), wait_max_s)  # type: ignore[misc]
            found += page.items
            if page.next_offset is None:
                return found
            offset = page.next_offset
        raise OutageError(f"{self.name}: {subject}: more than {_PAGES_MAX} pages")

    async def _fills_of(self, executions: Sequence[VenueExecution]) -> list[Fill]:
        """Return executions as fills, under their orders' client ids, which the history does not carry."""
        known = self._identity or await self.identity()
        for report in await self._by_ids(
            item.venue_order_id for item in executions if item.venue_order_id not in self._ids
        ):
            self._note(report)
        fill = partial(VenueExecution.as_fill, owner=known, venue=self.name, account_id=self.config.account_id)
        return [fill(item, client_order_id=self._ids.get(item.venue_order_id)) for item in executions]

    def _environment(self) -> Environment:
        url = self.config.rest_url
        if url is not None and is_loopback(url):
            return Environment.SIM
        return Environment.TEST if is_test_host(url) else Environment.LIVE

    def _note(self, report: Report) -> None:
        if report.venue_order_id is not None:
            self._ids[report.venue_order_id] = report.client_order_id
            self._ids.move_to_end(report.venue_order_id)
            while len(self._ids) > _IDS_MAX:
                self._ids.popitem(last=False)
