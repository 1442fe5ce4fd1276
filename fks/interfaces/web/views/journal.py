"""Journal of closed trades: search, and the tags and the note of one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.formats import places_by_symbol
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit

FILTERS = ("symbol", "instance", "tag", "text", "result")


async def load(visit: Visit) -> dict[str, Any]:
    """Return the newest trades that match the query, and the chosen one."""
    asked = visit.request.query_params
    before, chosen = asked.get("before", ""), {name: asked.get(name, "")[:128] for name in FILTERS}
    number = before if before.isdigit() and len(before) < 19 else None
    params = {**{name: text or None for name, text in chosen.items()}, "before": number, "limit": 50}
    found = await visit.read_all(journal=("/journal", params), listed="/assets")
    id = asked.get("entry", "")
    one = await visit.read_all(entry=f"/journal/{quote(id, safe='')}") if id else {"entry": None}
    return {**found, **one, "chosen": chosen, "places": places_by_symbol(found["listed"].items)}


async def note(visit: Visit, form: Form) -> ActionResult:
    """Change the tags and the note of a trade that is still at the version that was shown."""
    body = {
        "version": form.whole("version", "version of the notes", "load the page again"),
        "tags": form.text("tags").replace(",", " ").split(),
        "note": form.text("note"),
    }
    path = f"/journal/{quote(form.needed('id', 'the trade'), safe='')}"
    answer = (await visit.change("PATCH", path, body, csrf=form.text("csrf"))).body
    return ActionResult(f"The notes of {answer['symbol']} are kept, version {answer['version']}.", kind="good")
