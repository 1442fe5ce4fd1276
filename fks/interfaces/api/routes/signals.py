"""Signals of strategies and persons, and their approval."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import Field

from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.problems import MEDIA_TYPE, document
from fks.interfaces.api.query import (
    Approver,
    Before,
    Body,
    Exchange,
    Gate,
    JsonObject,
    Limit,
    Name,
    Reader,
    Signaller,
    Symbol,
    Time,
    Trader,
    page,
)
from fks.interfaces.api.relays import relay_of
from fks.interfaces.api.routes.orders import (
    Key,
    OrderBody,
    Positive,
    checked_key,
    key_headers,
    order_answer,
    place,
    within_limit,
)
from fks.interfaces.api.routing import Router, takes
from fks.interfaces.api.views import Page, SignalView
from fks.model.errors import OutageError, Problem
from fks.model.signal import SignalState

router = Router(tags=["signals"])


class NinjaSignalBody(Body):
    """A signal in the form of fks_ninja, for OpenAPI; `fks.interfaces.entry.ninja_signals.NinjaSignal` checks it."""

    action: Literal["buy", "sell", "long", "short"]
    instrument: str = Field(description="a contract: ES 03-25")
    price: Positive = Field(description="of the limit order")
    tp_points: Positive | None = Field(None, description="target: so far from the price, in price units")
    sl_points: Positive | None = Field(None, description="stop: the same")
    quantity: Positive | None = Field(None, description="contracts; default 1")
    account: str | int | None = Field(None, description="name or number; default the first one of the venue ninja")
    valid_until: Time | None = Field(None, description="ISO 8601; default 30 s from now")


@router.post("/signals", openapi_extra=takes(NinjaSignalBody))
async def submit(gate: Gate, caller: Trader, request: Request, body: JsonObject, key: Key = None) -> ExactJson:
    """Commit a signal: a body with `action` as POST /signals/send takes it, any other one as POST /orders does."""
    if "action" in body:
        return await send(gate, caller, request, body, key)
    return await place(gate, caller, request, body, key)


@router.post("/signals/send", openapi_extra=takes(NinjaSignalBody))
async def send(gate: Gate, caller: Trader, request: Request, body: JsonObject, key: Key = None) -> ExactJson:
    """Commit a signal for NinjaTrader and wait up to a second for its order: success, message, signal_id, order_id and
    error.

    200 with `success` true: committed, and `message` says whether it was sent or waits. 422 with the code when it is
    denied, or rejected at once. 503 only when nothing was committed; 504 when that is not known: send it again with the
    same key. Keys and repeats are those of POST /orders.
    """
    from fks.interfaces.entry.execution import status_of
    from fks.interfaces.entry.ninja_signals import NinjaSignal, answer_of
    from fks.interfaces.entry.order_entry import CommitUnknownError

    signal, entry = NinjaSignal.parse(body), gate.order_entry

    async def enter(must_reduce: bool) -> Any:
        at_ns, trace_id = request.state.arrived_ns, request.state.trace_id
        draft = signal.draft(entry, caller.name, at_ns, trace_id, must_reduce=must_reduce, instance=caller.instance)
        return await entry.enter(draft, checked_key(key))

    try:
        answer = await within_limit(request, enter)
    except OutageError as error:
        is_unknown = isinstance(error, CommitUnknownError)
        code, status = ("COMMIT_UNKNOWN", 504) if is_unknown else ("UNAVAILABLE", 503)
        what = "it is not known whether the signal was committed" if is_unknown else "nothing was committed"
        members = {"success": False, "message": f"{what}: {error.message}", "signal_id": None, "error": error.message}
        problem = document(status, code, error.message, remedy=error.remedy or "try again in a moment", **members)
        return ExactJson(problem, status_code=status, media_type=MEDIA_TYPE)
    found = answer_of(answer, gate.deps.clock.now_ns())
    headers = {"Location": f"/orders/{found['signal_id']}", **key_headers(answer)}
    if (status := status_of(answer)) < 400:
        return ExactJson(found, status_code=200, headers=headers)
    code = str(found.pop("code", None) or "REFUSED").upper()
    problem = document(status, code, str(found["error"]), **found)
    return ExactJson(problem, status_code=status, headers=headers, media_type=MEDIA_TYPE)


class ProposalBody(OrderBody):
    """An order that an agent proposes. Without `valid_until` a person has an hour to approve it, and at most a day."""

    rationale: str = Field("", max_length=500, description="why; shown to the person who decides")


@router.post("/signals/propose", status_code=202, openapi_extra=takes(ProposalBody))
async def propose(gate: Gate, caller: Signaller, request: Request, body: JsonObject, key: Key = None) -> ExactJson:
    """Commit an order as a signal that waits for the approval of a person in a logged-in session; no token and no chat
    can approve it. 202 with the signal's id; keys and repeats are those of POST /orders."""
    from fks.interfaces.entry.order_entry import OrderRequest

    body = dict(body)
    rationale = body.pop("rationale", "")
    if not isinstance(rationale, str) or len(rationale) > 500 or not rationale.isprintable():
        raise Problem(422, "INVALID", "rationale: is no printable text of at most 500 characters", remedy="shorten it")
    answer = await gate.order_entry.propose(
        OrderRequest.parse(body),
        caller.name,
        checked_key(key),
        rationale=rationale.strip(),
        arrived_ns=request.state.arrived_ns,
        accounts=caller.account_list,
        trace_id=request.state.trace_id,
    )
    return order_answer(answer)


@router.get("/signals", response_model=Page[SignalView])
async def signals(
    gate: Gate,
    caller: Reader,
    state: Annotated[SignalState | None, Query()] = None,
    symbol: Symbol = None,
    exchange: Exchange = None,
    instance: Name = None,
    before: Before = None,
    limit: Limit = 100,
) -> ExactJson:
    """List signals, newest first."""
    wanted = None if state is None else state.value
    symbols, at = await gate.narrowed(symbol, exchange)
    rows = await gate.db.fetch("gateway.signals", wanted, symbols, instance, before, limit, at, caller.account_list)
    return ExactJson(page(rows, limit))


@router.get("/signals/{id}", response_model=SignalView)
async def signal(gate: Gate, caller: Reader, id: uuid.UUID) -> ExactJson:
    """Return one signal and its outcome. One that was shown to a person at NinjaTrader has the code RELAYED, and with
    it what was then traded there by hand."""
    found = await gate.approving.find(id, caller)
    if found["venue"].startswith("ninja"):
        found["relay"] = await relay_of(gate.db, id)
    return ExactJson(found)


@router.post("/signals/{id}/approve")
async def approve(gate: Gate, caller: Approver, id: uuid.UUID) -> ExactJson:
    """Approve a pending signal in the token's name: the order manager takes it from here."""
    return ExactJson(await gate.approving.decide(id, approve=True, caller=caller))


@router.post("/signals/{id}/reject")
async def reject(gate: Gate, caller: Approver, id: uuid.UUID) -> ExactJson:
    """Decline a pending signal in the token's name."""
    return ExactJson(await gate.approving.decide(id, approve=False, caller=caller))
