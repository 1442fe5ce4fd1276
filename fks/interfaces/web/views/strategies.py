"""Strategies: instances, their parameters, versions and challengers, and the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.schemas import fields_of, params_of
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the instances and the catalogue."""
    found = await visit.read_all(strategies="/strategies", signals=("/signals", {"limit": 200}))
    newest: dict[str, Any] = {}
    for row in found["signals"].items:
        newest.setdefault(row["instance"], row)
    return {**found, "newest": newest}


async def load_instance(visit: Visit) -> dict[str, Any]:
    """Return one instance with its form, versions, challengers and newest signals."""
    name = visit.request.path_params["name"]
    at = f"/strategies/{quote(name, safe='')}"
    found = await visit.read_all(
        strategies="/strategies",
        versions=f"{at}/versions",
        challengers=f"{at}/challengers",
        signals=("/signals", {"instance": name, "limit": 20}),
    )
    row = next((row for row in found["strategies"].get("instances", []) if row["id"] == name), None)
    kind = None if row is None else entry_of(found["strategies"].data, row["strategy"])
    fields = fields_of(kind["params"], row["params"]) if row and kind else []
    return {**found, "name": name, "row": row, "kind": kind, "fields": fields}


def entry_of(strategies: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """Return a strategy of the catalogue."""
    found = (strategies or {}).get("catalogue") or ()
    return next((entry for entry in found if entry["name"] == name), None)


async def rollback(visit: Visit, form: Form) -> ActionResult:
    """Give an instance the parameters back that the ones in force replaced."""
    return await _changed(visit, form, "rollback", "has the parameters back that it had before")


async def demote(visit: Visit, form: Form) -> ActionResult:
    """Give an instance the parameters back that its challenger replaced."""
    return await _changed(
        visit, form, "demote", "gets the parameters back that its challenger replaced, once it is flat"
    )


async def _changed(visit: Visit, form: Form, what: str, outcome: str) -> ActionResult:
    name = form.needed("instance", "the instance")
    path = f"/strategies/{quote(name, safe='')}/{what}"
    answer = (await visit.change("POST", path, csrf=form.text("csrf"), key=form.text("key") or None)).body
    return ActionResult(f"{name} {outcome}.", kind="good", details=_details(answer))


async def switch(visit: Visit, form: Form) -> ActionResult:
    """Switch an instance on or off."""
    name, is_on = form.needed("instance", "the instance"), form.text("on") == "1"
    path = f"/strategies/{quote(name, safe='')}/{'enable' if is_on else 'disable'}"
    await visit.change("POST", path, csrf=form.text("csrf"))
    text = (
        "is on: it decides again from the next bar" if is_on else "is off: it sends no more signals; its position stays"
    )
    return ActionResult(f"{name} {text}.", kind="good")


async def change(visit: Visit, form: Form) -> ActionResult:
    """Give an instance the parameters of the form as its next version."""
    name = form.needed("instance", "the instance")
    visit.ensure("trade")
    found = await visit.read("/strategies")
    row = next((row for row in found["instances"] if row["id"] == name), None)
    kind = None if row is None else entry_of(found, row["strategy"])
    if row is None or kind is None:
        raise GatewayRefusal(404, "INSTANCE_UNKNOWN", f"there is no instance {name!r}", "see the list of strategies")
    version = form.whole("version", "version", "load the page again")
    body = {"params": params_of(form, kind["params"]), "base_version": version}
    path = f"/strategies/{quote(name, safe='')}/params"
    answer = (await visit.change("POST", path, body, csrf=form.text("csrf"))).body
    return ActionResult(f"{name} runs version {answer['version']} from the next bar on.", kind="good")


async def propose(visit: Visit, form: Form) -> ActionResult:
    """Queue a test of a challenger against its champion."""
    id = _challenger(form)
    answer = (await visit.change("POST", f"/challengers/{id}/propose", csrf=form.text("csrf"))).body
    return ActionResult("The test is queued; its outcome shows below.", details=_details(answer))


async def swap(visit: Visit, form: Form) -> ActionResult:
    """Give the instance the parameters of a challenger, once it is flat."""
    id = _challenger(form)
    answer = (await visit.change("POST", f"/challengers/{id}/swap", csrf=form.text("csrf"))).body
    return ActionResult("The instance takes the challenger's parameters once it is flat.", details=_details(answer))


def _challenger(form: Form) -> str:
    id = form.needed("id", "the challenger")
    return quote(id, safe="")


def _details(answer: Any) -> tuple[tuple[str, str], ...]:
    """Return the plain members of an answer."""
    found = answer.items() if isinstance(answer, dict) else ()
    return tuple((name, str(value)) for name, value in found if isinstance(value, str | int | float | bool))
