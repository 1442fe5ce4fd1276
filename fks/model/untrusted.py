"""Numbers and JSON from outside (requests, webhooks, search spaces, settings over HTTP), bounded before conversion.

A short text can be a number that is dear to use: `int(Decimal("1e999990"))` takes 19 s, and the text of it a megabyte.
So in every field a number has at most DIGITS_MAX digits and lies between 1e-50 and 1e50 in size, and JSON is at most
DEPTH_MAX deep. Within these bounds a number is cheap as int, float or text. Other modules of `fks.interfaces.api` and
`fks.research.search` convert no value from outside by themselves (tests/meta/test_numbers.py).
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from fks.model.errors import invalid, unprocessable

DIGITS_MAX: Final = 50
DEPTH_MAX: Final = 64
_TEXT_MAX: Final = 120  # 50 digits after 50 zeros, with sign, point and exponent, are shorter
_INT_MAX: Final = 2**63
#: A number as people and JSON write it; Decimal itself also takes 1_000 and the digits of every script.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# an unterminated string matches too, up to the end: without that, a line of \" after \" takes quadratic time
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────
def decimal_of(value: object) -> Decimal:
    """Return the exact number that a JSON value or a text means; a float stands for its shortest decimal.

    Errors: ValueError for anything else, for infinities and for a number that is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("is no number")
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            raise ValueError("is no number")
        if len(value) > _TEXT_MAX or len(value.lower().partition("e")[2]) > 4:
            raise ValueError(_BEYOND)
    elif isinstance(value, int) and value.bit_length() > 4 * DIGITS_MAX:
        raise ValueError(_BEYOND)
    found = Decimal(repr(value) if isinstance(value, float) else value)
    if not found.is_finite():
        raise ValueError("is not finite")
    if len(found.as_tuple().digits) > DIGITS_MAX or not -DIGITS_MAX <= found.adjusted() < DIGITS_MAX:
        raise ValueError(_BEYOND)
    return found


_BEYOND: Final = f"has more than {DIGITS_MAX} digits, or is not between 1e-{DIGITS_MAX} and 1e{DIGITS_MAX} in size"


def whole_of(value: object) -> int:
    """Return the whole part of a number. Errors: ValueError as `decimal_of`."""
    return int(decimal_of(value))


def number_of(value: object) -> int | float:
    """Return a number as research takes it: an int where it is written without a fraction and has 64 bits, else a
    float. Errors: ValueError as `decimal_of`."""
    found = decimal_of(value)
    exponent = found.as_tuple().exponent
    is_whole = isinstance(exponent, int) and exponent >= 0 and abs(found) < _INT_MAX
    return int(found) if is_whole else float(found)


def check_text(text: str) -> None:
    """Refuse a text that is a number out of bounds. Errors: InputError 422 NUMBER."""
    try:
        found = Decimal(text.strip())  # as wide as what converts later: 1_000, digits of every script
    except InvalidOperation:
        return
    if found.is_finite():
        try:
            decimal_of(text if _NUMBER.fullmatch(text.strip()) else found)
        except ValueError as error:
            raise unprocessable("NUMBER", f"{shown(text)} {error}", "send a smaller number") from None


#: A field of a model that takes a number from outside.
Exact = Annotated[Decimal, BeforeValidator(decimal_of)]


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────
def parse(body: bytes) -> Any:
    """Return the value of a JSON text, digit for digit: fractions, and integers beyond 64 bits, as Decimal.

    Errors: InputError 400 JSON_DEPTH for a text deeper than DEPTH_MAX, before it is read; 400 JSON_NUMBER for a number
    out of bounds; 400 JSON_MALFORMED for anything but strict JSON: NaN, a repeated key, half of a surrogate pair.
    """
    try:
        if b"\\u0000" in body:
            raise ValueError("a text holds the character NUL, which PostgreSQL cannot keep")
        text = body.decode("utf-8")
        if is_deeper(text, DEPTH_MAX):
            raise invalid(
                "JSON_DEPTH",
                f"the body is nested deeper than {DEPTH_MAX} levels",
                "send lists and objects with fewer levels",
            )
        found = json.loads(
            text,
            parse_float=_number,
            parse_int=_integer,
            parse_constant=_no_constant,
            object_pairs_hook=_no_repeats,
        )
        if "\\ud" in text or "\\uD" in text:
            check_surrogates(found)
        return found
    except (ValueError, RecursionError) as error:
        reason = str(error) if len(str(error)) < 200 else type(error).__name__
        raise invalid("JSON_MALFORMED", f"the body is not JSON: {reason}", "send one JSON object, UTF-8") from error


def is_deeper(text: str, most: int) -> bool:
    """Return whether a JSON text has more than `most` levels. The parser and its readers recurse: they must not get
    it."""
    if text.count("[") + text.count("{") <= most:
        return False
    depth = 0
    for token in _STRUCTURE.finditer(text):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > most:
            return True
    return False


def check_surrogates(value: object) -> None:
    """Refuse a JSON value with half of a surrogate pair in a text. Errors: ValueError."""
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


def shown(value: object) -> str:
    """Return a value for an error message: short, and in characters that any terminal shows."""
    if isinstance(value, int | float | Decimal):
        text = str(value)
    else:
        text = repr(value) if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} …"


def _number(text: str) -> Decimal:
    try:
        return decimal_of(text)
    except ValueError as error:
        raise invalid(
            "JSON_NUMBER", f"the body has a number that {error}: {text[:40]}", "send a smaller number"
        ) from None


def _integer(text: str) -> int | Decimal:
    if len(text) < 19:
        return int(text)
    found = _number(text)
    return int(found) if abs(found) < _INT_MAX else found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated, and readers differ about which one counts")
    return found
