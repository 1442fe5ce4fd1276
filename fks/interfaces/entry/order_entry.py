"""Order entry for persons and programs: an order request becomes a signal row, and the answer is its outcome.

Accepted means committed: the answer is given after the row is on disk, and the order manager is only woken, never
called. The same idempotency key with the same body is the same request; with another body it is refused.

A request without a key gets one: the key of the caller's request with the same body within DERIVED_S, or a new one. It
is claimed in a row before the signal is committed, so a repeat at another replica, or after this one was killed between
the two, commits the same signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.routing import OrderRouter
from fks.model.account import keeps_bracket
from fks.model.backoff import Backoff
from fks.model.codes import Code
from fks.model.copies import LEADER, is_ninja
from fks.model.errors import InputError, OutageError, conflict, not_found, unprocessable
from fks.model.futures import check_entry, contract_of
from fks.model.ids import client_order_id, copy_signal_id, intent_id, request_signal_id
from fks.model.order import TERMINAL, Order, OrderType, Role, Side, State, TimeInForce
from fks.model.parent import TARGETS_MAX, BreakEven, ParentPlan, ProfitTarget, plan_json
from fks.model.signal import AGENT, KEY, Kind, Signal, SignalState
from fks.model.timeframe import NS, iso, to_ns
from fks.model.untrusted import decimal_of, shown
from fks.store.accounts import AccountStore
from fks.store.bus import SIGNALS, WAKE, Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.positions import PositionStore
from fks.store.signals import EndRequest, SignalRecord, SignalStore, signal_message
from fks.trading.portfolio.position import is_shared
from fks.trading.risk.exits import Books, closable

#: Seconds from the first request without a key in which the same body of the same caller is the same order.
DERIVED_S = 10.0
#: Seconds in which a person may approve a proposal without `valid_until`, and the most that one may ask for.
PROPOSAL_S, PROPOSAL_MAX_S = 3600.0, 86400.0
_POLL = Backoff(0.005, 0.1)
_DIGITS_MAX = 40
_KEY_MAX = 200
_OFFSET_TICKS_MAX = 100_000
_YEAR_MIN = 1971
_TYPES = {
    "market": OrderType.MARKET,
    "limit": OrderType.LIMIT,
    "stop": OrderType.STOP,
    "stop_limit": OrderType.STOP_LIMIT,
}
_NUMBERS = ("quantity", "price", "stop_price", "take_profit", "stop_loss")
_LABELS = ("strategy_id", "signal_id")
_REDUCE_ONLY, _FALLBACK = "reduce_only", "allow_fallback"
_PLAN = ("kind", "targets", "break_even")
_BRACKET = "bracket"
_TEXTS = ("account", "venue", "exchange", "symbol", "side", "type", "time_in_force", "valid_until", *_LABELS)
T = TypeVar("T")
Make = Callable[[str, str, int], Awaitable[Signal]]


class CommitUnknownError(OutageError):
    """The database went away while a signal was committed: it may be on disk."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A person's order request. Numbers are exact; `account` is a name or a number; enumerations may be plain text."""

    symbol: str
    side: Side | str
    type: OrderType | str
    quantity: Decimal
    price: Decimal | None = None
    stop_price: Decimal | None = None
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    time_in_force: TimeInForce | str = TimeInForce.GTC
    valid_until_ns: int | None = None
    account: str | int | None = None
    venue: str | None = None
    exchange: str | None = None
    strategy_id: str | None = None  # the caller's own names of what decided: kept with the signal, used for nothing
    signal_id: str | None = None
    reduce_only: bool = False  # denied REDUCE_ONLY unless it can only bring the position nearer to zero
    allow_fallback: bool = False  # an entry may go to another venue, before it is committed
    plan: ParentPlan | None = None  # of a bracket: its targets, and the move of its stop to break-even

    @staticmethod
    def parse(body: Mapping[str, object]) -> OrderRequest:
        """Return the request in a JSON body; numbers may be texts, ints or Decimals (parse_float=Decimal).

        Errors: InputError naming the field and a valid form.
        """
        body = _with_type(body)
        unknown = sorted(set(body) - set(_NUMBERS) - set(_TEXTS) - {_REDUCE_ONLY, _FALLBACK, *_PLAN})
        if unknown:
            fields = ", ".join((*_TEXTS, *_NUMBERS, _REDUCE_ONLY, _FALLBACK, *_PLAN))
            raise _bad(f"unknown field {shown(unknown[0])}", f"use {fields}", "FIELD_UNKNOWN")
        numbers = {name: positive(name, body.get(name)) for name in _NUMBERS}
        quantity = numbers.pop("quantity")
        if quantity is None:
            raise _bad("quantity is missing", "give a positive quantity in base", "QUANTITY")
        return OrderRequest(
            symbol=_text("symbol", body.get("symbol"), is_needed=True) or "",
            quantity=quantity,
            side=str(body.get("side")),
            type=str(body.get("type")),
            time_in_force=str(body.get("time_in_force") or TimeInForce.GTC.value),
            valid_until_ns=_moment(body.get("valid_until")),
            account=_text("account", body.get("account")),
            venue=_text("venue", body.get("venue")),
            exchange=_text("exchange", body.get("exchange")),
            strategy_id=_text("strategy_id", body.get("strategy_id")),
            signal_id=_text("signal_id", body.get("signal_id")),
            reduce_only=_truth(_REDUCE_ONLY, body.get(_REDUCE_ONLY)),
            allow_fallback=_truth(_FALLBACK, body.get(_FALLBACK)),
            plan=_plan_in(body, numbers["stop_loss"]),
            **numbers,
        ).checked()

    def checked(self) -> OrderRequest:
        """Return the request with its values checked and normalised. Errors: InputError."""
        numbers = {name: positive(name, getattr(self, name)) for name in _NUMBERS}
        kind = _one_of("type", self.type, _TYPES)
        for name, is_needed in (("price", kind in _WITH_PRICE), ("stop_price", kind in _WITH_STOP)):
            if is_needed and numbers[name] is None:
                raise _bad(f"{kind.value} needs {name}", f"give {name}", "PRICE")
            if not is_needed and numbers[name] is not None:
                raise _bad(f"{kind.value} takes no {name}", f"leave {name} out", "PRICE")
        times = {item.value: item for item in TimeInForce}
        side = _one_of("side", self.side, {item.value: item for item in Side})
        if self.allow_fallback and (self.account is not None or self.reduce_only):
            wrong = _REDUCE_ONLY if self.reduce_only else "an account"
            raise _bad(f"an order with {wrong} does not fall back", f"leave {_FALLBACK} out", "FALLBACK")
        plan, take_profit = self.plan, numbers["take_profit"]
        if plan is not None:
            # without targets it was read before: its one target is the take profit
            has_both = take_profit is not None and bool(plan.targets)
            check_plan(plan, side, has_take_profit=has_both, is_reducing=self.reduce_only)
            if len(plan.targets) == 1:  # an ordinary take profit, which a venue may hold from the start
                plan, take_profit = replace(plan, targets=()), plan.targets[0].price
            plan = None if plan.break_even is None and not plan.targets else plan
        return replace(
            self,
            plan=plan,
            take_profit=take_profit,
            symbol=_text("symbol", self.symbol, is_needed=True) or "",
            type=kind,
            side=side,
            time_in_force=_one_of("time_in_force", self.time_in_force, times),
            account=_text("account", self.account),
            venue=_text("venue", self.venue),
            exchange=_text("exchange", self.exchange),
            strategy_id=_text("strategy_id", self.strategy_id),
            signal_id=_text("signal_id", self.signal_id),
        )

    def labels(self) -> list[str]:
        """Return the caller's own names of what decided, for the reason of the signal."""
        named = (("strategy", self.strategy_id), ("signal", self.signal_id))
        return [f"{what} {name}" for what, name in named if name is not None]

    def body_hash(self) -> str:
        """Return a hash that is equal for equal requests."""
        plain = {name: value if value is None else _canonical(value) for name, value in asdict(self).items()}
        plain["plan"] = None if self.plan is None else json.dumps(plan_json(_normal(self.plan)))
        for name in ("exchange", _REDUCE_ONLY, _FALLBACK, "plan", *_LABELS):
            if not getattr(self, name):  # hashes of requests from before these fields existed stay the same
                del plain[name]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


_WITH_PRICE = (OrderType.LIMIT, OrderType.STOP_LIMIT)
_WITH_STOP = (OrderType.STOP, OrderType.STOP_LIMIT)


@dataclass(frozen=True, slots=True)
class EntryAnswer:
    """The answer: an HTTP status and a JSON-able body. `derived_key` is set when the request came without a key;
    `is_repeat` then shows whether it is the order of an earlier request."""

    status: int
    body: dict[str, Any]
    derived_key: str | None = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A request on its way to a signal. `make(principal, key, arrived_ns)` returns the signal; it is called only when
    none is committed under the key, so that what it looks up (a price) may have changed at a repeat.

    `body_hash` is equal for equal requests of one kind, however they spell the symbol; `former_hash` is that of the
    text as it was sent, which earlier versions kept. `accounts`: the numbers of those that the principal may trade,
    None for all; a signal of another account that has the key is a conflict."""

    principal: str
    body_hash: str
    arrived_ns: int
    make: Make
    trace_id: str = ""  # of the request; default one that is derived from the key
    accounts: Collection[int] | None = None
    former_hash: str = ""

    async def signal(self, key: str) -> Signal:
        """Return the signal under `key`, in the trace of its request."""
        made = await self.make(self.principal, key, self.arrived_ns)
        return replace(made, trace_id=self.trace_id) if self.trace_id else made


class OrderEntry:
    """Takes orders and cancels for a principal. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, settings: Settings) -> None:
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._router = OrderRouter(db, settings)
        self._accounts = AccountStore(db)
        self._signals = SignalStore(db)
        self._orders = OrderStore(db)
        self._positions = PositionStore(db)

    async def submit(
        self,
        request: OrderRequest,
        principal: str,
        idempotency_key: str | None,
        *,
        arrived_ns: int | None = None,
        accounts: Collection[int] | None = None,
        must_reduce: bool = False,
        trace_id: str = "",
        instance: str = "",
        wait_s: float | None = None,
    ) -> EntryAnswer:
        """Commit the request and wait up to `wait_s` for its order (default `http.order_wait_s`). Its age counts from
        `arrived_ns`, by default from now.

        `instance`: the one that the principal trades ("" = a person). `accounts`: the numbers of those that the
        principal may trade; None for all. `must_reduce`: take it only when it can only bring the position nearer to
        zero (`reducing`).

        The answer is 202 with the order, or with `state` null when the order manager has not decided yet, or when the
        database went away after the commit; 422 with the code when it was denied. Without a key the same request of
        `principal` within DERIVED_S is the same order.
        Errors: InputError (4xx) for unknown names, or a key used for another body (409); OutageError when it is not
        known whether it was committed: its remedy names the key to send.
        """
        request = request.checked()
        arrived_ns = self._clock.now_ns() if arrived_ns is None else arrived_ns
        made_of = replace(request, allow_fallback=False) if must_reduce else request
        make: Make = partial(self.signal_of, made_of, accounts=accounts, instance=instance)
        make = self.reducing(make) if must_reduce else make
        resolved = await self.resolved(request, accounts)
        draft = Draft(principal, resolved.body_hash(), arrived_ns, make, trace_id, accounts, request.body_hash())
        return await self.enter(draft, idempotency_key, wait_s=wait_s)

    async def propose(
        self,
        request: OrderRequest,
        agent: str,
        idempotency_key: str | None,
        *,
        rationale: str,
        arrived_ns: int,
        accounts: Collection[int] | None,
        trace_id: str,
    ) -> EntryAnswer:
        """Commit an agent's request as a signal that a person has to approve, for the instance of its own key.

        It expires at `valid_until`, at most PROPOSAL_MAX_S from `arrived_ns`. `rationale` is the agent's text for the
        person. The answer, keys and errors are those of `submit`.
        """
        request = replace(request.checked(), allow_fallback=False)  # the venue of a person's decision, not of now
        limit_ns = arrived_ns + int(PROPOSAL_MAX_S * NS)
        if request.valid_until_ns is not None and not arrived_ns < request.valid_until_ns <= limit_ns:
            raise _bad("valid_until is not within a day from now", "leave it out: a person has an hour", "VALID_UNTIL")

        async def make(principal: str, key: str, at_ns: int) -> Signal:
            signal = await self.signal_of(request, principal, key, at_ns, accounts=accounts, instance=KEY + agent)
            return replace(
                signal,
                source=AGENT + agent,
                state=SignalState.PENDING,
                valid_until_ns=request.valid_until_ns or at_ns + int(PROPOSAL_S * NS),
                reason=" ".join([f"proposed by the agent {agent}", *request.labels()])
                + (rationale and f": {rationale}"),
            )

        resolved = await self.resolved(request, accounts)
        draft = Draft(AGENT + agent, resolved.body_hash(), arrived_ns, make, trace_id, accounts, request.body_hash())
        return await self.enter(draft, idempotency_key, wait_s=0.0)

    async def resolved(self, request: OrderRequest, accounts: Collection[int] | None = None) -> OrderRequest:
        """Return the request with the symbol and the exchange of its instrument; as it is when it names none."""
        with contextlib.suppress(InputError):
            instrument = (await self._router.named(request, accounts)).instrument
            return replace(request, symbol=instrument.symbol, exchange=instrument.exchange)
        return request

    async def enter(self, draft: Draft, key: str | None, *, wait_s: float | None = None) -> EntryAnswer:
        """Commit the signal of `draft` under `key`, or under a derived one, and wait up to `wait_s` for its order
        (default `http.order_wait_s`). Errors: those of `submit`."""
        if key is None:
            return await self._enter_derived(draft, wait_s)
        if not key or len(key) > _KEY_MAX or "\x1f" in key:
            raise _bad(
                "no usable idempotency key", f"send 1 to {_KEY_MAX} characters as Idempotency-Key", "IDEMPOTENCY_KEY"
            )
        return await self._await_answer(await self._commit(draft, key), wait_s)

    async def _enter_derived(self, draft: Draft, wait_s: float | None) -> EntryAnswer:
        own = f"derived-{draft.body_hash[:16]}-{draft.arrived_ns}"
        signal = None
        try:
            key = await self._signals.derived_key(draft.principal, draft.body_hash, DERIVED_S)
            if key is None:
                signal = await self._made(draft, own)  # a wrong request claims no key
                key = await self._signals.claim_key(draft.principal, draft.body_hash, own, DERIVED_S)
        except OutageError as error:
            # the claim may be on disk, or that of an equal request may have been first: no key can be promised
            raise OutageError(
                f"{error.message}; nothing of this request was committed",
                remedy="send it again without an Idempotency-Key; when you sent the same order more than "
                f"{DERIVED_S:g} s ago, too, look at GET /orders first",
            ) from error
        try:
            record = await self._commit(draft, key, signal if key == own else None)
        except OutageError as error:
            remedy = f"try again in a moment, with the header Idempotency-Key: {key}"
            raise type(error)(error.message, remedy=remedy) from error
        answer = await self._await_answer(record, wait_s)
        named = {"idempotency_key": key, "is_repeat": key != own}
        return EntryAnswer(answer.status, answer.body | named, key, key != own)

    async def _commit(self, draft: Draft, key: str, signal: Signal | None = None) -> SignalRecord:
        """Return the record of the signal under `key`, committed now or before. Errors: those of `submit`."""
        signal_id = request_signal_id(draft.principal, key)
        record = await self._signals.get(signal_id)
        if record is None:
            signal = signal or await self._made(draft, key)
            try:
                is_new = bool(await self._signals.insert([signal], draft.body_hash))
            except OutageError as error:
                raise CommitUnknownError(error.message, remedy=error.remedy) from error
            if is_new:
                await self._wake(signal)
            record = await self._read_back(signal, draft.body_hash) if is_new else await self._signals.get(signal_id)
            assert record is not None
        is_others = draft.accounts is not None and record.signal.account_id not in draft.accounts
        # a name may be given again, bound to other accounts
        if record.body_hash not in (draft.body_hash, draft.former_hash) or is_others:
            raise conflict(
                "IDEMPOTENCY_CONFLICT",
                "this idempotency key was used for another order",
                "use a new key for a new order",
            )
        return record

    async def _made(self, draft: Draft, key: str) -> Signal:
        """Return the signal of `draft`, checked by `check_contract`. Errors: those of both."""
        signal = await draft.signal(key)
        await self.check_contract(signal, draft.arrived_ns)
        return signal

    @staticmethod
    async def check_contract(signal: Signal, now_ns: int) -> None:
        """Refuse an entry at NinjaTrader in a past contract, before a missing price is the reason of its denial.

        Errors: InputError CONTRACT_EXPIRED, naming the current contract."""
        if is_ninja(signal.venue) and not signal.is_exit and not signal.is_reduce_only:
            await _check_contract(signal.symbol, now_ns)

    async def _read_back(self, signal: Signal, body_hash: str) -> SignalRecord:
        """Return the record of a signal that was committed just now; as it was sent while the database is away."""
        with contextlib.suppress(OutageError):
            record = await self._signals.get(signal.id)
            assert record is not None
            return record
        return SignalRecord(signal, 0, None, None, None, None, None, body_hash, self._clock.now_ns())

    async def cancel(self, client_order_id: str, principal: str) -> EntryAnswer:
        """Request the cancel of an order; of an exit's order, that ends the exit, also between two attempts.

        The answer is 202 with the order; 409 when it has ended, and its exit too; 404 when there is none.
        """
        order = await self._orders.get(client_order_id)
        if order is None:
            raise not_found("ORDER_UNKNOWN", f"unknown order {client_order_id!r}", "see `fks orders list`")
        if order.parent_id is not None and keeps_bracket(order.venue):
            raise conflict(
                "LEG_KEPT",
                f"order {client_order_id} is a stop or target that {order.venue} keeps by itself",
                "exit the position, or move the leg at the platform",
            )
        request = None
        if order.role is Role.EXIT and order.signal_id is not None:
            now_ns = self._clock.now_ns()
            request = await self._signals.request_end(order.signal_id, by=principal, now_ns=now_ns)
        if order.state in TERMINAL and request is None:
            raise self._ended(f"order {client_order_id} has ended: {order.state.value}")
        asked = await self._orders.want_cancel(client_order_id, by=principal, now_ns=self._clock.now_ns())
        await self._bus.publish(WAKE, {"type": "cancel", "client_order_id": client_order_id})
        body = order_body(asked or order)
        if request is not None:
            end = await self._await_end(request)
            if end.error is not None and order.state in TERMINAL:
                raise self._ended(f"order {client_order_id} has ended: {order.state.value}, and {end.error}")
            body["exit_end"] = _end_body(end)
        return EntryAnswer(202, body)

    async def end_exit(self, signal_id: uuid.UUID, principal: str) -> EntryAnswer:
        """Request the end of a signal's exit that has no order yet. 202 with the signal; 409 when there is none to
        end."""
        request = await self._signals.request_end(signal_id, by=principal, now_ns=self._clock.now_ns())
        record = await self._signals.get(signal_id)
        if request is None or record is None:
            raise self._ended(f"the exit of signal {signal_id} is not in progress")
        await self._bus.publish(WAKE, {"type": "cancel", "signal_id": str(signal_id)})
        end = await self._await_end(request)
        if end.error is not None:
            raise self._ended(f"signal {signal_id}: {end.error}")
        record = await self._signals.get(signal_id) or record
        body = {
            "id": str(signal_id),
            "client_order_id": record.client_order_id or client_order_id(intent_id(signal_id), Role.EXIT),
            "state": None,
            "signal_state": record.signal.state.value,
            "symbol": record.signal.symbol,
            "detail": record.detail,
            "exit_end": _end_body(end),
        }
        return EntryAnswer(202, body)

    @staticmethod
    def _ended(what: str) -> InputError:
        return conflict("ORDER_ENDED", what, "there is nothing left to cancel")

    async def _await_end(self, request: int) -> EndRequest:
        """Return a request to end an exit once the order manager answered it, or as it is after `http.order_wait_s`."""
        deadline, pause_s = self._clock.monotonic() + self._settings.http.order_wait_s, 0.0
        while True:
            end = await self._signals.end_request(request)
            assert end is not None, "requests are not deleted"
            if end.finished_ns is not None or self._clock.monotonic() >= deadline:
                return end
            pause_s = _POLL.next_s(pause_s)
            await self._clock.sleep(pause_s)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────
    async def signal_of(
        self,
        request: OrderRequest,
        principal: str,
        key: str,
        arrived_ns: int,
        *,
        accounts: Collection[int] | None = None,
        instance: str = "",
    ) -> Signal:
        """Return the signal of a request for `instance`, READY, on one of `accounts` (None: any).

        Errors: InputError for an unknown account or symbol; of a past contract it names the current one."""
        try:
            place = await self._router.place(request, accounts, instance)
        except InputError as error:
            if error.code == "SYMBOL_UNKNOWN":
                await _check_contract(request.symbol.rpartition(":")[2], arrived_ns)
            raise
        account, instrument = place.account, place.instrument
        notes = [place.note] if place.note else []
        return Signal(
            id=request_signal_id(principal, key),
            source=f"principal:{principal}",
            instance=instance,
            params_version=0,
            account_id=account.id,
            venue=account.venue,
            exchange=instrument.exchange,
            symbol=instrument.symbol,
            timeframe=None,
            ts_event_ns=arrived_ns,
            ordinal=0,
            kind=Kind.ORDER,
            side=Side(request.side),
            type=OrderType(request.type),
            size=request.quantity,
            limit_price=request.price,
            stop_price=request.stop_price,
            stop_loss=request.stop_loss,
            take_profit=request.take_profit,
            time_in_force=TimeInForce(request.time_in_force),
            valid_until_ns=request.valid_until_ns,
            is_reduce_only=request.reduce_only,
            plan=request.plan,
            reason=" ".join([f"order of {principal}", *request.labels(), *notes]),
            state=SignalState.READY,
            trace_id=request_signal_id(principal, key).hex[:16],
        )

    def reducing(self, make: Make) -> Make:
        """Return `make` for orders that must reduce: as the rows stand now, and again when the order manager checks it,
        which denies it REDUCE_ONLY otherwise. An exit only reduces. Errors: those of `make`; InputError REDUCE_ONLY."""

        async def made(principal: str, key: str, arrived_ns: int) -> Signal:
            signal = await make(principal, key, arrived_ns)
            held, left = await self.held(signal)
            if signal.is_exit and held:
                return signal
            is_plain = signal.stop_loss is None and signal.take_profit is None
            if signal.size is None or not is_plain or signal.size > left:
                raise unprocessable(
                    Code.REDUCE_ONLY.value,
                    f"{signal.side.value} {signal.size} {signal.symbol} may do more than reduce what is held",
                    f"at most {left:f} of {held:f} are left to close, without protections",
                )
            return replace(signal, is_reduce_only=True)

        return made

    async def held(self, signal: Signal) -> tuple[Decimal, Decimal]:
        """Return what a program's instance, or for a person the account, holds in the signal's symbol (base, signed),
        and how much an order on its side may close, as the rows stand now. Errors: OutageError."""
        key = signal.account_id, signal.venue, signal.symbol
        open_ = await self._orders.open([signal.venue])
        positions = await self._positions.page(account_id=key[0], symbol=key[2], venues=[key[1]])
        books = Books(
            {position.instance: position.quantity for position in positions},
            tuple(order for order in open_ if (order.account_id, order.venue, order.symbol) == key),
        )
        held = books.held.get(signal.instance, Decimal(0)) if signal.instance else sum(books.held.values(), Decimal(0))
        return held, closable(books, signal.side, signal.instance or None)

    async def _wake(self, signal: Signal) -> None:
        await self._bus.publish_many([(WAKE, {"type": "signal"}), (SIGNALS, signal_message(signal))])

    async def _await_answer(self, record: SignalRecord, wait_s: float | None = None) -> EntryAnswer:
        """Return the answer to a committed signal once its order is settled, or as it is after `wait_s`.

        An outage meanwhile gives the last known state: as an error it would ask for a repeat of a committed signal.
        """
        wait_s = self._settings.http.order_wait_s if wait_s is None else wait_s
        deadline, pause_s = self._clock.monotonic() + wait_s, 0.0
        order: Order | None = None
        shares: list[tuple[str, str]] = []
        copies: list[dict[str, Any]] = []
        with contextlib.suppress(OutageError):
            while True:
                order = await self._orders.by_signal(record.signal.id)
                is_settled = order is not None and order.state not in (State.SENDING, State.INTENDED)
                if record.signal.state is not SignalState.READY and (is_settled or order is None):
                    break
                if self._clock.monotonic() >= deadline:
                    break
                pause_s = _POLL.next_s(pause_s)
                await self._clock.sleep(pause_s)
                record = await self._signals.get(record.signal.id) or record
            if order is not None and is_shared(order) and order.side is Side.SELL:
                shares = await self._orders.allocation(order.client_order_id)
            while record.signal.venue == LEADER:
                copies, is_settled = await self._copies(record)
                if is_settled or self._clock.monotonic() >= deadline:
                    break
                pause_s = _POLL.next_s(pause_s)
                await self._clock.sleep(pause_s)
        return _answer(record, order, shares, copies)

    async def _copies(self, record: SignalRecord) -> tuple[list[dict[str, Any]], bool]:
        """Return what became of a leader's signal at the accounts that repeat it, and whether each has its outcome."""
        found, is_settled = [], True
        for account in await self._accounts.page():
            if account.venue == LEADER or not is_ninja(account.venue):
                continue
            copy = await self._signals.get(copy_signal_id(intent_id(record.signal.id), account.id))
            if copy is None:
                continue
            order = await self._orders.by_signal(copy.signal.id)
            is_settled &= copy.signal.state is not SignalState.READY
            is_settled &= order is None or order.state not in (State.SENDING, State.INTENDED)
            found.append({"account": account.name, "venue": account.venue} | _answer(copy, order).body)
        return found, is_settled


async def _check_contract(symbol: str, now_ns: int) -> None:
    """Refuse an expired or rolled futures contract. Errors: those of `check_entry`."""
    if (contract := contract_of(symbol)) is not None:
        await asyncio.to_thread(check_entry, contract, now_ns)  # the first one loads a calendar, for seconds


def _answer(
    record: SignalRecord,
    order: Order | None,
    shares: Sequence[tuple[str, str]] = (),
    copies: Sequence[Mapping[str, Any]] = (),
) -> EntryAnswer:
    signal = record.signal
    body: dict[str, Any] = {"id": str(signal.id), "signal_state": signal.state.value}
    if order is not None:
        body |= order_body(order)
    else:
        role = Role.EXIT if signal.is_exit else Role.ORDER
        body |= {
            "client_order_id": client_order_id(intent_id(signal.id), role),
            "state": None,
            "symbol": signal.symbol,
            "code": record.code,
            "detail": record.detail,
        }
    if shares:  # of a person's sale of more than persons hold
        body["instances"] = [{"instance": name, "quantity": quantity} for name, quantity in shares]
    if copies:  # of a signal that further accounts at NinjaTrader repeat
        body["accounts"] = list(copies)
    is_no = signal.state in (SignalState.DENIED, SignalState.EXPIRED, SignalState.DECLINED)
    return EntryAnswer(422 if is_no else 202, body)


def _end_body(end: EndRequest) -> dict[str, Any]:
    """Return the result of a request to end an exit, as JSON."""
    state = "requested" if end.finished_ns is None else "accepted" if end.error is None else "refused"
    return {"signal_id": str(end.signal_id), "by": end.by, "state": state, "detail": end.error}


def order_body(order: Order) -> dict[str, Any]:
    """Return an order as JSON: numbers as decimal strings, times in ISO 8601 with Z."""

    def text(value: Decimal | None) -> str | None:
        return None if value is None else format(value, "f")

    return {
        "client_order_id": order.client_order_id,
        "signal_id": None if order.signal_id is None else str(order.signal_id),
        "account_id": order.account_id,
        "venue": order.venue,
        "exchange": order.exchange,
        "symbol": order.symbol,
        "instance": order.instance,
        "role": order.role.value,
        "attempt": order.attempt,
        "side": order.side.value,
        "type": order.type.value,
        "time_in_force": order.time_in_force.value,
        "quantity": text(order.quantity),
        "price": text(order.price),
        "stop_price": text(order.stop_price),
        "stop_loss": text(order.stop_loss),
        "take_profit": text(order.take_profit),
        "state": order.state.value,
        "request": order.request.value,
        "filled": text(order.filled),
        "average_price": text(order.average_price),
        "venue_order_id": order.venue_order_id,
        "parent_id": order.parent_id,
        "group_id": order.group_id,
        "code": order.code,
        "detail": order.detail,
        "is_late": order.is_late,
        "is_stale": order.is_stale,
        "is_reduce_only": order.is_reduce_only,
        "trace_id": order.trace_id,
        "valid_until": None if order.valid_until_ns is None else iso(order.valid_until_ns),
        "created_at": iso(order.created_ns),
        "sent_at": None if order.sent_ns is None else iso(order.sent_ns),
        "updated_at": iso(order.updated_ns),
    }


# ── form ─────────────────────────────────────────────────────────────────────────────────────────
def _bad(message: str, remedy: str, code: str) -> InputError:
    return unprocessable(code, message, remedy)


def _with_type(body: Mapping[str, object]) -> Mapping[str, object]:
    """Return the body with `order_type`, as the replaced services call it, named `type`."""
    if "order_type" not in body:
        return body
    if "type" in body:
        raise _bad("type and order_type are both given", "give one of them", "TYPE")
    return {"type" if name == "order_type" else name: value for name, value in body.items()}


def _plan_in(body: Mapping[str, object], stop_loss: Decimal | None) -> ParentPlan | None:
    """Return the plan in the body of an order request; None of a single order."""
    kind = body.get("kind") or "single"
    if kind not in ("single", _BRACKET):
        raise _bad(f"kind {shown(kind)} is unknown", f"use single or {_BRACKET}", "KIND")
    if kind != _BRACKET:
        if given := [name for name in ("targets", "break_even") if body.get(name) is not None]:
            raise _bad(f"a single order takes no {given[0]}", f"send kind {_BRACKET}, or take_profit", "KIND")
        return None
    if stop_loss is None:
        raise _bad("a bracket needs stop_loss", "give the stop of the whole position", "STOP_LOSS")
    targets = targets_in(body.get("targets"))
    if not targets:
        raise _bad("a bracket needs targets", 'give targets: [{"price": "65000", "share": "0.5"}, …]', "TARGETS")
    return ParentPlan(stop_loss, targets, break_even_in(body.get("break_even")))


def targets_in(value: object) -> tuple[ProfitTarget, ...]:
    """Return the targets in a request's member; () without it. Errors: InputError TARGETS or NUMBER."""
    if value is None:
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, Mapping) for one in value):
        raise _bad(f"targets {shown(value)} are no list of objects", "give price and share of each", "TARGETS")
    if len(value) > TARGETS_MAX:
        raise _bad(f"there are {len(value)} targets", f"give at most {TARGETS_MAX}", "TARGETS")
    found = []
    for number, one in enumerate(value, 1):
        unknown = sorted(set(one) - {"price", "share"})
        price, share = positive(f"target {number} price", one.get("price")), one.get("share")
        share = positive(f"target {number} share", 1 if share is None and len(value) == 1 else share)
        if unknown or price is None or share is None:
            raise _bad(f"target {number} is not usable", "give price and share, and nothing else", "TARGETS")
        found.append(ProfitTarget(price, share))
    return tuple(found)


def break_even_in(value: object) -> BreakEven | None:
    """Return the break-even rule in a request's member. Errors: InputError BREAK_EVEN or NUMBER."""
    if value is None:
        return None
    remedy = "give after_target (1 to 5) or at_risk (a multiple of the risk), and offset_ticks if you like"
    if not isinstance(value, Mapping) or set(value) - {"after_target", "at_risk", "offset_ticks"}:
        raise _bad(f"break_even {shown(value)} is not usable", remedy, "BREAK_EVEN")
    after, offset, at_risk = value.get("after_target"), value.get("offset_ticks", 0), value.get("at_risk")
    is_number = isinstance(after, int) and not isinstance(after, bool) and 1 <= after <= TARGETS_MAX
    is_offset = isinstance(offset, int) and not isinstance(offset, bool) and abs(offset) <= _OFFSET_TICKS_MAX
    if (after is None) == (at_risk is None) or not (after is None or is_number) or not is_offset:
        raise _bad(f"break_even {shown(value)} is not usable", remedy, "BREAK_EVEN")
    assert isinstance(after, int | None)
    assert isinstance(offset, int)
    return BreakEven(after, positive("at_risk", at_risk), offset)


def check_plan(plan: ParentPlan, side: Side, *, has_take_profit: bool = False, is_reducing: bool = False) -> None:
    """Check the values of a plan against each other. Errors: InputError."""
    if has_take_profit or is_reducing:
        wrong = "take_profit" if has_take_profit else _REDUCE_ONLY
        raise _bad(f"a bracket takes no {wrong}", "leave it out", "KIND")
    prices = [target.price for target in plan.targets]
    if prices != sorted(set(prices), reverse=side is Side.SELL):
        raise _bad("the targets are not in their order", "give the nearest first, each at its own price", "TARGETS")
    if plan.targets and (total := sum(target.share for target in plan.targets)) != 1:
        raise _bad(f"the shares of the targets are {total} together", "give shares that are 1 together", "TARGETS")
    rule = plan.break_even
    if rule is not None and rule.after_target is not None and rule.after_target > max(len(plan.targets), 1):
        raise _bad(f"there is no target {rule.after_target}", "name one of the targets", "BREAK_EVEN")


def positive(name: str, value: object) -> Decimal | None:
    """Return a positive exact number, or None when it was left out. A float stands for its shortest decimal."""
    if value is None:
        return None
    try:
        number = decimal_of(value)
    except ValueError as error:
        raise _bad(f"{name} {shown(value)} {error}", "give a decimal string", "NUMBER") from None
    if number <= 0:
        raise _bad(f"{name} {shown(value)} is not a positive number", f"give a {name} above 0", "NUMBER")
    _, digits, exponent = number.as_tuple()
    if len(digits) > _DIGITS_MAX or not isinstance(exponent, int) or abs(exponent) > _DIGITS_MAX:
        raise _bad(f"{name} has too many digits", f"give at most {_DIGITS_MAX}", "NUMBER")
    return number


def _text(name: str, value: object, *, is_needed: bool = False) -> str | None:
    if value is None and not is_needed:
        return None
    is_short = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_DIGITS_MAX
    text = str(value).strip() if isinstance(value, str) or is_short else ""
    if not text or len(text) > _KEY_MAX or not text.isprintable():
        raise _bad(f"{name} {shown(value)} is not usable", f"give a {name}", name.upper())
    return text


def _truth(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _bad(f"{name} {shown(value)} is neither true nor false", "give true or false, or leave it out", "INVALID")


def _one_of(name: str, value: object, choices: Mapping[str, T]) -> T:
    found = choices.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise _bad(f"{name} {shown(value)} is unknown", f"use one of {', '.join(choices)}", name.upper())
    return found


def _moment(value: object) -> int | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None and moment.year >= _YEAR_MIN:
            return to_ns(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    raise _bad(f"valid_until {shown(value)} is no time", "give ISO 8601 with Z: 2026-05-01T00:00:00Z", "VALID_UNTIL")


def _normal(plan: ParentPlan) -> ParentPlan:
    """Return the plan with numbers that are equal texts when they are equal."""
    rule, zero = plan.break_even, Decimal(0)
    if rule is not None and rule.at_risk is not None:
        rule = replace(rule, at_risk=rule.at_risk.normalize() + zero)
    targets = tuple(ProfitTarget(one.price.normalize() + zero, one.share.normalize() + zero) for one in plan.targets)
    return ParentPlan(plan.stop_loss.normalize() + zero, targets, rule)


def _canonical(value: object) -> str:
    """Return equal texts for equal numbers: 1, 1.0 and "1.00" are the same request."""
    return format(value.normalize() + Decimal(0), "f") if isinstance(value, Decimal) else str(value)
