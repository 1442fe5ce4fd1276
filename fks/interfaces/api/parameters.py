"""Refusal of query parameters that a route does not take: a typo is never a default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import HTTPConnection

from fks.model.errors import unprocessable


def check_parameters(connection: HTTPConnection) -> None:
    """Errors: Problem 422 naming a query parameter that the route of an HTTP request does not take."""
    if connection.scope["type"] != "http" or not connection.query_params:
        return
    known = set(_names(connection.scope["route"].dependant))
    if unknown := [name for name in connection.query_params if name not in known]:
        raise unprocessable(
            "INVALID",
            f"{unknown[0]}: is no parameter of {connection.url.path}",
            f"it takes {', '.join(sorted(known))}" if known else "it takes none",
        )


def _names(dependant: Any) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _names(inner)
