"""Alerts: open and past ones, rules, silences, channels and deliveries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit
from fks.model.untrusted import decimal_of

KINDS = ("threshold", "duration", "absence", "rate", "route")
SEVERITIES = ("info", "warning", "error", "page")
_NUMBERS = ("above", "below", "for_s", "count", "window_s")


async def load(visit: Visit) -> dict[str, Any]:
    """Return open and past alerts, the channels that they are sent to, and the rule that is edited."""
    wanted = visit.request.query_params.get("rule", "")[:64]
    found = await visit.read_all(
        opened="/alerts",
        past=("/alerts", {"all": "true", "limit": 50}),
        rules="/alerts/rules",
        silences="/alerts/silences",
        channels="/alerts/channels",
        deliveries=("/alerts/deliveries", {"limit": 50}),
    )
    rules = (row for row in found["rules"].items if row["name"] == wanted and not row.get("is_removed"))
    return {**found, "edited": next(rules, None), "kinds": KINDS, "severities": SEVERITIES}


async def acknowledge(visit: Visit, form: Form) -> ActionResult:
    """Record that an alert was seen."""
    id = _number(form)
    await visit.change("POST", f"/alerts/{id}/acknowledge", csrf=form.text("csrf"))
    return ActionResult(f"Alert {id} was seen by you: it is not escalated any more.", kind="good")


async def settle(visit: Visit, form: Form) -> ActionResult:
    """Settle an alert in a person's name."""
    id = _number(form)
    answer = (await visit.change("POST", f"/alerts/{id}/settle", csrf=form.text("csrf"))).body
    return ActionResult(
        f"Alert {id} is settled." if answer["is_changed"] else f"Alert {id} was settled before.", kind="good"
    )


async def silence(visit: Visit, form: Form) -> ActionResult:
    """Hold matching alerts back for a while."""
    minutes = form.whole("minutes", "number of minutes", "write 60 for an hour")
    body = {
        "event": form.text("event") or "*",
        "component": form.text("component") or "*",
        "minutes": minutes,
        "reason": form.needed("reason", "a reason"),
    }
    await visit.change("POST", "/alerts/silences", body, csrf=form.text("csrf"))
    return ActionResult(
        f"Alerts {body['event']} of {body['component']} are held back for {minutes} minutes.", kind="good"
    )


async def unsilence(visit: Visit, form: Form) -> ActionResult:
    """End a silence."""
    await visit.change("DELETE", f"/alerts/silences/{_number(form)}", csrf=form.text("csrf"))
    return ActionResult("The silence has ended; what is still open is sent now.", kind="good")


async def rule(visit: Visit, form: Form) -> ActionResult:
    """Switch a rule on or off."""
    name, is_on = form.needed("name", "the rule"), form.text("on") == "1"
    path = f"/alerts/rules/{quote(name, safe='')}"
    await visit.change("POST", path, {"is_enabled": is_on}, csrf=form.text("csrf"))
    return ActionResult(f"Rule {name} is {'on' if is_on else 'off'}.", kind="good")


async def save(visit: Visit, form: Form) -> ActionResult:
    """Make a rule, or give the one of this name the fields of the form; its other fields stay."""
    name = form.needed("name", "the name")
    body: dict[str, Any] = {field: form.needed(field) for field in ("kind", "on", "severity")}
    body |= {field: _amount(form, field) for field in _NUMBERS if form.text(field)}
    body["channels"] = form.text("channels").replace(",", " ").split()
    body["message"] = form.text("message")
    if form.text("known") == name:
        body |= {field: None for field in ("above", "below") if field not in body}
        await visit.change("POST", f"/alerts/rules/{quote(name, safe='')}", body, csrf=form.text("csrf"))
    else:
        await visit.change("POST", "/alerts/rules", {"name": name, **body}, csrf=form.text("csrf"))
    return ActionResult(f"Rule {name} is in force.", kind="good")


async def remove(visit: Visit, form: Form) -> ActionResult:
    """Remove a rule; one that comes with FKS can be restored."""
    name, is_restored = form.needed("name", "the rule"), form.text("restore") == "1"
    path = f"/alerts/rules/{quote(name, safe='')}" + ("?restore=true" if is_restored else "")
    await visit.change("DELETE", path, csrf=form.text("csrf"))
    text = "is again as it comes with FKS" if is_restored else "is removed; its open alerts are settled"
    return ActionResult(f"Rule {name} {text}.", kind="good")


def _amount(form: Form, field: str) -> float | int:
    try:
        number = decimal_of(form.text(field))
    except ValueError:
        raise GatewayRefusal(
            422, "FIELD_WRONG", f"{field}: {form.text(field)!r} is no number", "write 10 or 0.5"
        ) from None
    return int(number) if field == "count" else float(number)


async def channel(visit: Visit, form: Form) -> ActionResult:
    """Make a channel, or give the one of this name another address."""
    body = {
        "name": form.needed("name", "the name"),
        "url": form.needed("url", "the address"),
        "severity_min": form.text("severity_min") or "warning",
    }
    answer = (await visit.change("POST", "/alerts/channels", body, csrf=form.text("csrf"))).body
    return ActionResult(
        f"Channel {answer['name']} ({answer['kind']}) takes alerts from now on. Send a test.", kind="good"
    )


async def channel_change(visit: Visit, form: Form) -> ActionResult:
    """Change the lowest severity of a channel, or switch it on or off."""
    name = form.needed("name", "the channel")
    body: dict[str, Any] = {}
    if form.text("severity_min"):
        body["severity_min"] = form.text("severity_min")
    if form.text("on"):
        body["enabled"] = form.text("on") == "1"
    path = f"/alerts/channels/{quote(name, safe='')}"
    await visit.change("POST", path, body, csrf=form.text("csrf"))
    return ActionResult(f"Channel {name} is changed.", kind="good")


async def channel_remove(visit: Visit, form: Form) -> ActionResult:
    """Remove a channel, and give up what waits for it."""
    name = form.needed("name", "the channel")
    await visit.change("DELETE", f"/alerts/channels/{quote(name, safe='')}", csrf=form.text("csrf"))
    return ActionResult(f"Channel {name} is removed.", kind="good")


async def test(visit: Visit, form: Form) -> ActionResult:
    """Send a message to a channel and return what became of it."""
    name = form.needed("name", "the channel")
    answer = (await visit.change("POST", f"/alerts/channels/{quote(name, safe='')}/test", csrf=form.text("csrf"))).body
    state = str(answer.get("state", "queued"))
    kind = "good" if state == "sent" else "bad" if state in ("failed", "unknown") else "info"
    return ActionResult(f"The message to {name} is {state}. {answer.get('error') or ''}", kind=kind)


def _number(form: Form) -> str:
    return quote(form.needed("id", "the number"), safe="")
