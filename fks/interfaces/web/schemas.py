"""Forms of a strategy's parameters, made from the JSON schema of its model, and the values that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.model.untrusted import decimal_of

PREFIX = "p."
_LIMITS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
)


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter as a form shows it. `kind` is boolean, integer, number, string or json; `text` is its value."""

    name: str
    kind: str
    sentence: str
    value: Any
    text: str
    choices: tuple[Any, ...] = ()
    can_be_empty: bool = False


def fields_of(schema: Mapping[str, Any] | None, values: Mapping[str, Any] | None = None) -> list[Field]:
    """Return the fields of the `properties` of a schema, with `values` in place of the defaults."""
    return [_field(name, item, values or {}) for name, item in (schema or {}).items()]


def _field(name: str, schema: Mapping[str, Any], values: Mapping[str, Any]) -> Field:
    parts = schema.get("anyOf") or [schema]
    real = [part for part in parts if part.get("type") != "null"]
    body = real[0] if len(real) == 1 else {}
    kind = str(body.get("type") or ("string" if "enum" in body else "json"))
    kind = kind if kind in ("boolean", "integer", "number", "string") else "json"
    default = schema.get("default")
    value = values.get(name, default)
    limits = [text.format(body[key]) for key, text in _LIMITS if key in body]
    parts_of_sentence = [str(schema.get("description") or ""), ", ".join(limits)]
    parts_of_sentence.append(f"default {_text(default, kind)}" if "default" in schema and default is not None else "")
    sentence = "; ".join(part for part in parts_of_sentence if part)
    can_be_empty = len(real) < len(parts)
    return Field(name, kind, sentence, value, _text(value, kind), tuple(body.get("enum") or ()), can_be_empty)


def _text(value: Any, kind: str) -> str:
    if value is None:
        return ""
    if kind == "json" and not isinstance(value, str):
        return orjson.dumps(value).decode()
    return str(value).lower() if isinstance(value, bool) else str(value)


def params_of(form: Form, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters of a form that differ from the defaults of the schema. The gateway checks their ranges.

    Errors: GatewayRefusal 422 naming the field that is no number or no JSON.
    """
    found: dict[str, Any] = {}
    for field in fields_of(schema):
        if PREFIX + field.name not in form.fields:
            continue
        text = form.text(PREFIX + field.name)
        if text != field.text:
            found[field.name] = _value(field, text)
    return found


def _value(field: Field, text: str) -> Any:
    if not text and field.can_be_empty:
        return None
    try:
        if field.kind == "boolean":
            return text == "true"
        if field.kind in ("integer", "number"):
            number = decimal_of(text)
            if field.kind == "number":
                return float(number)
            if number != number.to_integral_value():
                raise ValueError("has a fraction")
            return int(number)
        if field.kind == "json":
            return orjson.loads(text) if text[:1] in "[{" else text
    except ValueError:
        expected = {"integer": "a whole number", "number": "a number"}.get(field.kind, "JSON")
        raise GatewayRefusal(
            422, "PARAMETER_WRONG", f"{field.name}: {text!r} is not {expected}", field.sentence
        ) from None
    return text
