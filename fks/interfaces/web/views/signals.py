"""Approval queue: signals that wait for a person, and what became of those before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fks.interfaces.web import formats
from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.outcomes import outcome_of
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import ReadResult, Visit

_ID = re.compile(r"[0-9a-fA-F-]{32,36}")
#: Age of a feed's last message at which an entry would be denied by default (risk.feed_age_max_s).
_FEED_OLD_MS = 5_000


async def load(visit: Visit) -> dict[str, Any]:
    """Return the pending signals with the known objections to each, and the newest decided ones."""
    found = await visit.read_all(
        pending=("/signals", {"state": "pending", "limit": 100}),
        recent=("/signals", {"limit": 30}),
        status="/api/status",
        incidents=("/incidents", {"open": "true", "limit": 50}),
        listed="/assets",
    )
    checks = {row["id"]: checks_of(row, found["status"], found["incidents"], visit) for row in found["pending"].items}
    decided = [row for row in found["recent"].items if row["state"] != "pending"]
    places = formats.places_by_symbol(found["listed"].items)
    return {**found, "checks": checks, "decided": decided, "places": places}


def checks_of(
    row: Mapping[str, Any], status: ReadResult, incidents: ReadResult, visit: Visit
) -> list[tuple[str, str, str]]:
    """Return (check, outcome, detail) of the checks that can be made from outside now. Outcomes are pass, fail and
    unknown.

    The order manager makes all of its checks again when the signal is approved, and once more before the bytes.
    """
    if status.refusal is not None:
        return [("State of the system", "unknown", status.refusal.detail)]
    until = formats.moment(row.get("valid_until"))
    is_open = until is None or until > visit.now
    found = [("Still valid", "pass" if is_open else "fail", "" if until is None else formats.when(until, visit.zone))]
    kill = status.get("kill") or {}
    is_exit = row["kind"] == "exit"
    engaged = bool(kill.get("engaged"))
    if not is_exit:
        scopes = kill.get("scopes") or ["system"]  # whether a narrower one concerns it, the order manager decides
        verdict = "pass" if not engaged else "fail" if "system" in scopes else "unknown"
        found.append(("Kill switch is off", verdict, str(kill.get("reason") or "")))
    parts = {part["name"]: part for part in status.get("components") or ()}
    for name in ("orders", "guardian"):
        part = parts.get(name)
        state = part["state"] if part else "not known"
        verdict = "unknown" if part is None else "pass" if state in ("ready", "running") else "fail"
        found.append((f"{'Order manager' if name == 'orders' else 'Guardian'} is alive", verdict, state))
    venue = next((item for item in status.get("venues") or () if item.get("name") == row["venue"]), None)
    if venue is None:
        found.append((f"Venue {row['venue']} is reconciled", "unknown", "it reports nothing"))
    else:
        found.append(
            (f"Venue {row['venue']} is reconciled", "pass" if venue["state"] == "READY" else "fail", venue["state"])
        )
    feeds = [item for item in status.get("feeds") or () if item["symbol"] == row["symbol"]]
    feed = next((item for item in feeds if item.get("exchange") == row.get("exchange")), feeds[0] if feeds else None)
    if not is_exit:
        if feed is None:
            found.append(("Price is live", "unknown", "the symbol is not collected"))
        else:
            age = feed.get("age_ms")
            is_live = feed["state"] == "LIVE" and age is not None and age <= _FEED_OLD_MS
            detail = feed["state"] if age is None else f"{feed['state']}, {formats.span(age / 1000)} old"
            found.append(("Price is live", "pass" if is_live else "fail", detail))
    if incidents.refusal is None and not is_exit:
        opened = [item for item in incidents.items if item["account"] == row["account"]]
        detail = "; ".join(str(item["subject"]) for item in opened[:3])
        found.append(("No incident is open on the account", "fail" if opened else "pass", detail))
    return found


async def approve(visit: Visit, form: Form) -> ActionResult:
    """Approve a signal and return what the journal says of it then."""
    id = _id(form)
    await visit.change("POST", f"/signals/{id}/approve", csrf=form.text("csrf"))
    return await outcome_of(visit, id)


async def reject(visit: Visit, form: Form) -> ActionResult:
    """Reject a signal and return what the journal says of it then."""
    id = _id(form)
    await visit.change("POST", f"/signals/{id}/reject", csrf=form.text("csrf"))
    return await outcome_of(visit, id)


def _id(form: Form) -> str:
    found = form.needed("id", "the signal")
    if not _ID.fullmatch(found):
        raise GatewayRefusal(422, "SIGNAL_UNKNOWN", "this is no signal's id", "use the buttons of the page")
    return found
