"""Kill switch: the orders and positions that it would cancel and close, engaging it, and its release."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return what would be cancelled and closed."""
    found = await visit.read_all(
        orders=("/orders", {"open": "true", "limit": 500}),
        positions="/positions",
        listed="/assets",
    )
    return {**found, "places": places_by_symbol(found["listed"].items)}


async def engage(visit: Visit, form: Form) -> ActionResult:
    """Engage the kill switch."""
    scope = form.text("scope").strip() or "system"
    body = {"reason": form.needed("reason", "a reason"), "flatten": form.is_ticked("flatten"), "scope": scope}
    answer = (await visit.change("POST", "/emergency-stop", body, csrf=form.text("csrf"))).body
    through = (
        "by the guardian" if answer.get("through") == "guardian" else "through the database: the guardian takes it over"
    )
    state = "All is quiet" if answer.get("is_quiet") else "It is at work"
    found = [
        ("Kill", str(answer.get("kill_id") or "")[:8]),
        ("Scope", "" if scope == "system" else str(answer.get("scope"))),
        ("Taken", through),
        ("Orders cancelled", str(answer["cancelled"]) if "cancelled" in answer else ""),
        ("Left", "; ".join(str(item) for item in answer.get("remaining") or ())),
    ]
    joined = "was engaged already and goes on" if answer.get("already") else "is engaged"
    text = f"The kill switch {joined}. {state}: this page shows what is left."
    return ActionResult(text, kind="good", details=tuple((name, text) for name, text in found if text))


async def release(visit: Visit, form: Form) -> ActionResult:
    """Release the kill switch."""
    body = {"scope": form.text("scope").strip() or "system"}
    answer = (await visit.change("POST", "/emergency-stop/release", body, csrf=form.text("csrf"))).body
    halted = answer.get("still_halted") or ()
    details: tuple[tuple[str, str], ...] = (
        (("Still halted", f"NinjaTrader groups {', '.join(halted)}: release them at the platform"),) if halted else ()
    )
    text = "It was not engaged." if answer.get("already") else "The kill switch is released: entries are allowed again."
    if beside := answer.get("beside"):
        details += (("Still engaged", ", ".join(str(kill["scope"]) for kill in beside)),)
    return ActionResult(text, kind="good", details=details)
