"""JSON of answers without loss: money is written as a string. `fks.model.untrusted` reads requests."""

from __future__ import annotations

import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson
from fastapi.responses import Response

from fks.model.decimals import plain

#: The longest accepted body, bytes: the largest regular one (a sweep of parameters) is a few kB.
BODY_MAX = 256 * 1024


def dump(value: Any) -> bytes:
    """Return JSON bytes: Decimal as a plain string, time as ISO 8601 with Z, floats as their shortest number."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, uuid.UUID):  # asyncpg's own subclass, which orjson does not take
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


class ExactJson(Response):
    """A JSON answer through `dump`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return dump(content)
