"""The venue port at Binance spot over any transport: every send once, every outcome a value, every read answered or an
OutageError."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, ClassVar, Protocol

from fks.clock import Clock
from fks.model.account import Balance, Environment, Transfer, VenueIdentity
from fks.model.bar import Bar
from fks.model.codes import Code
from fks.model.decimals import number_of, plain
from fks.model.errors import KeyRefusedError, OutageError, PeerError
from fks.model.order import Answer, Fill, Lookup, Order, OrderType, Outcome, Presence, Refusal, Report, TimeInForce
from fks.model.ports import KeyRights, Log, Priority, VenueBudget, VenueCapabilities, VenueEvent
from fks.trading.venues.base import mistake_in, priority_of, refused
from fks.trading.venues.binance import calls
from fks.trading.venues.binance.account import deposits_of, identity_of, withdrawals_of
from fks.trading.venues.binance.calling import CallingVenue, CallResult, as_answer, difference_between
from fks.trading.venues.binance.calls import VenueCall
from fks.trading.venues.binance.classify import (
    NO_SUCH_ORDER,
    UNKNOWN_ORDER,
    UNKNOWN_SYMBOL,
    CallCourse,
    classify,
    describe,
)
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.dialect import (
    TYPES,
    FillReader,
    balances_of,
    entry_params,
    oco_params,
    order_params,
    report_of,
)
from fks.trading.venues.binance.stream import EventReader

_IDS_MAX = 20_000
_KEY_REFUSED = frozenset({-2008, -2014, -2015, -1022})  # bad key, format, key or address, signature
PAGE = 1000
#: the request for an entry with its exits, by whether they sell what it receives, and by their number
_ENTRY_CALLS = {
    (False, 1): calls.PLACE_OTO,
    (False, 2): calls.PLACE_OTOCO,
    (True, 1): calls.PLACE_OPO,
    (True, 2): calls.PLACE_OPOCO,
}
_TRANSFERS_NS = 89 * 86_400_000_000_000  # the exchange answers for at most 90 days at a time


class Transport(Protocol):
    """The way to Binance: how a call becomes bytes, and where user events come from. One per (venue, account, role)."""

    skew_ms: int  # venue time minus ours: requests are signed with it

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def begin(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        """Send the call once and return the future of its answer; `wire` gets what is seen. Never raises for the
        network."""
        ...

    def is_network(self, error: BaseException | None) -> bool:
        """Return whether an error of a call of which no byte left is the network's, and not the caller's."""
        ...

    def suspect(self) -> None:
        """Look whether the connection lives: a call was not answered in time."""
        ...

    def stream(self, reader: EventReader, sink: Callable[[VenueEvent], None]) -> None:
        """Give user events to `reader` from now on, SessionLost and SessionBack to `sink`."""
        ...

    def use_key(self, config: SessionConfig) -> None:
        """Sign with the key of this configuration from now on, and subscribe to user events with it once no request
        waits for an answer."""
        ...


class SpotVenue(CallingVenue):
    """Orders out to Binance spot (real or local). One object per (venue, account, role).

    A submit or cancel always comes to a value within `order_timeout_s`. When the caller is cancelled while bytes are
    on their way, the call is not cut: CancelledError goes up at once (the order is then UNKNOWN) and the late
    answer, if one comes, appears among `events()`. The user stream starts with the first `events()` reader.
    `may_send` (the lease) is asked right before a send's or a cancel's first byte: when it says no the answer is
    REFUSED NOT_LEADER and nothing left. `may_protect` is asked for what opens no position: reduce-only orders, cancels
    and amendments (None: as `may_send`).
    """

    capabilities = VenueCapabilities(
        types=frozenset(TYPES),
        times_in_force=frozenset(TimeInForce),
        has_oco=True,
        can_amend=True,
        can_replace=True,
        has_entry_lists=True,
        can_short=False,
        fee_in_received_asset=True,
    )

    #: makes the connection that the orders leave by
    connected_by: ClassVar[staticmethod[[SessionConfig, Clock, Log], Transport]]

    def __init__(
        self,
        config: SessionConfig,
        clock: Clock,
        log: Log,
        may_send: Callable[[], bool] | None = None,
        budget: VenueBudget | None = None,
        may_protect: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(config, clock, log, may_send, budget, may_protect)
        self.transport = self.connected_by(config, clock, log)
        self._fills = FillReader(venue=config.name, account_id=config.account_id)
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()  # (symbol, venue order id) -> client order id
        self._is_streaming = False
        self._reader = EventReader(self._queue.put, self._fills, self._note)

    async def open(self) -> None:
        """Make the session ready and compare clocks. A venue that is down is no error here: reads will say so.

        Errors: ConfigError when a live key may withdraw, OutageError when that cannot be found out.
        """
        await self.transport.open()
        await self._budget.start()
        try:
            await self.skew_ms()
        except OutageError as error:
            self._log.warning("venue.unreachable", venue=self.name, detail=str(error))
        if self.config.is_live:
            await self._check_key()

    async def close(self) -> None:
        """End the stream and all calls. Nothing can be sent afterwards."""
        await self._end_calls()
        self._is_streaming = False
        await self.transport.close()
        await self._budget.stop()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once. ACK only when id and our client id came back; `classify` decides the rest."""
        if wrong := mistake_in(order, self.capabilities.types):
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
        if (held := await self._held(calls.PLACE, priority_of(order), 1)) is not None:
            return held
        may_leave = self._may_protect if order.is_reduce_only else self._may_send
        seen = await self._write(calls.PLACE, order_params(order), lambda late: [self._sent(order, late)], may_leave)
        answer = self._sent(order, seen)
        if answer.outcome is Outcome.ACK:
            self._reader.expect(order.client_order_id)
        return answer

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Submit stop and limit as one native OCO: both exist or neither does."""
        wrong = mistake_in(stop, frozenset({OrderType.STOP, OrderType.STOP_LIMIT})) or mistake_in(
            limit, frozenset({OrderType.LIMIT, OrderType.TAKE_PROFIT})
        )
        if not wrong and (stop.symbol, stop.side, stop.quantity) != (limit.symbol, limit.side, limit.quantity):
            wrong = "the legs of an OCO need one symbol, side and quantity"
        if wrong:
            answer = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
            return answer, answer
        if (held := await self._held(calls.PLACE_OCO, priority_of(stop), 2)) is not None:
            return held, held
        legs = (stop, limit)
        seen = await self._write(
            calls.PLACE_OCO,
            oco_params(stop, limit),
            lambda late: [self._sent(leg, late) for leg in legs],
            self._may_protect if stop.is_reduce_only else self._may_send,
        )
        return self._sent(stop, seen), self._sent(limit, seen)

    async def submit_entry(self, entry: Order, legs: Sequence[Order], *, sells_received: bool) -> tuple[Answer, ...]:
        """Submit an entry and the exits that wait for its complete fill as one list (OTO, OTOCO; with `sells_received`
        OPO, OPOCO)."""
        orders = (entry, *legs)
        wrong = mistake_in(entry, frozenset({OrderType.LIMIT}))
        for leg in legs:
            wrong = wrong or mistake_in(leg, self.capabilities.types - {OrderType.MARKET})
        if not wrong and {(leg.symbol, leg.side, leg.quantity) for leg in legs} != {
            (entry.symbol, entry.side.opposite, legs[0].quantity)
        }:
            wrong = "the exits of an entry need its symbol, the other side and one quantity"
        if wrong:
            return (refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong),) * len(orders)
        call = _ENTRY_CALLS[sells_received, len(legs)]
        if (held := await self._held(call, priority_of(entry), len(orders))) is not None:
            return (held,) * len(orders)
        params = entry_params(entry, legs, sells_received=sells_received)
        seen = await self._write(
            call, params, lambda late: [self._sent(order, late) for order in orders], self._may_send
        )
        answers = tuple(self._sent(order, seen) for order in orders)
        for order, answer in zip(orders, answers, strict=True):
            if answer.outcome is Outcome.ACK:
                self._reader.expect(order.client_order_id)
        return answers

    async def cancel(self, order: Order) -> Answer:
        """Ask to cancel by client order id. REFUSED UNKNOWN_ORDER: not open any more, which may mean filled."""
        if (held := await self._held(calls.CANCEL, Priority.RESERVE)) is not None:
            return held
        params = {"symbol": order.symbol, "origClientOrderId": order.client_order_id}
        seen = await self._write(calls.CANCEL, params, lambda late: [self._sent(order, late)], self._may_protect)
        return self._cancelled(order, seen)

    async def replace(self, old: Order, new: Order) -> tuple[Answer, Answer]:
        """Cancel `old` and place `new` by one request (cancelReplace, STOP_ON_FAILURE)."""
        if wrong := mistake_in(new, self.capabilities.types):
            answer = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
            return answer, answer
        if (held := await self._held(calls.REPLACE, priority_of(new), 1)) is not None:
            return held, held
        params = order_params(new) | {
            "cancelReplaceMode": "STOP_ON_FAILURE",
            "cancelOrigClientOrderId": old.client_order_id,
        }
        seen = await self._write(
            calls.REPLACE, params, lambda late: list(self._replaced(old, new, late)), self._may_protect
        )
        return self._replaced(old, new, seen)

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Reduce an order in place (keepPriority); both legs of an OCO. ACK only when our id and the quantity came
        back."""
        if (held := await self._held(calls.AMEND, Priority.RESERVE)) is not None:
            return held
        name = order.client_order_id
        params = {
            "symbol": order.symbol,
            "origClientOrderId": name,
            "newClientOrderId": name,
            "newQty": plain(quantity),
        }
        # the stream brings what came too late
        seen = await self._write(calls.AMEND, params, lambda late: [], self._may_protect)
        amended: Any = seen.answer.get("amendedOrder") if seen.is_ok and isinstance(seen.answer, Mapping) else None
        is_amended = False
        with contextlib.suppress(KeyError, ValueError, TypeError, ArithmeticError):  # else the outcome is ambiguous
            is_amended = amended["clientOrderId"] == name and number_of(amended["qty"]) == quantity
        if is_amended:
            return Answer(Outcome.ACK, sent_ns=seen.wire.sent_ns)
        verdict = classify(seen.wire, seen.error, is_network=self.transport.is_network(seen.error))
        return as_answer(verdict, seen)

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return how long an order would wait for the venue's rate limit if it were submitted now."""
        return self._budget.wait_s(calls.PLACE.weight, priority, 1)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        """Ask for one order by our id. Only the venue's own "does not exist" is NOT_FOUND."""
        if self._refusal:
            return Lookup(Presence.NO_ANSWER, detail=self._refusal)
        if (wait_s := await self._turn_s(calls.QUERY)) > 0:
            return Lookup(Presence.NO_ANSWER, detail=f"the venue's rate limit has room in {wait_s:.1f} s")
        params = {"symbol": symbol, "origClientOrderId": client_order_id}
        seen = await self._call(calls.QUERY, params, self.config.read_timeout_s)
        detail = describe(seen.wire, seen.error)
        if seen.is_ok and isinstance(seen.answer, Mapping) and seen.answer.get("clientOrderId") == client_order_id:
            try:
                report = report_of(seen.answer, source="rest")
            except PeerError as error:
                return Lookup(Presence.NO_ANSWER, detail=str(error))
            self._note(report)
            return Lookup(Presence.FOUND, report)
        if seen.wire.code == NO_SUCH_ORDER and seen.wire.status is not None and 400 <= seen.wire.status < 500:
            return Lookup(Presence.NOT_FOUND, detail=detail)
        return Lookup(Presence.NO_ANSWER, detail=detail)

    async def open_orders(self) -> list[Report]:
        """Return every open order of the account, ours or not."""
        self._check_refusal("open orders")
        rows = await self._read_list(calls.OPEN_ORDERS, {}, "open orders")
        return [self._known(row) for row in rows]

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return the account's executions in `symbol` from `since_ns` on, oldest first, page by page to the end.

        `client_order_id` is whatever id the order has at the venue, ours or another's.
        """
        self._check_refusal("fills")
        if self._fills.identity is None:
            await self.identity()
        found: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {"symbol": symbol, "startTime": max(since_ns, 0) // 1_000_000, "limit": PAGE}
        while True:
            page = await self._read_list(calls.TRADES, params, "fills")
            found.extend(page)
            if len(page) < PAGE:
                break
            params = {"symbol": symbol, "fromId": int(page[-1]["id"]) + 1, "limit": PAGE}
        await self._learn_ids(symbol, {str(row["orderId"]) for row in found})
        try:
            return [self._fills.from_history(row, self._ids.get((symbol, str(row["orderId"])))) for row in found]
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error

    async def balances(self) -> dict[str, Balance]:
        """Return what the venue holds for us, by currency; currencies with nothing are left out."""
        answer = await self._read(calls.ACCOUNT, {"omitZeroBalances": True}, "balances")
        try:
            rows = balances_of(answer["balances"])
        except (PeerError, KeyError, TypeError) as error:
            raise OutageError(f"{self.name}: balances cannot be read ({error})") from error
        return {row.currency: row for row in rows if row.total}

    async def identity(self) -> VenueIdentity:
        """Return the owner of the keys, read again; executions are named after it unless one was admitted."""
        answer = await self._read(calls.ACCOUNT, {"omitZeroBalances": True}, "account")
        try:
            found = identity_of(answer, self.config.rest_url)
        except (PeerError, AttributeError) as error:
            raise OutageError(f"{self.name}: whose account it is cannot be read ({error})") from error
        self._fills.identity = self._fills.identity or found
        return found

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal; executions are named after `identity` from now on."""
        self._refusal, self._fills.identity = "", identity

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        """Return credited deposits, and withdrawals from their request on, oldest first; at most of the last 89 days.

        A test network has no such list: nothing is returned.
        """
        self._check_refusal("transfers")
        known = self._fills.identity or await self.identity()
        if known.environment is Environment.TEST:
            return []
        since_ms = max(since_ns, self._clock.now_ns() - _TRANSFERS_NS) // 1_000_000
        params = {"startTime": since_ms, "limit": PAGE}
        deposits = await self._read_list(calls.DEPOSITS, params, "deposits")
        withdrawals = await self._read_list(calls.WITHDRAWALS, params, "withdrawals")
        try:
            found = deposits_of(deposits) + withdrawals_of(withdrawals)
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error
        return sorted(found, key=lambda item: item.time_ns)

    async def skew_ms(self) -> float:
        """Return venue time minus ours in milliseconds, half the round trip taken out, and sign with it from now on."""
        before = self._clock.now_ns()
        answer = await self._read(calls.TIME, {}, "time")
        after = self._clock.now_ns()
        try:
            skew = int(answer["serverTime"]) - (before + after) / 2e6
        except (KeyError, TypeError, ValueError) as error:
            raise OutageError(f"{self.name}: the time cannot be read ({error})") from error
        self.transport.skew_ms = round(skew)
        return float(skew)

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return the last traded price, or None when the venue has none, or does not list the market."""
        seen = await self._fetch(calls.PRICE, {"symbol": symbol}, "last price")
        if seen.wire.code == UNKNOWN_SYMBOL:
            return None
        answer = self._answer_in(seen, "last price")
        try:
            return number_of(answer["price"])
        except (KeyError, ValueError, TypeError, ArithmeticError):
            return None

    async def events(self) -> AsyncIterator[VenueEvent]:
        """Yield what the venue pushes, for ever. One reader; the first starts the user stream."""
        if not self._is_streaming:
            self._is_streaming = True
            self.transport.stream(self._reader, self._queue.put)
        async for event in self._queue.read():
            yield event

    def on_bar(self, bar: Bar) -> None:
        """Ignore market data: this venue has its own."""

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    async def _begin(self, call: VenueCall, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        return await self.transport.begin(call, params, wire)

    def _suspect(self) -> None:
        self.transport.suspect()

    def _cancelled(self, order: Order, seen: CallResult) -> Answer:
        """Return what a cancel of `order` came to."""
        if seen.wire.code == UNKNOWN_ORDER and seen.wire.status is not None and 400 <= seen.wire.status < 500:
            detail, sent_ns = describe(seen.wire, seen.error), seen.wire.sent_ns
            return replace(refused("UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER, detail), sent_ns=sent_ns)
        return self._sent(order, seen)

    def _replaced(self, old: Order, new: Order, seen: CallResult) -> tuple[Answer, Answer]:
        """Return what a cancelReplace came to, for each order: its answer has both outcomes, and so has its error when
        one of them failed (−2021, −2022). An error without them is about both."""
        error = seen.wire.payload.get("data") if isinstance(seen.wire.payload, Mapping) else None
        both = seen.answer if seen.is_ok else error
        if not isinstance(both, Mapping) or "cancelResult" not in both:
            return self._sent(old, seen), self._sent(new, seen)
        ended = self._cancelled(old, _half(seen, both.get("cancelResult"), both.get("cancelResponse")))
        if both.get("newOrderResult") == "NOT_ATTEMPTED" and ended.outcome is not Outcome.ACK:
            detail, refusal = f"not attempted: {ended.detail}", ended.refusal or Refusal.OTHER
            return ended, replace(refused("NOT_ATTEMPTED", refusal, detail), sent_ns=seen.wire.sent_ns)
        return ended, self._sent(new, _half(seen, both.get("newOrderResult"), both.get("newOrderResponse")))

    def _sent(self, order: Order, seen: CallResult) -> Answer:
        """Return what a send or cancel of `order` came to."""
        info = _part_about(order.client_order_id, seen.answer) if seen.is_ok else None
        if info is None or not info.get("orderId"):
            verdict = classify(seen.wire, seen.error, is_network=self.transport.is_network(seen.error))
            if verdict.outcome is not Outcome.REFUSED:
                self._log.warning(
                    "venue.unclear", venue=self.name, client_order_id=order.client_order_id, detail=verdict.detail
                )
            return as_answer(verdict, seen)
        try:
            report = report_of(info, source="rest", client_order_id=order.client_order_id)
            fills = self._fills.from_answer(info, order.client_order_id)
        except PeerError as error:
            return Answer(Outcome.AMBIGUOUS, detail=str(error), sent_ns=seen.wire.sent_ns)
        self._note(report)
        if difference := difference_between(order, report):
            self._log.error(
                "venue.order_differs", venue=self.name, client_order_id=order.client_order_id, detail=difference
            )
        return Answer(Outcome.ACK, report, fills, detail=difference, sent_ns=seen.wire.sent_ns)

    async def _read(self, call: VenueCall, params: Mapping[str, Any], what: str) -> Any:
        return self._answer_in(await self._fetch(call, params, what), what)

    async def _fetch(self, call: VenueCall, params: Mapping[str, Any], what: str) -> CallResult:
        if (wait_s := await self._turn_s(call)) > 0:
            raise OutageError(f"{self.name}: {what}: the venue's rate limit has room in {wait_s:.1f} s")
        return await self._call(call, params, self.config.read_timeout_s)

    def _answer_in(self, seen: CallResult, what: str) -> Any:
        if not seen.is_ok or not isinstance(seen.answer, Mapping | list):
            kind = KeyRefusedError if seen.wire.code in _KEY_REFUSED else OutageError
            raise kind(f"{self.name}: {what}: {describe(seen.wire, seen.error)}")
        return seen.answer

    async def _rights(self) -> KeyRights:
        answer = await self._read(calls.RIGHTS, {}, "key permissions")
        found = answer if isinstance(answer, Mapping) else {}
        rights = (found.get(name) for name in ("enableWithdrawals", "ipRestrict"))
        return KeyRights(*(value if isinstance(value, bool) else None for value in rights))

    def _sign_with(self, config: SessionConfig) -> None:
        self.transport.use_key(config)

    async def _read_list(self, call: VenueCall, params: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
        rows = await self._read(call, params, what)
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise OutageError(f"{self.name}: {what}: the answer is no list of objects")
        return rows

    def _known(self, row: Mapping[str, Any]) -> Report:
        try:
            report = report_of(row, source="rest")
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error
        self._note(report)
        return report

    def _note(self, report: Report) -> None:
        if report.venue_order_id is not None:
            self._ids[(report.symbol, report.venue_order_id)] = report.client_order_id
            self._ids.move_to_end((report.symbol, report.venue_order_id))
            while len(self._ids) > _IDS_MAX:
                self._ids.popitem(last=False)

    async def _learn_ids(self, symbol: str, wanted: set[str]) -> None:
        """Learn the client ids of orders we only know by the venue's number: history rows do not carry them."""
        missing = sorted(int(number) for number in wanted if (symbol, number) not in self._ids)
        while missing:
            params = {"symbol": symbol, "orderId": missing[0], "limit": PAGE}
            rows = await self._read_list(calls.ALL_ORDERS, params, "orders")
            for row in rows:
                self._known(row)
            last = int(rows[-1]["orderId"]) if rows else missing[-1]
            missing = [number for number in missing if number > last] if len(rows) == PAGE else []


def _half(seen: CallResult, result: object, response: object) -> CallResult:
    """Return one half of a cancelReplace's answer as if it had been a request of its own."""
    if result == "SUCCESS":
        return CallResult(replace(seen.wire, status=200), response, None)
    is_error = result == "FAILURE" and isinstance(response, Mapping)
    wire = replace(seen.wire, status=400 if is_error else seen.wire.status, payload=response if is_error else None)
    return CallResult(wire, None, seen.error)


def _part_about(client_order_id: str, answer: Any) -> Mapping[str, Any] | None:
    """Return the order object about our order: the answer itself, or its part in an order list's answer."""
    if not isinstance(answer, Mapping):
        return None
    for part in answer.get("orderReports") or (answer,):
        if isinstance(part, Mapping) and client_order_id in (part.get("clientOrderId"), part.get("origClientOrderId")):
            return part
    return None
