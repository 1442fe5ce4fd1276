"""Outcome of an action, read from the journal until it is final: never a guess of what will become of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fks.interfaces.web import formats
from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.rendering import meaning
from fks.interfaces.web.site import Site
from fks.interfaces.web.visits import Visit
from fks.model.order import TERMINAL, State
from fks.model.signal import OUTCOMES, SignalState

#: How long a page asks for an outcome, in calls of about a second; after that the order's own page goes on.
TRIES_MAX = 60
_FINAL = {state.value for state in TERMINAL}
_BAD = {State.DENIED, State.REJECTED, State.ABANDONED, State.ABSENT, State.EXPIRED}


async def show(site: Site, request: Request) -> Response:
    """Return the present outcome of a signal or an order; the fragment asks again while it is not final."""
    visit = await site.visit(request)
    tries = request.query_params.get("n", "0")
    number = int(tries) if tries.isdecimal() and len(tries) < 6 else TRIES_MAX
    outcome = await outcome_of(visit, request.path_params["id"])
    return site.fragment(
        request,
        "parts/outcome.html",
        refusal=None,
        outcome=outcome,
        tries=number + 1,
        is_given_up=number >= TRIES_MAX,
    )


async def outcome_of(visit: Visit, id: str) -> ActionResult:
    """Return what the journal says of a signal or an order. Errors: GatewayRefusal 404."""
    try:
        signal = await visit.read(f"/signals/{id}")
    except GatewayRefusal as refusal:
        if refusal.status not in (404, 422):
            raise
        return _of_order(await visit.read(f"/orders/{id}"))
    state = signal["state"]
    if state == SignalState.ORDERED and signal.get("client_order_id"):
        return _of_order(await visit.read(f"/orders/{signal['client_order_id']}"))
    what = _what(signal)
    if state == SignalState.DENIED:
        return ActionResult(f"Denied: {what}.", kind="bad", details=_denial(signal, id))
    if state in {outcome.value for outcome in OUTCOMES}:
        texts = {"expired": "Expired before it was used", "declined": "Rejected", "nothing": "Nothing to do"}
        text = f"{texts.get(state, state)}: {what}."
        return ActionResult(text, kind="info", details=_detail(signal))
    texts = {"pending": "Waits for approval", "ready": "Approved; the order manager has not decided yet"}
    return ActionResult(f"{texts.get(state, state)}: {what}.", follow=id)


def _of_order(order: Mapping[str, Any]) -> ActionResult:
    state, id = order.get("state"), str(order.get("client_order_id") or order.get("id"))
    what = _what(order)
    if state is None:
        return ActionResult(f"Committed, and not decided yet: {what}.", follow=id)
    filled = f"filled {_digits(order.get('filled') or 0)} of {_digits(order.get('quantity'))}"
    if order.get("average_price") is not None:
        filled += f" at {_digits(order['average_price'])}"
    text = f"{state}: {what}, {filled}."
    if state == State.DENIED:
        return ActionResult(f"Denied: {what}.", kind="bad", details=_denial(order, id))
    if state in _FINAL:
        kind = "good" if state == State.FILLED else "bad" if state in _BAD else "info"
        return ActionResult(text, kind=kind, details=_detail(order))
    if order.get("request") not in (None, "", "none"):
        text = f"{state}, its cancel is asked for: {what}, {filled}."
    return ActionResult(text, follow=id)


def _digits(value: object) -> str:
    return formats.at_step(value, None)


def _what(row: Mapping[str, Any]) -> str:
    return f"{row.get('side') or ''} {row.get('symbol') or ''}".strip()


def _denial(row: Mapping[str, Any], id: str) -> tuple[tuple[str, str], ...]:
    code = str(row.get("code") or "DENIED")
    found = [("Code", code), ("Meaning", meaning(code)), ("Detail", str(row.get("detail") or ""))]
    return tuple((name, text) for name, text in [*found, ("why", id)] if text)


def _detail(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = [("Code", row.get("code")), ("Detail", row.get("detail"))]
    return tuple((name, str(text)) for name, text in found if text)
