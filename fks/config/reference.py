"""The reference of all settings as Markdown, generated from the model: docs/configuration.md contains it word for
word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic_core import PydanticUndefined

from fks.config import aliases
from fks.config.load import SHORT_NAMES, env_name, is_secret, sections


def reference() -> str:
    """Return a table per section: key, environment names, default, allowed values, meaning."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    names = {key: [name] for name, key in aliases.DIRECT.items()}
    for name, setting in SHORT_NAMES.items():
        names.setdefault(setting, []).append(name)
    names.setdefault(("database", "url"), []).extend(aliases.POSTGRES)
    names.setdefault(("redis", "url"), []).extend(aliases.REDIS)
    for section, model in sections().items():
        yield f"### [{section}]"
        text = (model.__doc__ or "").strip().splitlines()
        if text and not text[0].startswith("A section of"):
            yield text[0]
            yield ""
        yield "| Key | Default | May be | Meaning | Environment |"
        yield "|---|---|---|---|---|"
        for key, field in model.model_fields.items():
            also = [env_name(section, key), *names.get((section, key), [])]
            yield (
                f"| `{key}` | {_default(section, key, field.default)} | {_may_be(field)} | "
                f"{_cell(field.description or '')} "
                f"| {', '.join(f'`{name}`' for name in also)} |"
            )
        yield ""


def _default(section: str, key: str, value: Any) -> str:
    if value is None or is_secret(section, key):
        return "unset"
    if value is PydanticUndefined:  # an empty table, of a factory
        return "`{}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return (
            "`[]`"
            if not value
            else "`[" + ", ".join(f'"{v}"' if isinstance(v, str) else f"{v:g}" for v in value) + "]`"
        )
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _may_be(field: Any) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{choice}"`' for choice in get_args(kind))
    options = (
        [option for option in get_args(kind) if option is not type(None)] if type(None) in get_args(kind) else [kind]
    )
    return _named(options[0]) + "".join(_limit(rule) for rule in field.metadata)


def _named(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"list of {_named(get_args(kind)[0])}"
    names = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "Decimal": "decimal",
        "SecretStr": "secret",
    }
    name = "table" if get_origin(kind) is dict else str(kind.__name__)
    return names.get(name, name)


def _limit(rule: Any) -> str:
    for kind, sign, attribute in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt")):
        if isinstance(rule, kind):
            return f", {sign} {getattr(rule, attribute)}"
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
