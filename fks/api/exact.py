"""JSON without loss: numbers are read as the decimal that was written, and money is written as a string."""

from __future__ import annotations

import json
import re
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson
from fastapi.responses import Response

from fks.model.errors import InputError

#: The longest accepted body, bytes: the largest regular one (a sweep of parameters) is a few kB.
BODY_MAX = 256 * 1024
#: A number as people and JSON write it; Decimal itself also takes 1_000 and the digits of every script.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")


def parse(body: bytes) -> Any:
    """Return the value of a JSON text, fractions as Decimal, digit for digit.

    Errors: InputError 400 JSON_MALFORMED for anything but strict JSON: NaN, a repeated key, an endless integer, half
    of a surrogate pair.
    """
    try:
        if b"\\u0000" in body:
            raise ValueError("a text holds the character NUL, which PostgreSQL cannot keep")
        found = json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_no_constant,
            object_pairs_hook=_no_repeats,
        )
        if b"\\ud" in body or b"\\uD" in body:
            _no_surrogates(found)
        return found
    except (ValueError, RecursionError) as error:
        reason = str(error) if len(str(error)) < 200 else type(error).__name__
        raise InputError(
            f"the body is not JSON: {reason}", code="JSON_MALFORMED", status=400, remedy="send one JSON object, UTF-8"
        ) from error


def decimal_of(value: object) -> Decimal:
    """Return the exact number that a JSON value or a text means; a float stands for its shortest decimal.

    Errors: ValueError for anything else, also for infinities.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("is no number")
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        raise ValueError("is no decimal number")
    found = Decimal(repr(value) if isinstance(value, float) else value)
    if not found.is_finite():
        raise ValueError("is not finite")
    return found


def shown(value: object) -> str:
    """Return a value for an error message: short, and in characters that any terminal shows."""
    if isinstance(value, int | float | Decimal):
        text = str(value)
    else:
        text = repr(value) if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} …"


def _no_surrogates(value: object) -> None:
    texts = [value]
    while texts:
        one = texts.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                raise ValueError("a text holds half of a surrogate pair, which is no character") from None
        elif isinstance(one, dict):
            texts += [*one, *one.values()]
        elif isinstance(one, list):
            texts += one


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated, and readers differ about which one counts")
    return found


def dump(value: Any) -> bytes:
    """Return JSON bytes: Decimal as a plain string, time as ISO 8601 with Z, floats as their shortest number."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def number(value: Decimal) -> str:
    """Return a Decimal as plain digits: no exponent, no trailing zeros, no negative zero."""
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return number(value)
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
