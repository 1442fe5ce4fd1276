"""Rule files: TOML or JSON text to a checked group, the shipped groups, and the JSON that the NT8 add-on reads."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fks.model.errors import ConfigError, InputError, not_found, unprocessable
from fks.model.untrusted import parse
from fks.trading.prop_rules.account import AccountState
from fks.trading.prop_rules.rules import REQUIRED, News, RuleGroup

FOLDER = "prop_rules"  # in FKS_HOME: files there replace shipped groups of the same name
#: names of the shipped groups
SHIPPED = ("topstep-50k", "topstep-100k", "topstep-150k", "apex-50k", "fxify-starter", "fxify-expert", "custom")
#: keys that the add-on knows in each rule; it refuses others
_ADDON_KEYS = {
    *("value", "unit", "trailing", "lock", "action", "micro_factor", "tz", "own", "no_entries_from"),
    "before_early_close_min",
    *("source", "source_date", "verified_on", "verified_by"),
}
_UNVERIFIED = {"verified_on": "1970-01-01", "verified_by": "not verified"}  # too old for the add-on: it relays
_DOCS = "see docs/prop-firms.md for the form of a rule file"


def parse_group(text: str, name: str) -> RuleGroup:
    """Return the group of a rule file; a name that ends with .json is JSON, every other TOML.

    Errors: ConfigError naming the file and each wrong key.
    """
    try:
        data = parse(text.encode()) if name.endswith(".json") else _toml(text)
    except (ValueError, InputError) as error:
        raise ConfigError(f"{name} cannot be read: {error}", remedy=_DOCS) from None
    try:
        return RuleGroup.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(_fault(fault["loc"], fault["msg"]) for fault in error.errors())
        raise ConfigError(f"{name}: {wrong}", remedy=_DOCS) from None


def shipped_text(name: str) -> str:
    """Return the text of a shipped rule file. Errors: InputError RULES_UNKNOWN."""
    if name not in SHIPPED:
        raise unknown_group(name, SHIPPED)
    return (resources.files("fks.trading.prop_rules") / "firms" / f"{name}.toml").read_text()


def shipped_group(name: str) -> RuleGroup:
    """Return a shipped group. Errors: InputError RULES_UNKNOWN."""
    return parse_group(shipped_text(name), f"{name}.toml")


def stored_groups(folder: Path) -> list[tuple[RuleGroup, str]]:
    """Return the groups and their files: those of the folder, then the shipped ones of other names.

    Errors: ConfigError for a wrong file.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".toml", ".json"))
    found = [(parse_group(path.read_text(), path.name), str(path)) for path in files]
    own = {group.group for group, _ in found}
    return found + [(shipped_group(each), "shipped") for each in SHIPPED if each not in own]


def files_stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return a value that is another one as soon as a file has changed, has come or is gone."""
    found = []
    for file in sorted(files):
        with contextlib.suppress(OSError):
            about = file.stat()
            found.append((str(file), about.st_mtime_ns, about.st_size))
    return tuple(found)


def find_group(groups: Iterable[RuleGroup], name: str) -> RuleGroup:
    """Return the group of a name. Errors: InputError RULES_UNKNOWN naming those there are."""
    every = list(groups)
    found = next((group for group in every if group.group == name), None)
    if found is None:
        raise unknown_group(name, [group.group for group in every])
    return found


def unknown_group(name: str, known: Iterable[str]) -> InputError:
    """Return the error for a group that is not there."""
    return not_found("RULES_UNKNOWN", f"there are no rules for group {name!r}", f"there are {' '.join(known)}")


def parse_state(text: str, name: str) -> AccountState:
    """Return the account values of a JSON text; docs/prop-firms.md has its form. Errors: InputError STATE_WRONG."""
    known = {field.name for field in fields(AccountState)}
    try:
        data = parse(text.encode())
        unknown = sorted(set(data) - known) if isinstance(data, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        return TypeAdapter(AccountState).validate_python(data)
    except ValidationError as error:
        wrong = "; ".join(_fault(fault["loc"], fault["msg"]) for fault in error.errors())
    except (ValueError, InputError) as error:
        wrong = str(error)
    raise unprocessable("STATE_WRONG", f"{name}: {wrong}", f"the keys are {' '.join(sorted(known))}")


def addon_document(group: RuleGroup) -> dict[str, Any]:
    """Return the rules as the NT8 add-on reads them: JSON values, amounts in USD, only keys that it knows.

    A rule that the firm does not have keeps its value "none": the add-on takes a missing one for not known, and is off.
    Percentages become amounts of the starting balance, news become windows in ms. A figure that was never verified gets
    a date so old that the add-on does not automate. Errors: InputError RULES_INCOMPLETE for a missing rule.
    """
    missing = [name for name in REQUIRED if name not in group.rules.present()]
    if missing:
        raise unprocessable(
            "RULES_INCOMPLETE",
            f"the rules of {group.group} are incomplete: {', '.join(missing)} missing",
            'add them; a firm without such a rule has value = "none"',
        )
    rules: dict[str, Any] = {}
    for name, rule in group.rules.present().items():
        if name not in (*REQUIRED, "news"):
            continue
        found = rule.model_dump(mode="json", exclude_none=True)
        if rule.verified_on is None:
            found |= _UNVERIFIED
        if name == "max_loss" and rule.has_value:
            found |= {"value": group.max_loss, "unit": "USD"}
        if name == "daily_loss" and rule.has_value:
            found |= {"value": group.daily_loss(group.starting_balance), "unit": "USD"}
        if not rule.has_value:
            found.pop("unit", None)
        if name == "flat_by":
            found |= {key: str(found[key])[:5] for key in ("value", "own", "no_entries_from") if key in found}
        if isinstance(rule, News):
            found["value"] = _windows(rule)
        numbers = {key: _number(value) for key, value in found.items() if key in ("value", "micro_factor", "lock")}
        rules[name] = {key: value for key, value in (found | numbers).items() if key in _ADDON_KEYS}
    return {"group": group.group, "starting_balance": _number(group.starting_balance), "rules": rules}


def _windows(news: News) -> list[dict[str, int]]:
    windows = sorted(news.window_ns(event) for event in news.value)
    return [{"from_ms": begin // 1_000_000, "to_ms": end // 1_000_000} for begin, end in windows]


def _number(value: object) -> object:
    """Return a decimal as a JSON number; it has few digits, and int where it is whole."""
    if isinstance(value, str):
        try:
            value = Decimal(value)
        except ArithmeticError:
            return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text, parse_float=Decimal)


def _fault(where: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(str(part) for part in where) or 'the file'}: {message.removeprefix('Value error, ')}"
