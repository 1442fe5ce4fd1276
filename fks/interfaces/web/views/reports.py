"""Reports of periods that are over, and what became of their messages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the stored reports, the chosen or the newest one, and the channels that it can be sent to."""
    found = await visit.read_all(reports=("/reports", {"limit": 50}), channels="/alerts/channels")
    id = visit.request.query_params.get("report") or next((str(row["id"]) for row in found["reports"].items), "")
    one = await visit.read_all(report=f"/reports/{quote(id, safe='')}") if id else {"report": None}
    return {**found, **one, "chosen": id}


async def send(visit: Visit, form: Form) -> ActionResult:
    """Have a report delivered to a channel, once."""
    id, channel = form.needed("id", "the report"), form.needed("channel", "the channel")
    path = f"/reports/{quote(id, safe='')}/send"
    answer = (await visit.change("POST", path, {"channel": channel}, csrf=form.text("csrf"))).body
    return ActionResult(f"{answer['title']} goes to {channel}.", kind="good")
