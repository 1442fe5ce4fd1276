"""Text of GraphQL queries: a field of a read with all of its members."""

from __future__ import annotations

import types
from collections.abc import Collection
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from fks.interfaces.api.graphql.reads import Read

_NAMES = {bool: "Boolean", int: "Long", float: "Float", str: "String"}


def query_text(read: Read, given: Collection[str]) -> str:
    """Return the query of one read with the variables `given`."""
    used = [argument for argument in read.arguments if argument.name in given]
    heads = ",".join(f"${a.name}:{_NAMES[a.kind]}{'!' if a.is_needed else ''}" for a in used)
    values = ",".join(f"{a.name}:${a.name}" for a in used)
    named = f"{read.name}{f'({values})' if used else ''}{_members(read.model)}"
    return f"query {f'({heads})' if used else ''}{{{named}}}"


def _members(model: type[BaseModel] | None) -> str:
    if model is None:
        return ""
    parts = [name + _members(inner_model(info.annotation)) for name, info in model.model_fields.items()]
    return "{" + " ".join(parts) + "}"


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a member that is an object, or a list of them; None for all others."""
    if get_origin(annotation) in (list, tuple, Union, types.UnionType):
        return next((found for arg in get_args(annotation) if (found := inner_model(arg))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
