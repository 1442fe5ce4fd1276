"""Router of the gateway's routes: a request is compared only with those whose path begins like its own.

FastAPI compares a request with one route after the other. With 140 routes that was two thirds of the CPU of a cheap
request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

#: attribute of a dependency that reads the body: its model
BODY = "body"


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the route reads by itself."""
    schema = model.model_json_schema(mode="validation")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class Router(APIRouter):
    """Refuses a path at once whose first segment none of its routes has. Include it without a prefix."""

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        """Add a route; the body that one of its dependencies reads is described in OpenAPI."""
        super().add_api_route(path, endpoint, **given)
        route = self.routes[-1]
        assert isinstance(route, APIRoute)
        for dependency in route.dependant.dependencies:
            if (model := getattr(dependency.call, BODY, None)) is not None:
                route.openapi_extra = takes(model)

    _known: tuple[int, frozenset[str] | None] = (0, frozenset())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether one of the routes takes the request, as FastAPI's router does."""
        if self._known[0] != len(self.routes):
            self._known = len(self.routes), first_segments(self.routes)
        known = self._known[1]
        if known is not None and first_segment(scope["path"].removeprefix(scope.get("root_path", ""))) not in known:
            return Match.NONE, {}
        return super().matches(scope)


def first_segments(routes: list[BaseRoute]) -> frozenset[str] | None:
    """Return the first segments of the routes' paths; None when one of them may be any."""
    found = {first_segment(getattr(route, "path", "/{any}")) for route in routes}
    return None if any("{" in segment for segment in found) else frozenset(found)


def first_segment(path: str) -> str:
    """Return what is between the first slash of a path and the second one, or its end."""
    return path.removeprefix("/").partition("/")[0]
