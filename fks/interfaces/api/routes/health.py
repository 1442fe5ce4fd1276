"""Health, readiness and metrics, for load balancers, monitors and Prometheus."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from fks.interfaces.api.auth import Tokens, authenticate, read_off_host, require
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.query import Gate
from fks.interfaces.api.routing import Router
from fks.interfaces.api.views import HealthView, ReadyView
from fks.model.errors import not_found
from fks.model.health import DOWN
from fks.model.ninja import MT5, NINJA
from fks.system.monitor.health import OWNER_SERVICES
from fks.system.process.callers import is_own
from fks.system.process.metrics import SNAPSHOT_PREFIX, joined, merge, parse_snapshot

router = Router(tags=["health"], dependencies=[require("open")])
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLATFORMS = {"fks_ninja": NINJA, "fks_meta": MT5}


@router.get("/health", response_model=HealthView)
@router.get("/api/health", include_in_schema=False)
async def health(gate: Gate) -> ExactJson:
    """Return the state of the system: 200 when healthy or degraded, 503 when down (the database does not answer)."""
    report = await gate.health.report(gate.db, gate.bus)
    return ExactJson(report, status_code=503 if report["status"] == DOWN else 200)


@router.get("/ready", response_model=ReadyView)
async def ready(gate: Gate) -> ExactJson:
    """Return whether this gateway can serve routes that need the journal: 200 ready, 503 not_ready. It is while the
    database has committed a write of its own in the last 5 s: one that answers may have a full disk."""
    is_ready = await gate.health.is_ready(gate.db, gate.bus)
    dependencies = await gate.health.dependencies(gate.db, gate.bus)
    body = {"status": "ready" if is_ready else "not_ready", "dependencies": dependencies}
    return ExactJson(body, status_code=200 if is_ready else 503)


@router.get("/{service}/health", response_model=HealthView)
async def service_health(gate: Gate, service: str) -> ExactJson:
    """Return the health of one replaced service (fks_main, fks_api, …, fks_web) in the form of /health; 503 when it is
    down: none of its components is well, or none exists. `meta` is another name of fks_meta."""
    report = await gate.health.service_report(_service(service), gate.db, gate.bus)
    return ExactJson(report, status_code=503 if report["status"] == DOWN else 200)


@router.get("/{service}/ready", response_model=ReadyView)
async def service_ready(gate: Gate, service: str) -> ExactJson:
    """Return whether one replaced service works: 200 ready, 503 not_ready. That of fks_ninja has `ninja_connected`
    and `ninja_can_trade`, that of fks_meta `mt5_connected` and `mt5_can_trade`: their actors may be ready while the
    platform, where it is not required, is away."""
    service = _service(service)
    report = await gate.health.service_report(service, gate.db, gate.bus)
    is_ready = report["status"] != DOWN
    body = {"status": "ready" if is_ready else "not_ready", "dependencies": report["dependencies"]}
    if (platform := _PLATFORMS.get(service)) is not None:
        body |= await gate.health.links(platform, gate.db, gate.bus)
    return ExactJson(body, status_code=200 if is_ready else 503)


def _service(name: str) -> str:
    """Return the name of a replaced service. Errors: InputError 404 with the names."""
    name = "fks_meta" if name == "meta" else name
    if name not in OWNER_SERVICES:
        raise not_found("SERVICE_UNKNOWN", f"there is no service {name}", f"use one of {', '.join(OWNER_SERVICES)}")
    return name


@router.get("/metrics", dependencies=[read_off_host()])
async def metrics(gate: Gate) -> Response:
    """Return every component's metrics as Prometheus text. Open on loopback; from elsewhere it needs scope read."""
    return Response(await _merged(gate), media_type=_TEXT)


async def is_summary_only(request: Request) -> bool:
    """Return whether the caller may see the summary alone: it is on this host and shows no credentials.

    With credentials they must carry scope read: the caller sees everything. Errors: Problem 401, 403, 429.
    """
    tokens: Tokens = request.app.state.tokens
    has_shown = any(name in request.headers for name in ("authorization", "cookie", "x-api-key"))
    if is_own(request, tokens.http) and not has_shown and not tokens.is_loopback_read(request):
        return True
    await authenticate(request, "read")
    return False


async def _merged(gate: Replica) -> bytes:
    """Return the actors' text as the monitor merged it, and after it that of every gateway replica."""
    text = await gate.metrics_text()
    own = gate.deps.name
    names = [f"gateway:{n}" for n in range(gate.deps.settings.http.replicas)]
    found: dict[str, Any] = {own: gate.meter.snapshot()}
    for name in names:
        if name != own and (kept := await gate.bus.get(SNAPSHOT_PREFIX + name)):
            found[name] = parse_snapshot(kept)
    return joined(text.decode(errors="replace"), merge(found)).encode()
