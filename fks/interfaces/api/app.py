"""`create_app`: the routes, the middleware, and the OpenAPI document with each route's scope."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.routing import RouteContext, iter_route_contexts

from fks import __version__
from fks.interfaces.api import problems
from fks.interfaces.api.auth import OPEN, read_off_host, require, scope_of
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.gateway import Deps, opened
from fks.interfaces.api.middleware import RequestMiddleware
from fks.interfaces.api.routes import ROUTERS


def create_app(deps: Deps, pages: Sequence[APIRouter] = (), host_pages: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the gateway. `pages` are routers of static HTML (fks.interfaces.web), which this package may not import;
    `host_pages` are open on this host alone.

    The connections open when the app starts (ASGI lifespan), not here.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened(deps) as gateway:
            app.state.gateway = gateway
            app.state.tokens = gateway.tokens
            yield

    app = FastAPI(
        title="FKS",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        default_response_class=ExactJson,
        redirect_slashes=True,
        description="Market data in, strategies decide, orders out. Errors are RFC 9457 problem documents.",
    )
    for router in ROUTERS:
        app.include_router(router)
    for page in pages:
        app.include_router(page, include_in_schema=False, dependencies=[require(OPEN)])
    for page in host_pages:
        app.include_router(page, include_in_schema=False, dependencies=[read_off_host()])
    app.include_router(_schema_router(app))
    problems.install(app)
    http = deps.settings.http
    if http.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(http.cors_origins),
            allow_credentials=False,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            max_age=600,
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "X-API-Key",
                "Traceparent",
                "X-Request-ID",
            ],
            expose_headers=[
                "Location",
                "Retry-After",
                "X-Request-ID",
                "Traceparent",
                "RateLimit-Limit",
                "RateLimit-Remaining",
                "RateLimit-Reset",
            ],
        )
    app.add_middleware(
        RequestMiddleware, clock=deps.clock, log=deps.log, http=http, is_behind_serve=deps.is_behind_serve
    )
    return app


def _schema_router(app: FastAPI) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json", dependencies=[read_off_host()])
    async def openapi() -> ExactJson:
        """Return the OpenAPI document. Open on loopback; from elsewhere it needs scope read."""
        return ExactJson(schema(app))

    return router


def schema(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: FastAPI's, with the scope of each route and the problem form of its errors."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = found.setdefault("components", {})
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        components.setdefault("schemas", {}).update({"Problem": _PROBLEM, "OpenAiError": _OPENAI_ERROR})
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        scopes = {(method, path): scope for method, path, scope, _ in table(app)}
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                _finish(operation, scopes[method.upper(), path], is_openai=problems.is_openai(path))
        app.openapi_schema = found
    return app.openapi_schema


def _finish(operation: dict[str, Any], scope: str, *, is_openai: bool) -> None:
    operation["x-fks-scope"] = scope
    sentence = " ".join(operation.get("description", "").partition("\n\n")[0].split())
    operation["summary"] = f"{sentence} [{scope}]"  # Swagger UI shows it beside the path
    if scope != OPEN:
        operation["security"] = [{"bearer": []}]
    form = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if is_openai:
        form = {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAiError"}}}
    operation["responses"].pop("422", None)
    operation["responses"]["default"] = {"description": "Any error", "content": form}


def table(app: FastAPI) -> list[tuple[str, str, str, str]]:
    """Return (method, path, scope, summary) of every route, in order; a route without a scope shows "" there."""
    rows = []
    for route in routes_of(app):
        scope = scope_of(route)
        summary = inspect.cleandoc(route.endpoint.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        methods = sorted((route.methods or set()) - {"HEAD"}) or ["WS"]
        rows += [(method, str(route.path_format), scope.scope if scope else "", summary) for method in methods]
    return rows


def routes_of(app: FastAPI) -> list[RouteContext]:
    """Return every route a client can reach, as it is after inclusion."""
    return [route for route in iter_route_contexts(app.routes) if hasattr(route, "dependant")]


_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "code": _TEXT, "detail": _TEXT,
        "remedy": _TEXT, "instance": _TEXT,
        "errors": {"type": "array", "items": {"type": "object", "properties": {"where": _TEXT, "why": _TEXT}}},
    },
}  # fmt: skip
_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "object", "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT, "code": _TEXT}},
    },
}
