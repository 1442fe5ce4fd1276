"""Checks of the fields of a message, and the conversion between a message class and a JSON object.

A message class is a frozen dataclass whose fields carry a check. A field without a default is required; a field with
the default None may be absent and is not written when it is None. A check takes a JSON value and returns the field's
value or raises ValueError with the reason.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, ClassVar, TypeVar

from fks.bridge.ninja.strict_json import Lots
from fks.model.errors import PeerError

Check = Callable[[Any], Any]


class FieldError(PeerError):
    """A message has a wrong field. `code` is `bad_field`, `missing_field`, `unknown_field` or `unknown_type`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Record:
    """Base of all message classes and of the objects inside messages."""

    __slots__ = ()
    #: Whether a key that the class does not have is an error. Orders refuse it: a misspelt key is not understood.
    is_closed: ClassVar[bool] = False

    def check(self) -> None:
        """Check what no single field can. Errors: FieldError."""


R = TypeVar("R", bound=Record)


def need(check: Check) -> Any:
    """Return the definition of a required field."""
    return dataclasses.field(metadata={"check": check})


def may(check: Check) -> Any:
    """Return the definition of a field that may be absent."""
    return dataclasses.field(default=None, metadata={"check": check})


@cache
def _specs(cls: type[Any]) -> tuple[tuple[str, str, Check, bool], ...]:
    """Return (attribute, key on the wire, check, required) of each field. A trailing underscore is not on the wire."""
    return tuple(
        (field.name, field.name.rstrip("_"), field.metadata["check"], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(cls)
        if "check" in field.metadata
    )


def read(cls: type[R], found: Mapping[str, object]) -> R:
    """Return the message in the JSON object `found`; the key `t` is not looked at.

    Errors: FieldError with a code and the field's name.
    """
    values: dict[str, Any] = {}
    specs = _specs(cls)  # type: ignore[arg-type]  # a class is hashable; mypy looks at its instances
    for name, key, check, required in specs:
        if key not in found:
            if required:
                raise FieldError("missing_field", key)
            continue
        try:
            values[name] = check(found[key])
        except FieldError as error:
            raise FieldError(error.code, f"{key}.{error.detail}") from None
        except ValueError as error:
            raise FieldError("bad_field", f"{key}: {error}") from None
    if cls.is_closed:
        unknown = found.keys() - {key for _, key, _, _ in specs} - {"t"}
        if unknown:
            raise FieldError("unknown_field", ", ".join(sorted(unknown))[:160])
    message = cls(**values)
    message.check()
    return message


def written(message: Record) -> dict[str, object]:
    """Return `message` as a JSON object without `t`."""
    out: dict[str, object] = {}
    for name, key, _, required in _specs(type(message)):  # type: ignore[arg-type]
        value = getattr(message, name)
        if value is not None or required:
            out[key] = _plain(value)
    return out


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return written(value)
    if isinstance(value, tuple | list):
        return [_plain(of) for of in value]
    return value


_LOTS = re.compile(r"\d{1,9}(\.\d{1,8})?")


# ── checks ───────────────────────────────────────────────────────────────────────────────────────
def integer(least: int = 0, most: int = 10**15 - 1) -> Check:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("not a whole number")
        if not least <= value <= most:
            raise ValueError(f"not between {least} and {most}")
        return value

    return check


def quantity(least: int, most: int = 10**15 - 1) -> Check:
    """Return a check of a quantity: whole contracts, or `Lots` on a session of a platform that trades lots."""
    whole = integer(least, most)

    def check(value: object) -> int | Lots:
        if not isinstance(value, Lots):
            return int(whole(value))
        if value < 0 or value > most or (least and not value):
            raise ValueError(f"not between {least} and {most}")
        return value

    return check


def positive_text(value: object) -> Decimal:
    """Check a decimal string above 0."""
    found = lots_of(value)
    if found is None or not found:
        raise ValueError("not a decimal string above 0")
    return Decimal(found)


def lots_of(value: object) -> Lots | None:
    """Return the quantity in a decimal string; None for another value."""
    if not isinstance(value, str) or _LOTS.fullmatch(value) is None:
        return None
    return Lots(value)


def number(value: object) -> Decimal:
    """Check a decimal number."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("not a number")
    return Decimal(value)


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def text(most: int, least: int = 0) -> Check:
    def check(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a text")
        if not least <= len(value) <= most:
            raise ValueError(f"not {least} to {most} characters long")
        return value

    return check


def matching(pattern: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"not of the form {pattern}")
        return value

    return check


def one_of(*values: str) -> Check:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"not one of {', '.join(values)}")
        return value

    return check


def exactly(expected: object) -> Check:
    def check(value: object) -> object:
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            raise ValueError(f"not {expected!r}")
        return value

    return check


def nullable(inner: Check) -> Check:
    def check(value: object) -> object:
        return None if value is None else inner(value)

    return check


def list_of(inner: Check, most: int = 1_000) -> Check:
    def check(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError("not a list")
        if len(value) > most:
            raise ValueError(f"over {most} elements")
        return tuple(inner(of) for of in value)

    return check


def record(cls: type[Record]) -> Check:
    def check(value: object) -> Record:
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return read(cls, value)

    return check


def any_object(value: object) -> dict[str, object]:
    """Check an object whose keys are not fixed."""
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def numbers_by_name(value: object) -> dict[str, Decimal | None]:
    """Check an object of numbers or nulls."""
    return {name: nullable(number)(of) for name, of in any_object(value).items()}


ID = matching(r"[A-Za-z0-9_-]{1,32}")
RID = text(32, 1)
HEX32 = matching(r"[0-9a-f]{32}")
HEX64 = matching(r"[0-9a-f]{64}")
MS = integer()
SEQ = integer(1)
ACCOUNT = text(64, 1)
INSTRUMENT = text(32, 1)
QTY = quantity(1, 1_000_000)
QTY_LEFT = quantity(0)
NUMBER: Check = number
NUMBER_OR_NULL = nullable(number)
