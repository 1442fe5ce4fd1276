"""The gateway's router takes exactly the requests that FastAPI's own takes."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from fks.interfaces.api.routing import Router

PATHS = ("/", "/orders", "/orders/{id}", "/orders/{id}/cancel", "/health/dashboard/", "/a-b", "/openapi.json")
SEGMENTS = st.sampled_from(["", "orders", "order", "health", "dashboard", "a-b", "x", "openapi.json", "cancel", "ü"])
REQUESTS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts))


def app_of(kind: type[APIRouter], paths: tuple[str, ...]) -> FastAPI:
    app, router = FastAPI(openapi_url=None), kind()
    for path in paths:
        router.add_api_route(path, lambda: None, methods=["GET"])
    app.include_router(router)
    return app


def matches(app: FastAPI, path: str, root: str, method: str) -> list[Any]:
    scope = {"type": "http", "path": root + path, "root_path": root, "method": method, "app": app, "headers": []}
    return [route.matches(dict(scope))[0] for route in app.router.routes]


@given(REQUESTS, st.sampled_from(["", "/api/v1"]), st.sampled_from(["GET", "POST"]), st.sets(st.sampled_from(PATHS)))
def test_it_takes_what_fastapi_takes(path: str, root: str, method: str, paths: set[str]) -> None:
    chosen = tuple(sorted(paths))
    assert matches(app_of(Router, chosen), path, root, method) == matches(app_of(APIRouter, chosen), path, root, method)


@pytest.mark.parametrize("path", ["/fks_data/health", "/anything/health"])
def test_a_route_that_begins_with_a_parameter_takes_any_first_segment(path: str) -> None:
    paths = ("/orders", "/{service}/health")
    ours, theirs = matches(app_of(Router, paths), path, "", "GET"), matches(app_of(APIRouter, paths), path, "", "GET")
    assert ours == theirs
    assert ours[0].name == "FULL"


def test_a_route_that_is_added_later_is_taken() -> None:
    app, router = FastAPI(openapi_url=None), Router()
    app.include_router(router)
    assert matches(app, "/late", "", "GET")[0].name == "NONE"
    router.add_api_route("/late", lambda: None, methods=["GET"])
    assert matches(app, "/late", "", "GET")[0].name == "FULL"
