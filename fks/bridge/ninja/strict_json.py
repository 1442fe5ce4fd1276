"""Strict JSON (RFC 8259) with decimal numbers, for lines that may cause orders.

More is refused than RFC 8259 demands: duplicate keys, NaN and Infinity, lone surrogates, nesting over 8, numbers with
an exponent, with over 15 significant digits or over 10 decimals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import NoReturn

from fks.model.errors import PeerError
from fks.model.untrusted import check_surrogates, is_deeper

DEPTH_MAX = 8
DIGITS_MAX = 15
DECIMALS_MAX = 10

Value = None | bool | int | Decimal | str | list["Value"] | dict[str, "Value"]


class Lots(Decimal):
    """A quantity in lots: on the wire a decimal string, so that no reader makes a binary number of it."""


class BadJsonError(PeerError):
    """A line is not an acceptable JSON object. Its wire code is `bad_json`."""


def loads(line: bytes) -> dict[str, Value]:
    """Return the JSON object on `line`; integers as int, all other numbers as Decimal.

    Errors: BadJsonError with the reason.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadJsonError("not UTF-8") from None
    if text.startswith("\ufeff"):
        raise BadJsonError("a byte order mark")
    if is_deeper(text, DEPTH_MAX):
        raise BadJsonError(f"nested deeper than {DEPTH_MAX}")
    try:
        value: object = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise BadJsonError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadJsonError("not an object")
    if "\\u" in text:
        try:
            check_surrogates(value)
        except ValueError:
            raise BadJsonError("a lone surrogate") from None
    return value


def dumps(value: Mapping[str, object]) -> bytes:
    """Return `value` as one line with LF: keys in their order, no spaces, Decimals as plain numbers.

    Errors: TypeError for a float or another type without an exact JSON form; ValueError for a number that `loads` of
    the other end refuses. Both are errors of the caller.
    """
    return (_written(value) + "\n").encode()


def _written(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            text = str(int(value))
            _integer(text)
            return text
        case Lots():
            return f'"{plain_number(value)}"'
        case Decimal():
            return plain_number(value)
        case Mapping():
            return (
                "{"
                + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_written(of)}" for key, of in value.items())
                + "}"
            )
        case list() | tuple():
            return "[" + ",".join(map(_written, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no exact JSON form")


def plain_number(value: Decimal) -> str:
    """Return `value` in decimal notation without an exponent and without needless zeros: `4500.25`, `4500`."""
    if not value.is_finite():
        raise ValueError(f"{value} is no number")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    text = "0" if text == "-0" else text
    _decimal(text)
    return text


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise BadJsonError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS_MAX:
        raise ValueError(f"{text[:20]} has over {DIGITS_MAX} digits")
    return int(text)


def _decimal(text: str) -> Decimal:
    if "e" in text or "E" in text:
        raise ValueError(f"{text[:20]} has an exponent")
    whole, _, decimals = text.partition(".")
    if len(decimals) > DECIMALS_MAX:
        raise ValueError(f"{text[:20]} has over {DECIMALS_MAX} decimals")
    if len((whole + decimals).lstrip("-0")) > DIGITS_MAX:
        raise ValueError(f"{text[:20]} has over {DIGITS_MAX} significant digits")
    return Decimal(text)


def _constant(text: str) -> NoReturn:
    raise BadJsonError(f"{text} is no JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_decimal, parse_int=_integer, parse_constant=_constant
)
