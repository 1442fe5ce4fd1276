"""Alerts: open and past ones, rules, silences, channels and deliveries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.web.client import Refusal
from fks.web.forms import Form
from fks.web.page import Outcome
from fks.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return open and past alerts, and the channels that they are sent to."""
    return await visit.read_all(
        opened="/alerts",
        past=("/alerts", {"all": "true", "limit": 50}),
        rules="/alerts/rules",
        silences="/alerts/silences",
        channels="/alerts/channels",
        deliveries=("/alerts/deliveries", {"limit": 50}),
    )


async def acknowledge(visit: Visit, form: Form) -> Outcome:
    """Record that an alert was seen."""
    id = _number(form)
    await visit.change("POST", f"/alerts/{id}/acknowledge", csrf=form.text("csrf"))
    return Outcome(f"Alert {id} was seen by you: it is not escalated any more.", kind="good")


async def settle(visit: Visit, form: Form) -> Outcome:
    """Settle an alert in a person's name."""
    id = _number(form)
    answer = (await visit.change("POST", f"/alerts/{id}/settle", csrf=form.text("csrf"))).body
    return Outcome(
        f"Alert {id} is settled." if answer["is_changed"] else f"Alert {id} was settled before.", kind="good"
    )


async def silence(visit: Visit, form: Form) -> Outcome:
    """Hold matching alerts back for a while."""
    minutes = form.needed("minutes", "for how long")
    if not minutes.isdigit():
        raise Refusal(422, "FIELD_WRONG", f"{minutes!r} is no number of minutes", "write 60 for an hour")
    body = {
        "event": form.text("event") or "*",
        "component": form.text("component") or "*",
        "minutes": int(minutes),
        "reason": form.needed("reason", "a reason"),
    }
    await visit.change("POST", "/alerts/silences", body, csrf=form.text("csrf"))
    return Outcome(f"Alerts {body['event']} of {body['component']} are held back for {minutes} minutes.", kind="good")


async def unsilence(visit: Visit, form: Form) -> Outcome:
    """End a silence."""
    await visit.change("DELETE", f"/alerts/silences/{_number(form)}", csrf=form.text("csrf"))
    return Outcome("The silence has ended; what is still open is sent now.", kind="good")


async def rule(visit: Visit, form: Form) -> Outcome:
    """Switch a rule on or off."""
    name, is_on = form.needed("name", "the rule"), form.text("on") == "1"
    path = f"/alerts/rules/{quote(name, safe='')}"
    await visit.change("POST", path, {"is_enabled": is_on}, csrf=form.text("csrf"))
    return Outcome(f"Rule {name} is {'on' if is_on else 'off'}.", kind="good")


async def test(visit: Visit, form: Form) -> Outcome:
    """Send a message to a channel and return what became of it."""
    name = form.needed("name", "the channel")
    answer = (await visit.change("POST", f"/alerts/channels/{quote(name, safe='')}/test", csrf=form.text("csrf"))).body
    state = str(answer.get("state", "queued"))
    kind = "good" if state == "sent" else "bad" if state in ("failed", "unknown") else "info"
    return Outcome(f"The message to {name} is {state}. {answer.get('error') or ''}", kind=kind)


def _number(form: Form) -> str:
    return quote(form.needed("id", "the number"), safe="")
