"""Members of a JSON document from the attributes of a record."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from fks.model.timeframe import iso


def json_fields(item: Any, *names: str, without: Collection[str] = (), **more: object) -> dict[str, Any]:
    """Return attributes of a record by name: `names`, or all fields of a dataclass but those of `without`.

    A time in ns is given in ISO 8601, `created_ns` as `created_at`; None stays None. A mapping becomes a dict, a tuple
    a list, an enum its value. `more`: further members of the document.
    """
    found = {}
    for name in names or [field.name for field in fields(item) if field.name not in without]:
        value = getattr(item, name)
        if name.endswith("_ns"):
            name, value = f"{name[:-3]}_at", None if value is None else iso(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Enum):
            value = value.value
        found[name] = value
    return found | more
