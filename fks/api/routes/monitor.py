"""The owner's monitor paths, answered from the one status of the system."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from fks.api.auth import asks_inside
from fks.api.exact import ExactJson
from fks.api.gateway import Gateway
from fks.api.problems import Problem
from fks.api.query import Gate, Reader
from fks.api.routes.health import is_summary_only
from fks.model.timeframe import iso
from fks.monitor.health import owner_services
from fks.monitor.status import assemble

router = APIRouter(tags=["monitor"])
_STATUS = {"healthy": "healthy", "starting": "degraded", "degraded": "degraded", "down": "down"}


@router.get("/health/dashboard/", dependencies=[asks_inside("read")])
@router.get("/health/dashboard", dependencies=[asks_inside("read")], include_in_schema=False)
async def dashboard(request: Request, gate: Gate) -> Response:
    """Return every service's health as JSON, or send a browser to the monitor page.

    Open on loopback, where a caller without a token gets the summary: each service with its status, without the names
    of components and without reasons. From elsewhere it needs scope read.
    """
    if _prefers_html(request.headers.get("accept", "")):
        return RedirectResponse("/monitor/", status_code=307)
    is_short = await is_summary_only(request)
    found = await _health(gate)
    return ExactJson(_summary(found) if is_short else found)


@router.get("/monitor/api/health/")
async def health(gate: Gate, who: Reader) -> ExactJson:
    """Return the health of every service, under the owner's names."""
    return ExactJson(await _health(gate))


@router.get("/monitor/api/health/{service}/")
async def service_health(gate: Gate, who: Reader, service: str) -> ExactJson:
    """Return the health of one service (fks_main, fks_api, fks_app, fks_data, fks_execution, …)."""
    found = next((row for row in (await _health(gate))["services"] if row["id"] == service), None)
    if found is None:
        raise Problem(
            404, "SERVICE_UNKNOWN", f"no component runs for service {service}", remedy="see /monitor/api/services/"
        )
    return ExactJson(found)


@router.get("/monitor/api/services/")
async def services(gate: Gate, who: Reader) -> ExactJson:
    """List the services and the components that implement each."""
    found = (await _health(gate))["services"]
    return ExactJson({"services": found, "count": len(found)})


@router.get("/monitor/api/ping/", dependencies=[asks_inside("read")])
async def ping(request: Request, gate: Gate) -> ExactJson:
    """Answer: the gateway serves. Open on loopback; from elsewhere it needs scope read."""
    await is_summary_only(request)
    return ExactJson({"status": "ok", "service": "fks_main", "timestamp": iso(gate.deps.clock.now_ns())})


async def _health(gate: Gateway) -> dict[str, Any]:
    found = await assemble(gate.db)
    timestamp = iso(gate.deps.clock.now_ns())
    listed = owner_services(found["components"], timestamp)
    statuses = [row["status"] for row in listed]
    return {
        "status": _STATUS[found["state"]],
        "timestamp": timestamp,
        "services": listed,
        "summary": {
            "total": len(statuses),
            **{status: statuses.count(status) for status in ("healthy", "degraded", "down")},
        },
        "reasons": found["reasons"],
    }


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a health document that shows no names of components and no reasons."""
    names = ("id", "name", "service_type", "status", "last_check")
    services = [{name: row[name] for name in names} for row in found["services"]]
    return {**{name: found[name] for name in ("status", "timestamp", "summary")}, "services": services}


def _prefers_html(accept: str) -> bool:
    """Return whether a client names HTML before JSON: browsers do; curl says */* and gets JSON."""
    html, json = accept.find("text/html"), accept.find("application/json")
    return html >= 0 and (json < 0 or html < json)
