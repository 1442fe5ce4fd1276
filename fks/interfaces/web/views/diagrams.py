"""Diagrams: life of an order and of a feed, data flow, supervision tree; each as a picture and as a table."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from fks.interfaces.web import diagrams
from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.site import Site
from fks.interfaces.web.visits import ReadResult, Visit

TITLES = {"orders": "Life of an order", "feeds": "Life of a feed", "flow": "Data flow", "tree": "Supervision tree"}
#: Of the frame alone: Mermaid writes styles into its picture. Without an origin it reaches neither cookies nor pages.
FRAME_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


async def load(visit: Visit) -> dict[str, Any]:
    """Return the rows of the chosen diagram."""
    wanted = visit.request.query_params.get("name", "")
    name = wanted if wanted in TITLES else "orders"
    found = await _read(visit, name)
    return {"name": name, "titles": TITLES, **found}


async def _read(visit: Visit, name: str) -> dict[str, Any]:
    """Return the diagram's text, its rows, and the refusal in their place."""
    if name in ("orders", "feeds"):
        machine = (await visit.read_all(machine=f"/system/machines/{name}"))["machine"]
        text = "" if machine.refusal else diagrams.machine(machine.data)
        return {"refusal_of": machine.refusal, "text": text, "machine": machine, "ways": [], "parts": []}
    if name == "tree":
        tree = (await visit.read_all(tree="/system/tree"))["tree"]
        roots = tree.get("tree") or []
        rows = [("", root) for root in roots]
        parts: list[tuple[str, Any]] = []
        while rows:
            parent, node = rows.pop(0)
            parts.append((parent, node))
            rows = [(str(node["id"]), child) for child in node.get("children") or ()] + rows
        return {
            "refusal_of": tree.refusal,
            "text": diagrams.tree(roots),
            "machine": ReadResult(),
            "ways": [],
            "parts": parts,
        }
    read = await visit.read_all(listed="/assets", strategies="/strategies", status="/api/status")
    refusal = next((one.refusal for one in read.values() if one.refusal is not None), None)
    ways = diagrams.flow_rows(
        read["listed"].items, read["strategies"].get("instances", []), read["status"].get("venues", [])
    )
    return {"refusal_of": refusal, "text": diagrams.flow(ways), "machine": ReadResult(), "ways": ways, "parts": []}


async def frame(site: Site, request: Request) -> Response:
    """Return the document of the sandboxed frame that draws one diagram."""
    visit = await site.visit(request)
    name = request.path_params["name"]
    if name not in TITLES:
        raise GatewayRefusal(404, "PAGE_UNKNOWN", "there is no such diagram", "use the page's own links")
    found = await _read(visit, name)
    if found["refusal_of"] is not None:
        raise found["refusal_of"]
    answer = site.fragment(request, "diagram.html", refusal=None, title=TITLES[name], text=found["text"])
    answer.headers["Content-Security-Policy"] = FRAME_POLICY
    answer.headers["X-Frame-Options"] = "SAMEORIGIN"
    return answer
