"""Data: assets that are collected, coverage of the stored series, gaps and the quarantine."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return assets, the coverage of each series, and the values in quarantine."""
    found = await visit.read_all(
        listed="/assets",
        coverage=("/data/coverage", {"cells": 30}),
        quarantine=("/data/quarantine", {"limit": 50}),
    )
    return {**found, "places": places_by_symbol(found["listed"].items)}


async def load_series(visit: Visit) -> dict[str, Any]:
    """Return the gaps of one series."""
    asked = visit.request.query_params
    names = {name: asked.get(name, "")[:64] for name in ("exchange", "symbol", "timeframe")}
    return {**names, **await visit.read_all(gaps=("/data/gaps", names))}


async def enable(visit: Visit, form: Form) -> ActionResult:
    """Collect a symbol and fetch its history."""
    body: dict[str, Any] = {"symbol": form.needed("symbol", "the symbol")}
    if form.text("history"):
        body["history"] = form.whole("history", "number of days", "write 30, or leave it empty")
    if form.text("exchange"):
        body["exchange"] = form.text("exchange")
    if form.text("timeframes"):
        body["timeframes"] = form.text("timeframes").replace(",", " ").split()
    items = (await visit.change("POST", "/assets/enable", body, csrf=form.text("csrf"))).body["items"]
    return ActionResult(
        f"{_names(items)} is collected, and its history fetched; the state below shows how far.", kind="good"
    )


async def sync(visit: Visit, form: Form) -> ActionResult:
    """Fetch the history of a collected symbol again, or further back."""
    days = form.whole("history", "number of days", "write 30")
    body = {"symbol": form.needed("symbol", "the symbol"), "history": days}
    if form.text("exchange"):
        body["exchange"] = form.text("exchange")
    items = (await visit.change("POST", "/assets/enable", body, csrf=form.text("csrf"))).body["items"]
    return ActionResult(
        f"{days} days of {_names(items)} are fetched; what is stored is only completed. Coverage shows how far.",
        kind="good",
    )


async def disable(visit: Visit, form: Form) -> ActionResult:
    """Stop to collect a symbol."""
    body = {"symbol": form.needed("symbol", "the symbol"), "exchange": form.text("exchange") or None}
    items = (await visit.change("POST", "/assets/disable", body, csrf=form.text("csrf"))).body["items"]
    return ActionResult(f"{_names(items)} is not collected any more; what is stored stays.", kind="good")


async def settle(visit: Visit, form: Form) -> ActionResult:
    """Confirm or refuse a value that is in quarantine."""
    id, verdict = form.needed("id", "the number"), form.text("verdict")
    path = f"/data/quarantine/{quote(id, safe='')}/settle"
    answer = (await visit.change("POST", path, {"verdict": verdict}, csrf=form.text("csrf"))).body
    return ActionResult(f"Value {id} is {answer['verdict']}.", kind="good")


def _names(items: list[dict[str, Any]]) -> str:
    return ", ".join(str(item.get("symbol")) for item in items) or "It"
