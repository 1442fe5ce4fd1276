"""Orders: entry, cancels, settlements, and their states."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from fks.interfaces.api.conditional import conditional
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.limits import admit, refusal_of
from fks.interfaces.api.parts import ORDER_MANAGER, need
from fks.interfaces.api.problems import MEDIA_TYPE, document
from fks.interfaces.api.query import (
    Admin,
    Body,
    BodyOf,
    Exchange,
    Gate,
    JsonObject,
    Limit,
    Name,
    Reader,
    Symbol,
    Time,
    Trader,
    page,
)
from fks.interfaces.api.routing import Router, takes
from fks.interfaces.api.views import OrderEventView, OrderPage, OrderView, Page
from fks.model import ids
from fks.model.errors import InputError, Problem, not_found
from fks.model.order import OPEN, OrderType, Role, State, TimeInForce
from fks.model.parent import TARGETS_MAX
from fks.model.timeframe import to_ns
from fks.model.untrusted import Exact
from fks.store.settlements import ReportedFill
from fks.store.tokens import Principal
from fks.trading.venues.registry import ends_order

router = Router(tags=["orders"])
Positive = Annotated[Exact, Field(gt=0)]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="1 to 200 printable characters that name this wish"),
]


class ProfitTargetBody(Body):
    """A price at which a share of a bracket is closed."""

    price: Positive
    share: Annotated[Exact, Field(gt=0, le=1)] = Field(
        description="of the filled quantity; the shares of a bracket are 1 together"
    )


class BreakEvenBody(Body):
    """The condition on which the stop of a bracket moves to the average price of its entry: one of the two."""

    after_target: int | None = Field(None, ge=1, le=TARGETS_MAX, description="once this target (from 1) is executed")
    at_risk: Positive | None = Field(
        None, description="once the price has come so many times the distance from entry to stop"
    )
    offset_ticks: int = Field(0, description="so many ticks beyond the average price, in the entry's favour")


class OrderBody(Body):
    """An order request, for OpenAPI; `fks.interfaces.entry.order_entry.OrderRequest` checks it.

    Numbers are decimal strings or JSON numbers and are kept exactly as written.
    """

    symbol: str = Field(description="BTCUSDT, BTC/USDT or BTC-USDT")
    side: Literal["buy", "sell"]
    type: Literal["market", "limit", "stop", "stop_limit"] | None = Field(
        None, description="or order_type: one is needed"
    )
    quantity: Positive = Field(description="in base")
    account: str | int | None = Field(None, description="name or number; default that of the venue")
    venue: str | None = Field(
        None,
        description="where to, when an account is not named; default by GET /venue-routes, else the default "
        "venue, else that of the first enabled account",
    )
    exchange: str | None = Field(
        None, description="whose symbol; default the account's, on paper the one that is collected"
    )
    price: Positive | None = Field(None, description="of limit and stop_limit")
    stop_price: Positive | None = Field(None, description="of stop and stop_limit")
    take_profit: Positive | None = None
    stop_loss: Positive | None = None
    time_in_force: Literal["gtc", "ioc", "fok"] = "gtc"
    valid_until: Time | None = Field(None, description="ISO 8601; after it the order is given up")
    order_type: Literal["market", "limit", "stop", "stop_limit"] | None = Field(
        None, description="another name of type"
    )
    strategy_id: str | None = Field(
        None, max_length=200, description="your name of what decided; kept, used for nothing"
    )
    signal_id: str | None = Field(None, max_length=200, description="the same, of its signal")
    reduce_only: bool = Field(False, description="deny it unless it only brings the position nearer to zero")
    allow_fallback: bool = Field(
        False,
        description="an entry that names no account may go to another venue that takes entries now, before it is "
        "committed; never to an account of another mode",
    )
    kind: Literal["single", "bracket"] = Field("single", description="bracket: with stop_loss and targets")
    targets: tuple[ProfitTargetBody, ...] = Field((), max_length=TARGETS_MAX, description="of a bracket, nearest first")
    break_even: BreakEvenBody | None = Field(None, description="of a bracket: its stop moves, never back")


@router.post("/orders", status_code=202, openapi_extra=takes(OrderBody))
async def place(gate: Gate, caller: Trader, request: Request, body: JsonObject, key: Key = None) -> ExactJson:
    """Commit an order and wait up to a second for it: 202 with its state, 422 with the code when denied.

    When it is not known in that time the answer is 202 with `state: null` and a Location to look at. The same key again
    gives the same answer; another body under it 409. Without a key the same body of the same caller within 10 s is the
    same order: the answer has `is_repeat`, the derived key and a Warning header. The order's age counts from the
    arrival of its first byte here.
    """
    from fks.interfaces.entry.order_entry import OrderRequest

    async def submit(must_reduce: bool) -> Any:
        return await gate.order_entry.submit(
            OrderRequest.parse(body),
            caller.name,
            checked_key(key),
            arrived_ns=request.state.arrived_ns,
            accounts=caller.account_list,
            must_reduce=must_reduce,
            trace_id=request.state.trace_id,
            instance=caller.instance,
        )

    answer = await within_limit(request, submit)
    return order_answer(answer)


async def within_limit(request: Request, submit: Callable[[bool], Awaitable[Any]]) -> Any:
    """Return the answer of `submit(False)`; of a caller past the limit, that of `submit(True)`, which takes only orders
    that reduce a position. Errors: those of `submit`; past the limit Problem 429 for all that is not such an order."""
    refusal = refusal_of(request)
    if refusal is None:
        return await submit(False)
    try:
        answer = await submit(True)
    except InputError:
        raise refusal from None
    admit(request)
    return answer


def checked_key(key: str | None) -> str | None:
    """Return an Idempotency-Key header's value, None without one. Errors: Problem 400 for one that is unusable."""
    if key is not None and (not key.strip() or not key.isprintable()):
        raise Problem(
            400,
            "IDEMPOTENCY_KEY_MISSING",
            "the Idempotency-Key header is empty",
            remedy="send one that is unique to this order, a UUID say, and on a retry the same one; or leave it out",
        )
    return key


@router.get("/orders", response_model=OrderPage)
async def orders(
    gate: Gate,
    caller: Reader,
    state: Annotated[State | None, Query()] = None,
    symbol: Symbol = None,
    exchange: Exchange = None,
    instance: Name = None,
    open_: Annotated[bool, Query(alias="open", description="only those that may still fill")] = False,
    before: Annotated[str | None, Query(description="the `next` of the page before", max_length=64)] = None,
    limit: Limit = 100,
) -> ExactJson:
    """List orders, newest first, protections included."""
    wanted = None if state is None else state.value
    symbols, at = await gate.narrowed(symbol, exchange)
    rows = await gate.db.fetch(
        "gateway.orders", wanted, symbols, instance, open_, before, limit, at, caller.account_list
    )
    return ExactJson(page((shown_order(dict(row), gate) for row in rows), limit, "client_order_id"))


@router.get("/orders/{id}", response_model=OrderView)
async def order(gate: Gate, caller: Reader, id: str) -> ExactJson:
    """Return one order, by client_order_id or by the id in the answer of POST /orders.

    `expires_by` is the process that ends a live order at its `valid_until`: `venue`, or `order_manager`, which ends it
    only while FKS runs, because the venue takes no good-till-date of such an order.
    """
    found = await _find(gate, id, caller)
    if found is None:
        found = await _waiting(gate, id, caller)
    return ExactJson(found)


class AmendBody(Body):
    """A change of a resting order (`price`, `quantity`), or of a parent's exits (the rest): one of the two."""

    price: Positive | None = Field(None, description="of a limit or stop_limit order")
    quantity: Positive | None = Field(None, description="in base, with what has filled")
    stop_loss: Positive | None = Field(None, description="nearer to the market than it is")
    targets: tuple[ProfitTargetBody, ...] | None = Field(None, min_length=1, max_length=TARGETS_MAX)
    break_even: BreakEvenBody | None = None


@router.patch("/orders/{id}", status_code=202, openapi_extra=takes(AmendBody))
async def amend(gate: Gate, caller: Trader, id: str, body: JsonObject) -> ExactJson:
    """Amend a person's order and wait up to a second for it: 202 with the order and `amendment`.

    A smaller quantity is amended in place where the venue can. Otherwise the order is cancelled, its end proven, and an
    order over the rest sent in its place: `amendment.successor` is the id of its request. Never are both live. A
    parent's stop moves only nearer to the market. 409 while another amendment of the order is not done.
    """
    found = await _find(gate, id, caller)
    if found is None:
        raise _unknown(id)
    return order_answer(await gate.amending.amend(found["client_order_id"], body, caller.name))


@router.delete("/orders", status_code=202)
async def cancel_all(
    gate: Gate,
    caller: Trader,
    symbol: Annotated[str, Query(max_length=64, description="in any spelling")],
    exchange: Exchange = None,
    protection: Annotated[
        bool, Query(description="end stop losses and take profits as well: what is held is then unprotected")
    ] = False,
) -> ExactJson:
    """Request the cancel of all entries and orders of a symbol that may still fill, in the caller's accounts; a
    program's own alone. Idempotent. What is held keeps its protection unless `protection` is true."""
    symbols, at = await gate.narrowed(symbol, exchange)
    found = await gate.amending.cancel_all(
        symbols or [],
        caller.name,
        caller.account_list,
        instance=caller.instance or None,
        exchange=at,
        drops_protection=protection,
    )
    return ExactJson(found, status_code=202)


@router.delete("/orders/{id}", status_code=202)
async def cancel(gate: Gate, caller: Trader, id: str) -> ExactJson:
    """Request the cancel of an order. Idempotent; its state shows later whether it ended.

    Any order of an exit, or the id of its signal, ends the exit, also while it waits between two attempts: 202 with
    `exit_end`, and the position stays protected. 409 ORDER_ENDED when there is nothing to end.
    """
    found = await _find(gate, id, caller)
    if found is not None:
        return order_answer(await gate.order_entry.cancel(found["client_order_id"], caller.name))
    waiting = await _waiting(gate, id, caller)
    if waiting["signal_state"] not in ("pending", "ready"):
        raise Problem(
            409, "ORDER_ENDED", f"signal {id} has ended: {waiting['signal_state']}", remedy="see GET /signals"
        )
    is_exit = waiting["kind"] == "exit"
    if not is_exit or waiting["signal_state"] == "pending":
        remedy = "reject the signal" if waiting["signal_state"] == "pending" else "ask again in a moment"
        raise Problem(409, "ORDER_NOT_YET", f"{id} has not become an order yet", remedy=remedy)
    return order_answer(await gate.order_entry.end_exit(uuid.UUID(str(waiting["id"])), caller.name))


TradeId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]


class SettleBody(Body):
    """A person's report on an order of unknown outcome; with `confirm` alone, the proposal that it confirms."""

    outcome: Literal["filled", "absent", "cancelled", "busted"] | None = Field(
        None, description="busted: the venue took booked executions back; the order may be in any state"
    )
    reason: str | None = Field(None, min_length=1, max_length=500, description="why; kept in the order's events")
    trade_ids: tuple[TradeId, ...] = Field((), max_length=100, description="the venue's numbers of the executions")
    quantity: Positive | None = Field(None, description="executed and not booked yet; default all that is left")
    price: Positive | None = Field(None, description="of the execution")
    fee: Exact | None = Field(None, description="of the execution, below 0: a rebate; needed with a price")
    fee_currency: str | None = Field(None, min_length=1, max_length=20, pattern=r"^[A-Za-z0-9]+$")
    confirm: str | None = Field(None, min_length=1, max_length=20, description="the code of the first answer")


@router.post("/orders/{id}/settle")
async def settle(gate: Gate, caller: Admin, id: str, body: BodyOf[SettleBody]) -> ExactJson:
    """End an order of unknown outcome in two steps: the first answer describes the effects, `confirm` carries them out.

    Executions that the person reports are booked together with the end, and move the position. The code is valid for
    five minutes, for the person that requested it.
    """
    from fks.interfaces.entry.settling import SettleRequest

    found = await _find(gate, id, caller)
    if found is None:
        raise _unknown(id)
    request = None
    if body.confirm is None or body.outcome is not None:
        if body.outcome is None or body.reason is None or not body.reason.strip():
            raise Problem(422, "SETTLE_WRONG", "outcome or reason is missing", remedy="give both, or confirm alone")
        request = SettleRequest(body.outcome, body.reason.strip(), _reported(body))
    if body.confirm is None:
        assert request is not None
        return order_answer(await gate.settling.propose(found["client_order_id"], request, caller.name))
    await need(gate, ORDER_MANAGER)
    return order_answer(await gate.settling.confirm(found["client_order_id"], body.confirm, request, caller.name))


def _reported(body: SettleBody) -> tuple[ReportedFill, ...]:
    given = (body.quantity, body.price, body.fee)
    if body.trade_ids:
        if any(value is not None for value in given) or len(set(body.trade_ids)) != len(body.trade_ids):
            raise Problem(
                422, "SETTLE_WRONG", "trade_ids are given beside figures, or twice", remedy="give either, once"
            )
        return tuple(ReportedFill(number) for number in body.trade_ids)
    if all(value is None for value in given):
        return ()
    if body.price is None or body.fee is None:
        raise Problem(422, "SETTLE_WRONG", "price or fee is missing", remedy="give both (a fee of 0 too), or trade_ids")
    currency = (body.fee_currency or "").upper() if body.fee else ""
    return (ReportedFill("", body.quantity, body.price, body.fee, currency),)


@router.get("/orders/{id}/events", response_model=Page[OrderEventView])
async def events(gate: Gate, caller: Reader, request: Request, id: str) -> Response:
    """Return every step of one order, in order."""
    found = await _find(gate, id, caller)
    if found is None:
        raise _unknown(id)
    rows = await gate.db.fetch("gateway.order_events", found["client_order_id"])
    return conditional(request, ExactJson(page(rows)))


def order_answer(answer: Any) -> ExactJson:
    """Return order entry's answer; a refusal as a problem document with its members."""
    body = dict(answer.body)
    order = body.get("order", body)
    headers = {"Location": f"/orders/{body.get('id') or order['client_order_id']}", **key_headers(answer)}
    if answer.status < 400:
        return ExactJson(body, status_code=answer.status, headers=headers)
    code = body.get("code") or str(body.get("signal_state") or "refused").upper()
    detail = body.get("detail") or f"the order was {body.get('signal_state') or 'refused'}"
    problem = document(answer.status, str(code), str(detail), **{k: v for k, v in body.items() if k not in _OWN})
    return ExactJson(problem, status_code=answer.status, headers=headers, media_type=MEDIA_TYPE)


def key_headers(answer: Any) -> dict[str, str]:
    """Return the headers that report a derived key: the key, and a Warning (RFC 7234, code 299) with its meaning."""
    if answer.derived_key is None:
        return {}
    text = (
        "no Idempotency-Key: this is the order of your earlier request with the same body"
        if answer.is_repeat
        else "no Idempotency-Key: the same body within 10 s is this order, later it is another one"
    )
    return {"Idempotency-Key": answer.derived_key, "Warning": f'299 fks "{text}"'}


#: members that mean something else in a problem document; the order's own type is in GET /orders/{id}
_OWN = frozenset({"type", "title", "status", "code", "detail", "instance"})


async def _find(gate: Replica, id: str, caller: Principal) -> dict[str, Any] | None:
    row = await gate.db.fetchrow("gateway.order", id.lower(), _uuid(id), caller.account_list)
    return None if row is None else shown_order(dict(row), gate)


def shown_order(row: Mapping[str, Any], gate: Replica) -> dict[str, Any]:
    """Return an order's row with the process that ends it at its time."""
    until, kind = row["valid_until"], OrderType(row["type"])
    if until is None or kind is OrderType.MARKET or State(row["state"]) not in OPEN:
        return {**row, "expires_by": None}
    from_ns, in_force = to_ns(row["sent_at"] or row["created_at"]), TimeInForce(row["time_in_force"])
    plugins = gate.deps.settings.venues.plugins
    is_by_venue = ends_order(row["venue"], row["exchange"] or "", kind, in_force, from_ns, to_ns(until), plugins)
    return {**row, "expires_by": "venue" if is_by_venue else "order_manager"}


async def _waiting(gate: Replica, id: str, caller: Principal) -> dict[str, Any]:
    """Return the request that has no order (yet) in an order's shape. Errors: InputError 404."""
    row = await _request(gate, id, caller)
    if row is None:
        raise _unknown(id)
    return {
        "id": row["id"],
        "client_order_id": row["client_order_id"] or _client_id(row["id"], row["kind"]),
        "state": None,
        "signal_state": row["state"],
        "code": row["code"],
        "detail": row["detail"],
        "kind": row["kind"],
        "symbol": row["symbol"],
        "side": row["side"],
        "type": row["type"],
        "quantity": row["size"],
    }


async def _request(gate: Replica, id: str, caller: Principal) -> Any:
    """Return the signal that `id` names: by its own id, or by the client order id that its order will have."""
    signal_id = _uuid(id)
    row = None if signal_id is None else await gate.db.fetchrow("gateway.signal", signal_id, caller.account_list)
    if row is None:
        waiting = await gate.db.fetch("gateway.waiting_requests", caller.account_list)
        row = next((item for item in waiting if _client_id(item["id"]) == id.lower()), None)
    return row


def _client_id(signal_id: uuid.UUID, kind: str = "order") -> str:
    role = {"order": Role.ORDER, "enter": Role.ENTRY}.get(kind, Role.EXIT)
    return ids.client_order_id(ids.intent_id(signal_id), role)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _unknown(id: str) -> InputError:
    return not_found("ORDER_UNKNOWN", f"there is no order {id}", "see GET /orders")
