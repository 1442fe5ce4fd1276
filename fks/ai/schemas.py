"""JSON schemas that a model's text is to fit: the keywords that engines keep, and the check of the text. Pure.

llama.cpp writes without any bound where its grammar library knows no form of a schema, and reports nothing. So only
keywords that it keeps are taken, and each text is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fks.model.errors import InputError

#: bytes of a schema as JSON
SCHEMA_MAX: Final = 16_384
#: `minItems` and `maxItems` of a schema together: llama.cpp writes out a grammar for each item, also while the request
#: that it is for has ended (3 million: more than 25 s)
ITEMS_MAX: Final = 10_000
#: numbers beyond it as bounds are not kept
BOUND_MAX: Final = 2**63
#: keywords that are looked at in a text, those with a list once for each of its values; about a second. References can
#: be written so that each doubles them
STEPS_MAX: Final = 100_000
FORMATS: Final = frozenset(["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"])
_NOTES: Final = frozenset(("title", "description", "default", "examples", "$schema"))
_BOUNDS: Final = frozenset(
    [
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    ]
)
_OF_VALUES: Final = frozenset(("type", "enum", "const", "required")) | _BOUNDS
#: keywords whose value is a schema, a list of schemas, or schemas by name
_ONE: Final = frozenset(("items", "additionalProperties"))
_SOME: Final = frozenset(("anyOf",))
_NAMED: Final = frozenset(("properties", "$defs", "definitions"))
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")  # with another sign llama.cpp binds the text by nothing


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuse a schema that an engine may not keep. Errors: InputError 400 AI_SCHEMA, which names the keyword."""
    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.exceptions import SchemaError

    if len(json.dumps(schema)) > SCHEMA_MAX:
        raise _refused(f"it is longer than {SCHEMA_MAX} bytes")
    try:
        Draft202012Validator.check_schema(schema, FormatChecker(()))  # else it would compile patterns
    except SchemaError as error:
        raise _refused(f"{'.'.join(map(str, error.path))}: {error.message[:200]}".removeprefix(": ")) from None
    left: list[Any] = [schema]
    items = 0
    while left:
        one = left.pop()
        if not isinstance(one, Mapping):  # true or false
            continue
        items += max(one.get("minItems", 0), one.get("maxItems", 0))
        if items > ITEMS_MAX:
            raise _refused(f"minItems and maxItems are more than {ITEMS_MAX} together")
        for key, value in one.items():
            if key in _BOUNDS and abs(value) >= BOUND_MAX:
                raise _refused(f"{key} is beyond the numbers of 64 bits")
            if key in _NAMED:
                left += value.values()
            elif key in _SOME:
                left += value
            elif key in _ONE:
                left.append(value)
            elif key == "$ref":
                _check_reference(schema, value)
            elif key == "format" and value not in FORMATS:
                raise _refused(f"the format {value!r} is not kept")
            elif key not in _NOTES | _OF_VALUES | {"format"}:
                raise _refused(f"the keyword {key!r} is not kept")


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Return whether a text is JSON that fits a schema which `check_schema` took; not if `STEPS_MAX` do not show it."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    left = STEPS_MAX

    def counted(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def step(validator: Any, value: Any, instance: Any, within: Any) -> Iterator[Any]:
            nonlocal left
            left -= len(value) if isinstance(value, list | dict) else 1
            if left < 0:
                raise _TooManyStepsError
            yield from check(validator, value, instance, within) or ()

        return step

    checks = {key: counted(check) for key, check in Draft202012Validator.VALIDATORS.items()}
    validator = extend(Draft202012Validator, checks)
    try:
        # an empty registry: nothing is fetched
        return bool(validator(schema, registry=Registry()).is_valid(json.loads(text)))
    except (ValueError, RecursionError, _TooManyStepsError):
        return False


class _TooManyStepsError(Exception):
    """A text that cannot be checked in `STEPS_MAX`."""


def _check_reference(schema: Mapping[str, Any], reference: str) -> None:
    parts = reference.split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
        raise _refused(f"the reference {reference!r} is not kept: use #/$defs/NAME")
    if not _NAME.fullmatch(parts[2]):
        raise _refused(f"the name {parts[2]!r} of a definition may have letters, digits, dots, dashes and _ alone")
    if parts[2] not in schema.get(parts[1], {}):
        raise _refused(f"the reference {reference!r} leads nowhere")


def _refused(why: str) -> InputError:
    return InputError(f"the schema cannot be kept: {why}", code="AI_SCHEMA")
