"""Monitor: the supervision tree, its events, the health of services, nodes, venues and the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import ReadResult, Visit

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_EVENTS = 60
#: Events that only repeat the end that stands before them.
_ECHOES, _ENDS = ("restarted", "stopping"), ("exited", "escalated", "asked")


async def load(visit: Visit) -> dict[str, Any]:
    """Return the tree as rows with their depth, the newest events first, and what runs where."""
    found = await visit.read_all(
        tree="/system/tree",
        events=("/system/events", {"limit": _EVENTS}),
        status="/api/status",
        venues="/venues",
        health="/monitor/api/health/",
        registry="/monitor/api/registry/",
        operations=("/operations", {"limit": 10}),
        alerts="/alerts",
    )
    rows = list(_rows(found["tree"].get("tree") or ()))
    parts = [row["component"] for row in rows if row["component"]]
    return {**found, "rows": rows, "parts": parts, "happened": without_echoes(found["events"].items)}


async def load_part(visit: Visit) -> dict[str, Any]:
    """Return one component or service: its state, its events with the last log lines, and its checks."""
    name = visit.request.path_params["name"]
    found = await visit.read_all(
        tree="/system/tree",
        events=("/system/events", {"child": name, "full": "true", "limit": 50}),
        health=f"/monitor/api/health/{quote(name, safe='')}/",
    )
    level = visit.request.query_params.get("level", "")
    level = level if level in LEVELS else LEVELS[0]
    log = {"log": ReadResult()}
    if visit.may("admin"):
        log = await visit.read_all(log=(f"/system/logs/{quote(name, safe='')}", {"lines": 200, "level": level}))
    rows = [row for row in _rows(found["tree"].get("tree") or ()) if row["id"] == name]
    part = rows[0] if rows else None
    is_unknown = part is None and not found["events"].items and found["health"].refusal is not None
    is_service = found["health"].refusal is None
    return {
        **found,
        **log,
        "levels": LEVELS,
        "level": level,
        "name": name,
        "part": part,
        "is_unknown": is_unknown,
        "is_service": is_service,
        "happened": list(reversed(found["events"].items)),
    }


def _rows(nodes: Iterable[Mapping[str, Any]], depth: int = 0, parent: str = "") -> Iterable[dict[str, Any]]:
    for node in nodes:
        found = {"component": None, "strategy": None, "limit": None, "used": None, **node}
        yield found | {"depth": min(depth, 6), "parent": parent}
        yield from _rows(node.get("children") or (), depth + 1, str(node.get("id", "")))


def without_echoes(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return events, newest first, without those that only repeat the end before them."""
    last: dict[str, Mapping[str, Any]] = {}
    kept = []
    for event in events:
        child = str(event.get("child"))
        before = last.get(child, {})
        is_same = before.get("event") == "exited" or before.get("reason") == event.get("reason")
        if not (event.get("event") in _ECHOES and before.get("event") in _ENDS and is_same):
            kept.append(event)
        last[child] = event
    return kept[::-1]


async def restart(visit: Visit, form: Form) -> ActionResult:
    """Ask the supervisor to restart a part."""
    target = form.needed("target", "the part")
    body = {"kind": "restart", "target": target, "reason": form.needed("reason", "a reason")}
    answer = (await visit.change("POST", "/operations", body, csrf=form.text("csrf"))).body
    details = (("State", str(answer["state"])), ("Operation", str(answer["id"])))
    return ActionResult(
        f"The restart of {answer['target']} is asked for; this page shows its progress.", details=details
    )


async def venue(visit: Visit, form: Form) -> ActionResult:
    """Enable or disable a venue, at the version that the page showed."""
    name, enabled = form.needed("name", "the venue"), form.text("enabled") == "true"
    body = {"is_enabled": enabled, "version": form.whole("version", "the version", "load the page again")}
    await visit.change("PATCH", f"/venues/{quote(name, safe='')}", body, csrf=form.text("csrf"))
    text = "takes entries" if enabled else "takes no entries; exits, protection and cancels go on"
    return ActionResult(f"{name} {text}.", kind="good")


async def check(visit: Visit, form: Form) -> ActionResult:
    """Run the deep checks now."""
    answer = (await visit.change("POST", "/monitor/api/check/", csrf=form.text("csrf"))).body
    bad = [row for row in answer["checks"] if row["status"] in ("down", "degraded")]
    details = tuple((str(row["service"]), f"{row['status']}: {row['error'] or ''}") for row in bad)
    text = f"{len(answer['checks'])} checks were made, {len(bad)} of them not healthy."
    return ActionResult(text, kind="bad" if bad else "good", details=details)
