"""The owner's monitor paths: health of services, the registry, and the deep checks."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from pydantic import Field, ValidationError

from fks.interfaces.api.auth import asks_inside
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.problems import of_model
from fks.interfaces.api.query import Admin, Body, BodyOf, Gate, Reader, read_body
from fks.interfaces.api.routes.health import is_summary_only
from fks.interfaces.api.routing import Router, takes
from fks.model.errors import not_found
from fks.model.timeframe import iso
from fks.model.untrusted import parse
from fks.system.monitor.deep import DeepChecks, history_of, overview, summary_of
from fks.system.monitor.health import OPTIONAL, OWNER_SERVICES
from fks.system.monitor.registry import Registration, Registry, unknown
from fks.system.monitor.status import component_view, node_view

router = Router(tags=["monitor"])
_CHECKS = 20
_MINUTES = 60


class DiscoverBody(Body):
    """A service to register. Without a body FKS's own services are registered again."""

    name: str = Field(max_length=64)
    service_type: str = Field("", max_length=64)
    host: str = Field(max_length=253, description="in monitor.hosts of fks.toml")
    port: int = Field(ge=1, le=65535)
    health_endpoint: str = Field("/health", max_length=200, description="an absolute path")
    version: str = Field("", max_length=64)


class DependencyBody(Body):
    """One service needs another: down without a critical one, degraded without an optional one."""

    service: str = Field(max_length=64)
    depends_on: str = Field(max_length=64)
    is_critical: bool = False


@router.get("/health/dashboard/", dependencies=[asks_inside("read")])
@router.get("/health/dashboard", dependencies=[asks_inside("read")], include_in_schema=False)
async def dashboard(request: Request, gate: Gate) -> Response:
    """Return every service's health as JSON, or send a browser to the monitor page while the pages are on.

    Open on loopback, where a caller without a token gets the summary: each service with its status, without the names
    of components and without reasons. From elsewhere it needs scope read.
    """
    if gate.deps.settings.web.enabled and _prefers_html(request.headers.get("accept", "")):
        return RedirectResponse("/app/monitor", status_code=307)
    is_short = await is_summary_only(request)
    found = await _health(gate)
    return ExactJson(_summary(found) if is_short else found)


@router.get("/monitor/api/health/")
async def health(gate: Gate, caller: Reader) -> ExactJson:
    """Return the health of every service, under the owner's names, with uptime and the results of the deep checks."""
    return ExactJson(await _health(gate))


@router.get("/monitor/api/health/{service}/")
async def service_health(gate: Gate, caller: Reader, service: str) -> ExactJson:
    """Return the health of one service (fks_main, fks_api, fks_app, fks_data, fks_execution, …) or check (database,
    clock, …), with its last checks and metrics."""
    found = await _health(gate)
    row = next((row for row in found["services"] if row["id"] == service), None)
    row = row or next(({"id": service, **row} for row in found["checks"] if row["service"] == service), None)
    if row is None:
        raise not_found("SERVICE_UNKNOWN", f"no component runs for service {service}", "see /monitor/api/services/")
    parts = [service, *row.get("components", ())]
    minutes = [dict(found) for found in await gate.db.fetch("registry.metrics", parts, _MINUTES)]
    return ExactJson({**row, "history": await history_of(gate.db, service, _CHECKS), "metrics": minutes})


@router.get("/monitor/api/services/")
async def services(gate: Gate, caller: Reader) -> ExactJson:
    """List the services and the components that implement each."""
    found = (await _health(gate))["services"]
    return ExactJson({"services": found, "count": len(found)})


@router.get("/monitor/api/registry/")
async def registry(gate: Gate, caller: Reader) -> ExactJson:
    """List the registry: services, services of others, nodes and components, each component under its services."""
    rows = await Registry(gate.db).list()
    components = {row["name"]: component_view(dict(row)) for row in await gate.db.fetch("monitor.components")}
    nodes = {f"node:{row['name']}": node_view(dict(row)) for row in await gate.db.fetch("monitor.nodes")}
    statuses = {row["name"]: row["status"] for row in (await _health(gate))["services"]}
    running = {name: row["state"] for name, row in (nodes | components).items()}
    shown = [
        {"id": row["name"], **row, "status": statuses.get(row["name"]) or running.get(row["name"])} for row in rows
    ]
    grouped = {
        service: [row["name"] for row in shown if service in row["services"]]
        for service in OWNER_SERVICES
        if service in OPTIONAL or any(service in row["services"] for row in shown)
    }
    return ExactJson({"services": shown, "groups": grouped, "count": len(shown)})


@router.post("/monitor/api/discover/", openapi_extra=takes(DiscoverBody))
async def discover(gate: Gate, caller: Admin, request: Request) -> ExactJson:
    """Register a service of others, or say where one of ours can be reached; without a body register ours again.

    Only hosts of `monitor.hosts` are taken, and no name that resolves to a private address that is not in it.
    """
    raw = (await read_body(request)).strip()
    store = Registry(gate.db)
    found = parse(raw) if raw else {}
    if found == {}:
        names = await register_own(gate)
        return ExactJson({"success": True, "registered": len(names), "services": names})
    request.state.body = found
    try:
        body = DiscoverBody.model_validate(found)
    except ValidationError as error:
        raise of_model(error, request.url.path) from None
    row = await store.register(Registration(**body.model_dump()), gate.deps.settings.monitor.hosts, by=caller.name)
    is_new = row.pop("is_new")
    gate.deps.log.info("service.registered", name=body.name, host=body.host, port=body.port, by=caller.name)
    return ExactJson({"success": True, "registered": 1, "is_new": is_new, "service": {"id": row["name"], **row}})


@router.delete("/monitor/api/registry/{name}/")
async def forget(gate: Gate, caller: Admin, name: str) -> ExactJson:
    """Remove a service of others from the registry; our own come back with their next heartbeat and are refused."""
    await Registry(gate.db).remove(name)
    gate.deps.log.info("service.removed", name=name, by=caller.name)
    return ExactJson({"name": name, "removed": True})


@router.get("/monitor/api/dependencies/")
async def dependencies(gate: Gate, caller: Reader) -> ExactJson:
    """List which service needs which."""
    found = await Registry(gate.db).dependencies()
    rows = [{"service": d.service, "depends_on": d.depends_on, "is_critical": d.is_critical} for d in found]
    return ExactJson({"dependencies": rows, "count": len(rows)})


@router.post("/monitor/api/dependencies/")
async def depend(gate: Gate, caller: Admin, body: BodyOf[DependencyBody]) -> ExactJson:
    """Say that a service needs another one, or a check (database, redis, exchange, venue, disk, clock, …)."""
    known = {row["name"] for row in await Registry(gate.db).list() if row["kind"] in ("service", "external")}
    if body.service not in known:
        raise unknown(body.service)
    if body.depends_on not in known | set(DeepChecks.CHECKS) or body.depends_on == body.service:
        raise unknown(body.depends_on)
    await gate.db.execute("registry.set_dependency", body.service, body.depends_on, body.is_critical)
    return ExactJson(body.model_dump())


@router.delete("/monitor/api/dependencies/{service}/{name}/")
async def free(gate: Gate, caller: Admin, service: str, name: str) -> ExactJson:
    """Say that a service does not need another one."""
    if await gate.db.fetchrow("registry.remove_dependency", service, name) is None:
        raise unknown(f"{service} → {name}")
    return ExactJson({"service": service, "depends_on": name, "removed": True})


@router.post("/monitor/api/check/")
async def check(gate: Gate, caller: Admin) -> ExactJson:
    """Run the deep checks now, on this node, and return their results, which are stored like those of every two
    minutes."""
    deps = gate.deps
    look = await DeepChecks(gate.db, gate.bus, deps.clock, deps.settings, deps.paths).run()
    return ExactJson(look.document())


@router.get("/monitor/api/ping/", dependencies=[asks_inside("read")])
async def ping(request: Request, gate: Gate) -> ExactJson:
    """Answer: the gateway serves. Open on loopback; from elsewhere it needs scope read."""
    await is_summary_only(request)
    return ExactJson({"status": "ok", "service": "fks_main", "timestamp": iso(gate.deps.clock.now_ns())})


async def register_own(gate: Replica) -> list[str]:
    """Write what runs into the registry, from its heartbeats; return the names of the services."""
    components = [component_view(dict(row)) for row in await gate.db.fetch("monitor.components")]
    nodes = [node_view(dict(row)) for row in await gate.db.fetch("monitor.nodes")]
    names = await Registry(gate.db).register_own(components, nodes)
    return [name for name in names if name in OWNER_SERVICES]


async def _health(gate: Replica) -> dict[str, Any]:
    return await overview(gate.db, gate.deps.clock, gate.deps.settings)


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a health document that shows no names of components and no reasons."""
    names = ("id", "name", "service_type", "status", "last_check")
    services = [{name: row[name] for name in names} for row in found["services"] if row["kind"] == "service"]
    counts = summary_of([row["status"] for row in services])
    return {"status": found["status"], "timestamp": found["timestamp"], "summary": counts, "services": services}


def _prefers_html(accept: str) -> bool:
    """Return whether a client names HTML before JSON: browsers do; curl says */* and gets JSON."""
    html, json = accept.find("text/html"), accept.find("application/json")
    return html >= 0 and (json < 0 or html < json)
