"""Orders and positions: cancel, close, and the executions."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.forms import Form
from fks.interfaces.web.outcomes import outcome_of
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit

_ID = re.compile(r"[0-9a-fA-F-]{32,36}")
_KEY = re.compile(r"[0-9a-f]{32}")


async def load(visit: Visit) -> dict[str, Any]:
    """Return positions, open and ended orders, and executions."""
    before = visit.request.query_params.get("before")
    found = await visit.read_all(
        positions="/positions",
        opened=("/orders", {"open": "true", "limit": 200}),
        recent=("/orders", {"limit": 50, "before": before if before and _ID.fullmatch(before) else None}),
        fills=("/fills", {"limit": 30}),
        listed="/assets",
    )
    ended = [row for row in found["recent"].items if row.get("state") not in _OPEN]
    return {**found, "ended": ended, "key": uuid.uuid4().hex, "places": places_by_symbol(found["listed"].items)}


_OPEN = {"INTENDED", "SENDING", "UNKNOWN", "ACCEPTED", "WORKING", "PARTIAL"}


async def cancel(visit: Visit, form: Form) -> ActionResult:
    """Ask for the cancel of an order and return what the journal says of it then."""
    id = form.needed("id", "the order")
    if not _ID.fullmatch(id):
        raise GatewayRefusal(422, "ORDER_UNKNOWN", "this is no order's id", "use the buttons of the page")
    await visit.change("DELETE", f"/orders/{id}", csrf=form.text("csrf"))
    return await outcome_of(visit, id)


async def close(visit: Visit, form: Form) -> ActionResult:
    """Close what is held in a symbol. `key` makes a form that is sent twice one exit."""
    symbol, key = form.needed("symbol", "the symbol"), form.text("key")
    if not _KEY.fullmatch(key):
        raise GatewayRefusal(422, "FIELD_MISSING", "the form has no key", "load the page again")
    answer = await visit.change("POST", f"/positions/{quote(symbol, safe='')}/close", csrf=form.text("csrf"), key=key)
    items = answer.body["items"]
    bodies = [item["order"] for item in items]
    details = [(f"{item['account']} {item['instance'] or 'a person'}", _state_of(item["order"])) for item in items]
    ids = [str(body.get("id") or body.get("client_order_id") or "") for body in bodies]
    if len(items) == 1 and ids[0]:
        return await outcome_of(visit, ids[0])
    return ActionResult(f"{len(items)} exits were committed in {symbol}.", details=tuple(details))


def _state_of(body: dict[str, Any]) -> str:
    order = body.get("order") or body
    state, code = order.get("state") or body.get("signal_state") or "committed", body.get("code")
    return f"{state}, {code}: {body.get('detail') or ''}" if code else str(state)
