"""Check of a job's specification: one error that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fks.model.errors import unprocessable
from fks.model.untrusted import shown

M = TypeVar("M", bound=BaseModel)


def checked_spec(model: type[M], spec: Mapping[str, Any], what: str, *, remedy: str = "") -> M:
    """Return `spec` as `model`. Errors: InputError SPEC_WRONG naming the field, its fault and the value given; other
    InputErrors of the model go through."""
    try:
        return model.model_validate(dict(spec))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        text = str(first["msg"]).removeprefix("Value error, ")
        detail = f"{field}: {text[:1].lower()}{text[1:]}" if field else text
        if field and not isinstance(first["input"], Mapping | list):
            detail += f", not {shown(first['input'])}"
        raise unprocessable("SPEC_WRONG", f"{what}: {detail}", remedy) from None
