"""Reads of the REST API as GraphQL fields: names, arguments, models and scopes, taken from the registered routes."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import BaseModel

from fks.interfaces.api import policy
from fks.interfaces.api.auth import scope_of
from fks.interfaces.api.exact import ExactJson
from fks.interfaces.api.problems import is_openai

#: Parameters that choose another form of an answer than JSON.
_FORMS: Final = frozenset({"format"})


@dataclass(frozen=True, slots=True)
class Argument:
    """A path or query parameter of a route. `kind` is bool, int, float or str: the route itself checks the value."""

    name: str
    kind: type
    is_needed: bool
    is_in_path: bool
    description: str


@dataclass(frozen=True, slots=True)
class Read:
    """A GET route that answers JSON. Without a `model` its answer is a JSON scalar."""

    name: str
    path: str
    route: RouteContext
    arguments: tuple[Argument, ...]
    model: type[BaseModel] | None
    scope: str

    @property
    def cost(self) -> int:
        """Return what a call of the route costs at least (`fks.interfaces.api.policy`)."""
        return max(1, policy.cost_of(("GET", self.path)))

    @property
    def summary(self) -> str:
        """Return the first paragraph of the route's documentation."""
        text = inspect.getdoc(self.route.endpoint) or "" if self.route.endpoint else ""
        return " ".join(text.split("\n\n")[0].split())


def reads_of(app: FastAPI) -> list[Read]:
    """Return the reads of `app` in the order of its routes. Errors: ValueError when two have one name."""
    found = [_read(route) for route in iter_route_contexts(app.routes) if _is_read(route)]
    names = [read.name for read in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two routes are the GraphQL field {twice[0]}")
    return found


def field_name(path: str) -> str:
    """Return the field of a route: its path segments joined by `_`, where one before a parameter is singular.

    `/orders` is `orders`, `/orders/{id}/events` is `order_events`, `/historical/{symbol}` is `historical_by_symbol`.
    """
    segments: list[str] = []
    for part in filter(None, path.split("/")):
        if not part.startswith("{"):
            segments.append(part.replace("-", "_"))
            continue
        parameter = part[1:-1].partition(":")[0]
        segments += [_singular(segments.pop(), parameter)] if segments else [parameter]
    return "_".join(segments)


def _singular(segment: str, parameter: str) -> str:
    if segment.endswith("ies"):
        return segment[:-3] + "y"
    return segment[:-1] if segment.endswith("s") and not segment.endswith("ss") else f"{segment}_by_{parameter}"


def _is_read(route: RouteContext) -> bool:
    if "GET" not in (route.methods or ()) or not getattr(route, "include_in_schema", False):
        return False
    if not hasattr(route, "dependant") or route.endpoint is None:
        return False
    if is_openai(str(route.path_format)):  # another form of /ai/deployments, for OpenAI's clients
        return False
    answers = inspect.signature(route.endpoint).return_annotation
    return _model(route) is not None or answers in (ExactJson, ExactJson.__name__)


def _model(route: RouteContext) -> type[BaseModel] | None:
    model = route.response_model
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _read(route: RouteContext) -> Read:
    path = str(route.path_format)
    scope = scope_of(route)
    assert scope is not None, f"GET {path} names no scope"
    return Read(field_name(path), path, route, tuple(_arguments(route.dependant)), _model(route), scope.scope)


def _arguments(dependant: Any) -> Iterator[Argument]:
    for fields, is_in_path in ((dependant.path_params, True), (dependant.query_params, False)):
        for field in fields:
            if field.alias in _FORMS:
                continue
            info = field.field_info
            is_needed = is_in_path or info.is_required()
            yield Argument(field.alias, _kind(info.annotation), is_needed, is_in_path, info.description or "")
    for inner in dependant.dependencies:
        yield from _arguments(inner)


def _kind(annotation: Any) -> type:
    """Return the scalar that a parameter is given as; text for types that the route parses from text."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = {_kind(arg) for arg in get_args(annotation) if arg is not type(None)}
        return kinds.pop() if len(kinds) == 1 else str
    return annotation if annotation in (bool, int, float) else str


_PLACE = re.compile(r"\{(\w+)(?::\w+)?\}")


def filled(path: str, values: dict[str, str]) -> str:
    """Return a route's path with its parameters filled in."""
    return _PLACE.sub(lambda found: values[found[1]], path)
