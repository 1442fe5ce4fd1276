"""Webhooks: the senders of signals, their limits and their secrets."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit

SIZINGS = ("payload", "quantity", "notional", "risk")


async def load(visit: Visit) -> dict[str, Any]:
    """Return the webhooks."""
    found = await visit.read_all(webhooks="/webhooks", accounts="/accounts")
    return {**found, "sizings": SIZINGS}


async def add(visit: Visit, form: Form) -> ActionResult:
    """Make a webhook; its secret is shown once."""
    body = {
        "name": form.needed("name", "the name"),
        "account": form.needed("account", "the account"),
        "symbols": form.needed("symbols", "the symbols").replace(",", " ").split(),
        "sizing": form.text("sizing") or "payload",
        "size": form.needed("size", "the size"),
        "tradingview_only": form.is_ticked("tradingview_only"),
    }
    answer = (await visit.change("POST", "/webhooks", body, csrf=form.text("csrf"))).body
    return _once(f"Webhook {body['name']} is made.", answer)


async def rotate(visit: Visit, form: Form) -> ActionResult:
    """Give a webhook another secret, shown once."""
    name = form.needed("name", "the webhook")
    answer = (await visit.change("POST", f"{_path(name)}/rotate", csrf=form.text("csrf"))).body
    return _once(f"{name} has another secret; the old one is refused.", answer)


async def test(visit: Visit, form: Form) -> ActionResult:
    """Return the signal that a sample message would become."""
    name = form.needed("name", "the webhook")
    answer = (await visit.change("POST", f"{_path(name)}/test", {}, csrf=form.text("csrf"))).body
    details = tuple((key, str(value)) for key, value in answer["signal"].items() if value is not None)
    return ActionResult("A sample message would become this signal. Nothing was sent.", details=details)


async def remove(visit: Visit, form: Form) -> ActionResult:
    """Remove a webhook."""
    name = form.needed("name", "the webhook")
    await visit.change("DELETE", _path(name), csrf=form.text("csrf"))
    return ActionResult(f"{name} is removed: its secret is refused.", kind="good")


def _once(text: str, answer: dict[str, Any]) -> ActionResult:
    message = orjson.dumps(answer["message"], option=orjson.OPT_INDENT_2).decode()
    details = (("Secret", str(answer["secret"])), ("Message for the alert", message))
    return ActionResult(f"{text} Copy the secret now: it is not shown again.", kind="good", details=details)


def _path(name: str) -> str:
    return f"/webhooks/{quote(name, safe='')}"
