"""Execution signals: what to trade and how much, by quantity or by risk, for `POST /execute/signal` and webhooks.

A signal becomes an order request and goes through order entry like any other: this module only reads its form, sizes
it, and gives the answer the form of the replaced service (`ExecutionResult`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

from fks.clock import Clock
from fks.config.settings import Settings
from fks.interfaces.entry.order_entry import Draft, EntryAnswer, Make, OrderEntry, OrderRequest, positive
from fks.model.errors import InputError, unprocessable
from fks.model.order import Side
from fks.model.signal import Kind, Signal
from fks.model.timeframe import iso
from fks.model.untrusted import shown
from fks.store.db import Database
from fks.store.instruments import InstrumentStore
from fks.trading.risk.sizing import entry_quantity, risk_quantity

#: Actions that close all that the sender's instance holds.
CLOSES = frozenset({"close", "exit", "flat"})
ACTIONS = {"buy": Side.BUY, "long": Side.BUY, "sell": Side.SELL, "short": Side.SELL}
#: other names of fields
_ALIASES = {"sl": "stop_loss", "tp": "take_profit", "type": "order_type"}
_SENT = (
    *("symbol", "order_type", "stop_price", "stop_loss", "take_profit", "time_in_force", "valid_until"),
    *("account", "venue", "exchange", "strategy_id", "signal_id", "reduce_only"),
)
_PLACE = ("symbol", "account", "venue", "exchange", "strategy_id", "signal_id")
FIELDS = ("action", "price", "quantity", "risk", *_SENT)
_ENDED_BADLY = frozenset({"DENIED", "REJECTED", "ABSENT"})
_ZERO, _ONE = Decimal(0), Decimal(1)


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """A signal to execute. `order.quantity` counts only when `sizing` is `quantity`; else it is computed from `amount`.

    Units: `amount` in base (`quantity`) or in quote (`notional`, `risk`). `reference`: the price that a size is
    computed from; None = the limit price, else the newest price. Without `trusts_price` no price of the sender makes a
    size by risk larger than the newest price does.
    """

    order: OrderRequest
    sizing: str
    amount: Decimal
    reference: Decimal | None
    body_hash: str
    trusts_price: bool = True
    rest_hash: str = ""  # of the body without its symbol and exchange

    @staticmethod
    def parse(body: Mapping[str, object]) -> ExecutionRequest:
        """Return the request in a JSON body. Errors: InputError naming the field and a valid form."""
        named = _renamed(body)
        unknown = sorted(set(named) - set(FIELDS))
        if unknown:
            raise wrong(f"unknown field {shown(unknown[0])}", f"use {', '.join(FIELDS)}", "FIELD_UNKNOWN")
        if is_close(named.get("action")):
            return replace(close_of(named, canonical_hash(body)), rest_hash=_rest_hash(named))
        quantity, risk = positive("quantity", named.get("quantity")), positive("risk", named.get("risk"))
        if (quantity is None) == (risk is None):
            raise wrong("a signal needs one of quantity and risk", "give the one or the other", "SIZE_WRONG")
        sizing, amount = ("quantity", quantity) if risk is None else ("risk", risk)
        assert amount is not None
        return replace(request_of(named, sizing, amount, canonical_hash(body)), rest_hash=_rest_hash(named))


def is_close(action: object) -> bool:
    """Return whether an action closes what the sender's instance holds."""
    return isinstance(action, str) and action.strip().lower() in CLOSES


def close_of(named: Mapping[str, object], body_hash: str) -> ExecutionRequest:
    """Return the request that closes all of an instance's position: sizes, prices and times of the message count for
    nothing. Errors: InputError."""
    fields: dict[str, object] = {name: named[name] for name in _PLACE if named.get(name) is not None}
    order = OrderRequest.parse(fields | {"side": "sell", "type": "market", "quantity": _ONE})
    return ExecutionRequest(order, "close", _ZERO, None, body_hash)


def request_of(
    named: Mapping[str, object], sizing: str, amount: Decimal, body_hash: str, *, trusts_price: bool = True
) -> ExecutionRequest:
    """Return the request of fields that have their own names. Errors: InputError.

    A price without `order_type` means a limit order. On a market order it is the price that the size is computed from,
    unless `trusts_price` is false: then the newest price is, and it bounds the size of limit and stop orders, too.
    """
    price = positive("price", named.get("price"))
    kind = named.get("order_type") or ("market" if price is None else "limit")
    is_priced = str(kind).strip().lower() not in ("market", "stop")
    fields: dict[str, object] = {name: named[name] for name in _SENT if named.get(name) is not None}
    fields |= {"side": _side(named.get("action")), "order_type": kind}
    fields |= {"quantity": amount if sizing == "quantity" else _ONE, "price": price if is_priced else None}
    order = OrderRequest.parse(fields)
    if sizing == "risk" and order.stop_loss is None:
        raise wrong("a size by risk needs stop_loss", "give stop_loss, or quantity instead of risk", "SIZE_WRONG")
    reference = order.price or order.stop_price or (price if trusts_price else None)
    return ExecutionRequest(order, sizing, amount, reference, body_hash, trusts_price)


class ExecutionEntry:
    """Submits execution signals through order entry. Holds no state; many may exist."""

    def __init__(self, db: Database, entry: OrderEntry, clock: Clock, settings: Settings) -> None:
        self._db = db
        self._entry = entry
        self._clock = clock
        self._settings = settings
        self._instruments = InstrumentStore(db)

    async def submit(
        self,
        request: ExecutionRequest,
        principal: str,
        key: str | None,
        *,
        arrived_ns: int,
        must_reduce: bool = False,
        trace_id: str = "",
        instance: str = "",
    ) -> EntryAnswer:
        """Commit the signal for `instance` and return its order, as order entry does.

        Errors: those of `OrderEntry.submit`, and InputError SIZE_WRONG when a size cannot be computed."""
        make: Make = partial(self.signal_of, request, instance=instance)
        make = self._entry.reducing(make) if must_reduce else make
        order = await self._entry.resolved(request.order)
        body_hash = canonical_hash({"symbol": order.symbol, "exchange": order.exchange, "rest": request.rest_hash})
        draft = Draft(principal, body_hash, arrived_ns, make, trace_id, former_hash=request.body_hash)
        return await self._entry.enter(draft, key)

    async def signal_of(
        self, request: ExecutionRequest, principal: str, key: str, arrived_ns: int, *, instance: str = ""
    ) -> Signal:
        """Return the signal of a request, sized; of a close an exit of `instance`. Errors: InputError."""
        signal = await self._entry.signal_of(request.order, principal, key, arrived_ns, instance=instance)
        if request.sizing == "close":
            held, _ = await self._entry.held(signal)
            side = Side.BUY if held < 0 else Side.SELL
            return replace(signal, kind=Kind.EXIT, side=side, size=None, reason=f"closed by {principal}")
        if request.sizing == "quantity":
            return signal
        try:
            return await self._sized(request, signal)
        except ArithmeticError:  # more steps of the lot than a Decimal has digits
            raise wrong(f"{request.sizing} {request.amount} is too much to size", "give less", "SIZE_WRONG") from None

    async def _sized(self, request: ExecutionRequest, signal: Signal) -> Signal:
        instrument = await self._instruments.get(signal.exchange, signal.symbol)
        if instrument is None:
            raise wrong(f"the rules of {signal.symbol} are unknown", "give quantity", "SIZE_WRONG")
        if request.sizing == "notional":
            # never from the sender's price alone: a limit sell at 1 would sell as many times more as 1 is too low
            price = max(await self._newest(signal), request.order.price or _ZERO)
            size = entry_quantity("notional", request.amount, price, instrument)
        else:
            stop_loss = request.order.stop_loss
            assert stop_loss is not None
            price = request.reference or await self._newest(signal)
            size = risk_quantity(request.amount, price, stop_loss, signal.side, instrument)
            if request.reference is not None and not request.trusts_price:
                # a limit one tick from the stop-loss, at a market far away from both, would buy many times too much
                newest = await self._newest(signal)
                size = min(size, risk_quantity(request.amount, newest, stop_loss, signal.side, instrument))
        if size <= 0:
            raise wrong(
                f"{request.sizing} {request.amount} is less than one step ({instrument.lot_step}) at {price}",
                "give more",
                "SIZE_WRONG",
            )
        return replace(signal, size=size)

    async def _newest(self, signal: Signal) -> Decimal:
        """Return the newest price of the signal's symbol. Errors: InputError when it is not live and fresh."""
        row = await self._db.fetchrow("reading.feed", signal.exchange, signal.symbol)
        limit_s = self._settings.risk.feed_age_max_s
        if row is None or row["last_price"] is None or row["state"] != "LIVE" or row["age_ms"] > limit_s * 1000:
            raise wrong(
                f"there is no fresh price of {signal.symbol} to compute the size from",
                "give price or quantity, or try again when the feed is live",
                "SIZE_WRONG",
            )
        price: Decimal = row["last_price"]
        return price


def result_of(answer: EntryAnswer, now_ns: int) -> dict[str, Any]:
    """Return the answer in the form of the replaced service: success, order_id, filled_quantity, average_price,
    timestamp, error; and ours beside them: signal_id, client_order_id, state, code."""
    body = answer.body
    is_success = answer.status < 400 and body.get("state") not in _ENDED_BADLY
    error = None
    if not is_success:
        what = str(body.get("state") or body.get("signal_state") or "refused").lower()
        error = body.get("detail") or body.get("code") or f"the order is {what}"
    result = {
        "success": is_success,
        "order_id": body["client_order_id"],
        "filled_quantity": body.get("filled") or "0",
        "average_price": body.get("average_price"),
        "timestamp": body.get("updated_at") or iso(now_ns),
        "error": error,
        "signal_id": body["id"],
        "client_order_id": body["client_order_id"],
        "state": body.get("state"),
        "code": body.get("code"),
    }
    return result | {name: body[name] for name in _PASSED if name in body}


def status_of(answer: EntryAnswer) -> int:
    """Return the HTTP status of an answer: without success it is never below 400, also for a journaled order."""
    has_ended_badly = answer.body.get("state") in _ENDED_BADLY
    return 422 if has_ended_badly and answer.status < 400 else answer.status


#: Members of order entry's answer that a result has, too.
_PASSED = ("idempotency_key", "is_repeat", "instances", "accounts")


def canonical_hash(body: Mapping[str, object]) -> str:
    """Return a hash that is equal for bodies with the same members, whatever their order and spacing."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def _rest_hash(named: Mapping[str, object]) -> str:
    return canonical_hash({name: value for name, value in named.items() if name not in ("symbol", "exchange")})


def wrong(message: str, remedy: str, code: str) -> InputError:
    """Return the error about a field that does not fit."""
    return unprocessable(code, message, remedy)


def _renamed(body: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in body.items():
        own = _ALIASES.get(name, name)
        if own in found:
            raise wrong(f"{own} is given twice", "give it once", "FIELD_UNKNOWN")
        found[own] = value
    return found


def _side(action: object) -> str:
    side = ACTIONS.get(action.strip().lower()) if isinstance(action, str) else None
    if side is None:
        raise wrong(
            f"action {shown(action)} is unknown", f"use one of {', '.join((*ACTIONS, *sorted(CLOSES)))}", "ACTION"
        )
    return side.value


#: What GET /execute/signal shows.
EXAMPLE: Mapping[str, Any] = {
    "symbol": "BTCUSDT",
    "action": "buy",
    "quantity": "0.01",
    "order_type": "limit",
    "price": "60000",
    "stop_loss": "58000",
    "take_profit": "65000",
    "account": "demo",
}
