"""The venue port over a ccxt session: every send once, every outcome a value, every read answered or an OutageError."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from fks.clock import Clock
from fks.model.account import Balance
from fks.model.bar import Bar
from fks.model.codes import Code
from fks.model.errors import ConfigError, OutageError, PeerError
from fks.model.order import Answer, Fill, Lookup, Order, OrderType, Outcome, Presence, Report, TimeInForce
from fks.model.ports import Capabilities, Log, VenueEvent
from fks.venues.base import EventQueue, mistake_in, refused
from fks.venues.ccxt.classify import (
    GATE_STATUSES,
    NO_SUCH_ORDER,
    UNKNOWN_ORDER,
    Wire,
    classify,
    describe,
)
from fks.venues.ccxt.config import CcxtConfig
from fks.venues.ccxt.dialect import TYPES, FillReader, balances_of, oco_params, order_params, report_of
from fks.venues.ccxt.library import ccxt
from fks.venues.ccxt.session import BinanceSession, on_wire
from fks.venues.ccxt.stream import UserStream

_IDS_MAX = 20_000
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Seen:
    """One call: what was on the wire, what ccxt returned, what was raised."""

    wire: Wire
    answer: Any
    error: BaseException | None

    @property
    def is_ok(self) -> bool:
        return self.error is None and self.wire.status is not None and self.wire.status < 300


class CcxtVenue:
    """Orders out over ccxt's Binance (real or local). One object per (venue, account, role).

    A submit or cancel always comes to a value within `order_timeout_s`. When the caller is cancelled while bytes are
    on their way, the call is not cut: CancelledError goes up at once (the order is then UNKNOWN, §6.1) and the late
    answer, if one comes, appears among `events()`. The user stream starts with the first `events()` reader.
    `may_send` (the lease) is asked right before a send's or a cancel's first byte: when it says no the answer is REFUSED
    NOT_LEADER and nothing left.
    """

    capabilities = Capabilities(
        types=frozenset(TYPES),
        times_in_force=frozenset(TimeInForce),
        has_oco=True,
        can_short=False,
        fee_in_received_asset=True,
    )

    def __init__(self, config: CcxtConfig, clock: Clock, log: Log, may_send: Callable[[], bool] | None = None) -> None:
        self.name = config.name
        self._config = config
        self._clock = clock
        self._log = log
        self._may_send = may_send
        self._session = BinanceSession(config, clock)
        self._fills = FillReader(venue=config.name, account_id=config.account_id)
        self._queue = EventQueue()
        self._ids: OrderedDict[tuple[str, str], str] = OrderedDict()  # (symbol, venue order id) -> client order id
        self._calls: set[asyncio.Task[Any]] = set()
        self._stream: UserStream | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._blocked_until = 0.0

    async def open(self) -> None:
        """Make the session ready and compare clocks. A venue that is down is no error here: reads will say so.

        Errors: ConfigError when a live key may withdraw, OutageError when that cannot be found out.
        """
        await self._session.connect()
        try:
            await self.skew_ms()
        except OutageError as error:
            self._log.warning("venue.unreachable", venue=self.name, detail=str(error))
        if self._config.is_live:
            rights = await self._read("sapi_get_account_apirestrictions", {}, "key permissions")
            if not isinstance(rights, Mapping) or rights.get("enableWithdrawals") is not False:
                raise ConfigError(
                    f"the API key of venue {self.name!r} may withdraw, or does not say that it may not",
                    remedy="make a key without the withdrawal right; FKS does not start live with one that has it",
                )

    async def close(self) -> None:
        """End the stream and all calls. Nothing can be sent afterwards."""
        tasks = [*self._calls, *([self._streaming] if self._streaming else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stream = self._streaming = None
        await self._session.disconnect()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Write the order's bytes once. ACK only when id and our client id came back; §6.1 decides the rest."""
        if wrong := mistake_in(order, self.capabilities.types):
            return refused(Code("CLIENT_VALIDATION"), wrong)
        if (held := self._held()) is not None:
            return held
        seen = await self._write("private_post_order", order_params(order), lambda late: [self._sent(order, late)])
        answer = self._sent(order, seen)
        if answer.outcome is Outcome.ACK and self._stream is not None:
            self._stream.expect(order.client_order_id)
        return answer

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Submit stop and limit as one native OCO: both exist or neither does."""
        wrong = mistake_in(stop, frozenset({OrderType.STOP, OrderType.STOP_LIMIT})) or mistake_in(
            limit, frozenset({OrderType.LIMIT, OrderType.TAKE_PROFIT})
        )
        if not wrong and (stop.symbol, stop.side, stop.quantity) != (limit.symbol, limit.side, limit.quantity):
            wrong = "the legs of an OCO need one symbol, side and quantity"
        if wrong:
            answer = refused(Code("CLIENT_VALIDATION"), wrong)
            return answer, answer
        if (held := self._held()) is not None:
            return held, held
        legs = (stop, limit)
        seen = await self._write(
            "private_post_orderlist_oco", oco_params(stop, limit), lambda late: [self._sent(leg, late) for leg in legs]
        )
        return self._sent(stop, seen), self._sent(limit, seen)

    async def cancel(self, order: Order) -> Answer:
        """Ask to cancel by client order id. REFUSED UNKNOWN_ORDER: not open any more, which may mean filled."""
        if (held := self._held()) is not None:
            return held
        params = {"symbol": order.symbol, "origClientOrderId": order.client_order_id}
        seen = await self._write("private_delete_order", params, lambda late: [self._sent(order, late)])
        if seen.wire.code == UNKNOWN_ORDER and seen.wire.status is not None and 400 <= seen.wire.status < 500:
            return refused("UNKNOWN_ORDER", describe(seen.wire, seen.error))
        return self._sent(order, seen)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str) -> Lookup:
        """Ask for one order by our id. Only the venue's own "does not exist" is NOT_FOUND."""
        if self._wait_s() > 0:
            return Lookup(Presence.NO_ANSWER, detail=f"the venue asked us to wait {self._wait_s():.1f} s")
        params = {"symbol": symbol, "origClientOrderId": client_order_id}
        seen = await self._call("private_get_order", params, self._config.read_timeout_s)
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
        rows = await self._read_list("private_get_openorders", {}, "open orders")
        return [self._known(row) for row in rows]

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return the account's executions in `symbol` from `since_ns` on, oldest first, page by page to the end.

        `client_order_id` is whatever id the order has at the venue, ours or another's.
        """
        found: list[Mapping[str, Any]] = []
        params: dict[str, Any] = {"symbol": symbol, "startTime": max(since_ns, 0) // 1_000_000, "limit": _PAGE}
        while True:
            page = await self._read_list("private_get_mytrades", params, "fills")
            found.extend(page)
            if len(page) < _PAGE:
                break
            params = {"symbol": symbol, "fromId": int(page[-1]["id"]) + 1, "limit": _PAGE}
        await self._learn_ids(symbol, {str(row["orderId"]) for row in found})
        try:
            return [self._fills.from_history(row, self._ids.get((symbol, str(row["orderId"])))) for row in found]
        except PeerError as error:
            raise OutageError(f"{self.name}: {error}") from error

    async def balances(self) -> dict[str, Balance]:
        """Return what the venue holds for us, by currency; currencies with nothing are left out."""
        answer = await self._read("private_get_account", {"omitZeroBalances": "true"}, "balances")
        try:
            rows = balances_of(answer["balances"])
        except (PeerError, KeyError, TypeError) as error:
            raise OutageError(f"{self.name}: balances cannot be read ({error})") from error
        return {row.currency: row for row in rows if row.total}

    async def skew_ms(self) -> float:
        """Return venue time minus ours in milliseconds, half the round trip taken out, and sign with it from now on."""
        before = self._clock.now_ns()
        answer = await self._read("public_get_time", {}, "time")
        after = self._clock.now_ns()
        try:
            skew = int(answer["serverTime"]) - (before + after) / 2e6
        except (KeyError, TypeError, ValueError) as error:
            raise OutageError(f"{self.name}: the time cannot be read ({error})") from error
        self._session.options["timeDifference"] = round(-skew)
        return float(skew)

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return the last traded price, or None when the venue has none."""
        answer = await self._read("public_get_ticker_price", {"symbol": symbol}, "last price")
        try:
            return Decimal(str(answer["price"]))
        except (KeyError, TypeError, InvalidOperation):
            return None

    async def events(self) -> AsyncIterator[VenueEvent]:
        """Yield what the venue pushes, for ever. One reader; the first starts the user stream."""
        if self._stream is None:
            self._stream = UserStream(
                self._session, self._config, self._clock, self._log,
                sink=self._queue.put, fills=self._fills, note=self._note,
            )  # fmt: skip
            self._streaming = asyncio.create_task(self._stream.run(), name=f"{self.name} user stream")
        async for event in self._queue.read():
            yield event

    def on_bar(self, bar: Bar) -> None:
        """Ignore market data: this venue has its own."""

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    def _sent(self, order: Order, seen: _Seen) -> Answer:
        """Return what a send or cancel of `order` came to."""
        info = _part_about(order.client_order_id, seen.answer) if seen.is_ok else None
        if info is None or not info.get("orderId"):
            verdict = classify(seen.wire, seen.error, is_network=isinstance(seen.error, ccxt.NetworkError | OSError))
            if verdict.outcome is not Outcome.REFUSED:
                self._log.warning(
                    "venue.unclear", venue=self.name, client_order_id=order.client_order_id, detail=verdict.detail
                )
            return Answer(
                verdict.outcome, code=verdict.code, detail=verdict.detail, retry_after_s=verdict.retry_after_s
            )
        try:
            report = report_of(info, source="rest", client_order_id=order.client_order_id)
            fills = self._fills.from_answer(info, order.client_order_id)
        except PeerError as error:
            return Answer(Outcome.AMBIGUOUS, detail=str(error))
        self._note(report)
        if difference := _difference(order, report):
            self._log.error(
                "venue.order_differs", venue=self.name, client_order_id=order.client_order_id, detail=difference
            )
        return Answer(Outcome.ACK, report, fills, detail=difference)

    async def _write(self, call: str, params: dict[str, str], read_late: Callable[[_Seen], list[Answer]]) -> _Seen:
        def publish(late: _Seen) -> None:
            for answer in read_late(late):
                for fill in answer.fills:
                    self._queue.put(fill)
                if answer.report is not None:
                    self._queue.put(answer.report)

        wire = Wire(may_leave=self._may_send)
        return await self._call(call, params, self._config.order_timeout_s, on_late=publish, wire=wire)

    async def _call(
        self, call: str, params: Mapping[str, Any], timeout_s: float, on_late: Callable[[_Seen], None] | None = None,
        wire: Wire | None = None,
    ) -> _Seen:  # fmt: skip
        """Make one HTTP call in a task of its own, so that neither a timeout nor the caller's end cuts bytes in two."""
        wire = wire or Wire()
        method = getattr(self._session, call)
        task = asyncio.create_task(on_wire(wire, lambda: method(dict(params))))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

        def leave() -> None:
            if wire.bytes_left and on_late is not None:
                task.add_done_callback(lambda ended: None if ended.cancelled() else on_late(self._seen(wire, ended)))
            else:  # nothing left, or a read: it may be cut
                task.cancel()

        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            leave()
            raise
        if not done:
            leave()
            return _Seen(wire, None, TimeoutError(f"no answer within {timeout_s} s"))
        return self._seen(wire, task)

    def _seen(self, wire: Wire, task: asyncio.Task[Any]) -> _Seen:
        error = OutageError("the session was closed") if task.cancelled() else task.exception()
        if wire.status in GATE_STATUSES and wire.retry_after_s is not None:
            self._blocked_until = max(self._blocked_until, self._clock.monotonic() + wire.retry_after_s)
            self._log.warning(
                "venue.rate_limited", venue=self.name, status=wire.status, retry_after_s=wire.retry_after_s
            )
        return _Seen(wire, None if error else task.result(), error)

    def _wait_s(self) -> float:
        return self._blocked_until - self._clock.monotonic()

    def _held(self) -> Answer | None:
        """Return our no while the venue's Retry-After runs: another request would only lengthen the ban."""
        wait_s = self._wait_s()
        if wait_s <= 0:
            return None
        return Answer(
            Outcome.REFUSED, code=str(Code("RATE_VENUE")), retry_after_s=wait_s,
            detail=f"nothing was sent: the venue asked us to wait {wait_s:.1f} s",
        )  # fmt: skip

    async def _read(self, call: str, params: Mapping[str, Any], what: str) -> Any:
        if (wait_s := self._wait_s()) > 0:
            raise OutageError(f"{self.name}: {what}: the venue asked us to wait {wait_s:.1f} s")
        seen = await self._call(call, params, self._config.read_timeout_s)
        if not seen.is_ok or not isinstance(seen.answer, Mapping | list):
            raise OutageError(f"{self.name}: {what}: {describe(seen.wire, seen.error)}")
        return seen.answer

    async def _read_list(self, call: str, params: Mapping[str, Any], what: str) -> list[Mapping[str, Any]]:
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
            params = {"symbol": symbol, "orderId": missing[0], "limit": _PAGE}
            rows = await self._read_list("private_get_allorders", params, "orders")
            for row in rows:
                self._known(row)
            last = int(rows[-1]["orderId"]) if rows else missing[-1]
            missing = [number for number in missing if number > last] if len(rows) == _PAGE else []


def _part_about(client_order_id: str, answer: Any) -> Mapping[str, Any] | None:
    """Return the order object about our order: the answer itself, or its part in an order list's answer."""
    if not isinstance(answer, Mapping):
        return None
    for part in answer.get("orderReports") or (answer,):
        if isinstance(part, Mapping) and client_order_id in (part.get("clientOrderId"), part.get("origClientOrderId")):
            return part
    return None


def _difference(order: Order, report: Report) -> str:
    """Return how the venue's order differs from what we meant, or nothing."""
    wrong = []
    if report.quantity is not None and report.quantity != order.quantity:
        wrong.append(f"quantity {report.quantity} instead of {order.quantity}")
    if (
        report.price is not None
        and order.price is not None
        and order.type is not OrderType.MARKET
        and report.price != order.price
    ):
        wrong.append(f"price {report.price} instead of {order.price}")
    if report.side is not None and report.side is not order.side:
        wrong.append(f"side {report.side.value} instead of {order.side.value}")
    return ", ".join(wrong)
