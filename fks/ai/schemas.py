"""JSON schemas that a model's text is to fit: the keywords that engines keep, and the check of the text. Pure.

llama.cpp writes without any bound where its grammar library knows no form of a schema, and reports nothing. So only
keywords that it keeps are taken, and each text is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from fks.model.errors import InputError

#: bytes of a schema as JSON
SCHEMA_MAX: Final = 16_384
FORMATS: Final = frozenset(["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"])
_NOTES: Final = frozenset(("title", "description", "default", "examples", "$schema"))
_OF_VALUES: Final = frozenset(
    [
        "type",
        "enum",
        "const",
        "required",
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
#: keywords whose value is a schema, a list of schemas, or schemas by name
_ONE: Final = frozenset(("items", "additionalProperties"))
_SOME: Final = frozenset(("anyOf",))
_NAMED: Final = frozenset(("properties", "$defs", "definitions"))


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
    while left:
        one = left.pop()
        if not isinstance(one, Mapping):  # true or false
            continue
        for key, value in one.items():
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
    """Return whether a text is JSON that fits a schema which `check_schema` took."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    try:
        # an empty registry: nothing is fetched
        return bool(Draft202012Validator(schema, registry=Registry()).is_valid(json.loads(text)))
    except (ValueError, RecursionError):
        return False


def _check_reference(schema: Mapping[str, Any], reference: str) -> None:
    parts = reference.split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
        raise _refused(f"the reference {reference!r} is not kept: use #/$defs/NAME")
    if parts[2] not in schema.get(parts[1], {}):
        raise _refused(f"the reference {reference!r} leads nowhere")


def _refused(why: str) -> InputError:
    return InputError(f"the schema cannot be kept: {why}", code="AI_SCHEMA")
