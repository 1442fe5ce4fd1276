"""Calls of a venue session, whatever the venue: each sent once, none cut in two, none without the rate limit."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fks.clock import Clock
from fks.model.codes import Code
from fks.model.errors import ConfigError, KeyRefusedError, OutageError
from fks.model.order import Answer, Order, OrderType, Refusal, Report
from fks.model.ports import KeyRights, Log, Priority, VenueBudget
from fks.trading.venues.base import READ_WAIT_S, EventQueue, PauseOnly, hold_back, refused
from fks.trading.venues.binance.classify import GATE_STATUSES, CallCourse, Classification
from fks.trading.venues.binance.config import SessionConfig


class WeightedCall(Protocol):
    """A call of a venue's API. `weight`: its part of the request limit."""

    @property
    def weight(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call: its course on the wire, the value that the transport returned, the exception."""

    wire: CallCourse
    answer: Any
    error: BaseException | None

    @property
    def is_ok(self) -> bool:
        return self.error is None and self.wire.status is not None and self.wire.status < 300


class CallingVenue(ABC):
    """The part of a venue that makes calls.

    A call comes to a value within its timeout. When the caller is cancelled while bytes are on their way, the call is
    not cut: CancelledError goes up at once and the late answer, if one comes, appears among the events. `may_send` (the
    lease) is asked right before a send's first byte, `may_protect` for what opens no position (None: as `may_send`).
    """

    def __init__(
        self,
        config: SessionConfig,
        clock: Clock,
        log: Log,
        may_send: Callable[[], bool] | None,
        budget: VenueBudget | None,
        may_protect: Callable[[], bool] | None,
    ) -> None:
        self.name = config.name
        self.config = config
        self._clock = clock
        self._log = log
        self._may_send, self._may_protect = may_send, may_protect or may_send
        self._budget = budget or PauseOnly(clock)
        self._queue = EventQueue()
        self._calls: set[asyncio.Future[Any]] = set()
        self._refusal = ""
        self.rights = KeyRights()  # of the key in use, as read last

    @abstractmethod
    async def _rights(self) -> KeyRights:
        """Ask for the rights of the key. Errors: KeyRefusedError, OutageError."""

    @abstractmethod
    def _sign_with(self, config: SessionConfig) -> None:
        """Sign with the key of this configuration from now on."""

    @abstractmethod
    async def _begin(self, call: Any, params: Mapping[str, Any], wire: CallCourse) -> asyncio.Future[Any]:
        """Send the call once and return the future of its answer; never raises for the network."""

    @abstractmethod
    def _suspect(self) -> None:
        """Look whether the connection lives: a call was not answered in time."""

    @property
    def key_fault(self) -> str:
        """Return why the key may send no entry, "" if it may: it may withdraw, or with real money that is not known."""
        if self.rights.may_withdraw:
            return "the API key may withdraw"
        if self.config.is_live and self.rights.may_withdraw is None:
            return "the venue did not say whether the API key may withdraw"
        return ""

    async def read_rights(self) -> KeyRights:
        """Ask the exchange for the rights of the key in use. Errors: KeyRefusedError, OutageError."""
        self.rights = await self._rights()
        return self.rights

    def use_key(self, api_key: str, api_secret: str) -> None:
        """Sign with this key from now on; requests that are on their way keep the one before."""
        self.config = replace(self.config, api_key=api_key, api_secret=api_secret)
        self.rights = KeyRights()
        self._sign_with(self.config)

    async def _check_key(self) -> None:
        """Read the rights of a live key. A key that was in use goes on, without entries: what is held must be closed.

        Errors: ConfigError when another one may withdraw, OutageError when that cannot be found out.
        """
        try:
            await self.read_rights()
        except OutageError as error:
            if not self.config.is_key_in_use or isinstance(error, KeyRefusedError):
                raise
            self._log.warning("venue.unreachable", venue=self.name, detail=str(error))
        if self.key_fault and not self.config.is_key_in_use:
            raise ConfigError(
                f"the API key of venue {self.name!r} may withdraw, or does not say that it may not",
                remedy="make a key without the withdrawal right; FKS does not start live with one that has it",
            )

    def refuse(self, reason: str) -> None:
        """Send nothing and answer no read of orders, executions or transfers until `admit`."""
        self._refusal = reason

    async def _end_calls(self) -> None:
        """End all calls that are under way."""
        pending = list(self._calls)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _write(
        self,
        call: WeightedCall,
        params: Mapping[str, Any],
        read_late: Callable[[CallResult], list[Answer]],
        may_leave: Callable[[], bool] | None,
    ) -> CallResult:
        def publish(late: CallResult) -> None:
            for answer in read_late(late):
                for fill in answer.fills:
                    self._queue.put(fill)
                if answer.report is not None:
                    self._queue.put(answer.report)

        wire = CallCourse(may_leave=may_leave, now_ns=self._clock.now_ns)
        return await self._call(call, params, self.config.order_timeout_s, on_late=publish, wire=wire)

    async def _call(
        self,
        call: WeightedCall,
        params: Mapping[str, Any],
        timeout_s: float,
        on_late: Callable[[CallResult], None] | None = None,
        wire: CallCourse | None = None,
    ) -> CallResult:
        """Make one call. Neither a timeout nor the caller's end cuts bytes in two: a late answer is published."""
        wire = wire or CallCourse()
        wire.sent_s = self._clock.monotonic()
        task = await self._begin(call, params, wire)
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
            self._suspect()
            return CallResult(wire, None, TimeoutError(f"no answer within {timeout_s} s"))
        return self._seen(wire, task)

    def _seen(self, wire: CallCourse, task: asyncio.Future[Any]) -> CallResult:
        error = OutageError("the session was closed") if task.cancelled() else task.exception()
        self._budget.seen(wire.used_weight, wire.used_orders, sent_s=wire.sent_s)
        if wire.status in GATE_STATUSES and wire.retry_after_s is not None:
            self._budget.pause(wire.retry_after_s, wire.status)
            self._log.warning(
                "venue.rate_limited", venue=self.name, status=wire.status, retry_after_s=wire.retry_after_s
            )
        return CallResult(wire, None if error else task.result(), error)

    def _check_refusal(self, what: str) -> None:
        if self._refusal:
            raise OutageError(f"{self.name}: {what}: {self._refusal}")

    async def _held(self, call: WeightedCall, priority: Priority, orders: int = 0) -> Answer | None:
        """Return our refusal when the session is refused, or the venue's rate limit is used up."""
        if self._refusal:
            return refused(Code.ACCOUNT_UNKNOWN, Refusal.NOT_SENT, f"nothing was sent: {self._refusal}")
        return await hold_back(self._budget, call.weight, priority, orders)

    async def _turn_s(self, call: WeightedCall) -> float:
        """Take a read's weight from the rate limit; return the wait when it is too long, else 0."""
        return await self._budget.take(call.weight, Priority.READ, wait_max_s=READ_WAIT_S)


def as_answer(verdict: Classification, seen: CallResult) -> Answer:
    """Return the answer to a call that did not succeed."""
    return Answer(
        verdict.outcome,
        code=verdict.code,
        detail=verdict.detail,
        retry_after_s=verdict.retry_after_s,
        refusal=verdict.refusal,
        sent_ns=seen.wire.sent_ns,
    )


def difference_between(order: Order, report: Report) -> str:
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
