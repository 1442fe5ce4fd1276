"""Checks of a signal's fields: what is missing, unknown or of the wrong form is refused before anything else."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ACTIONS = frozenset({"buy", "sell", "long", "short", "exit"})
_TYPES = frozenset({"market", "limit", "stop", "stop_limit"})
_TIFS = frozenset({"day", "gtc", "ioc"})
_REQUIRED = ("account", "instrument", "action", "created_ms", "valid_until")
_BRACKET = ("sl_points", "sl_price", "tp_points", "tp_price")
_OPTIONAL = ("qty", "type", "price", "stop_price", "tif", *_BRACKET, "strategy", "note", "entries")
_ENTRIES_MAX = 100
_DAY_MS = 86_400_000

Nack = tuple[str, str]  # code, detail


def is_id(value: object) -> bool:
    """Return whether `value` may be the id of a signal."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def check_fields(message: dict[str, Any], now_ms: int) -> Nack | None:
    """Return why a `signal` message cannot be understood, or None. The first finding answers."""
    if not is_id(message.get("id")):
        return "bad_field", "id: 1 to 32 of A-Z a-z 0-9 _ -"
    known = {"t", "id", *_REQUIRED, *_OPTIONAL}
    if unknown := sorted(message.keys() - known):
        return "unknown_field", f"unknown field {unknown[0]!r}"
    is_exit = message.get("action") == "exit"
    required = _REQUIRED if is_exit else (*_REQUIRED, "qty", "type")
    if missing := [name for name in required if message.get(name) is None]:
        return "missing_field", f"missing field {missing[0]!r}"
    return _check_words(message) or _check_numbers(message, now_ms) or _check_prices(message, is_exit=is_exit)


def is_number(value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _check_words(message: dict[str, Any]) -> Nack | None:
    for name, allowed in (("action", _ACTIONS), ("type", _TYPES), ("tif", _TIFS)):
        value = message.get(name)
        if value is not None and (not isinstance(value, str) or value not in allowed):
            return "bad_field", f"{name}: one of {', '.join(sorted(allowed))}"
    for name, most in (("account", 64), ("instrument", 32), ("strategy", 32), ("note", 120)):
        value = message.get(name)
        if value is not None and (not isinstance(value, str) or not 0 < len(value) <= most):
            return "bad_field", f"{name}: text of at most {most} characters"
    entries = message.get("entries")
    is_listed = isinstance(entries, list) and 0 < len(entries) <= _ENTRIES_MAX and all(map(is_id, entries))
    if "entries" in message and not (is_listed and message["action"] == "exit"):
        return "bad_field", f"entries: 1 to {_ENTRIES_MAX} ids, and only of an exit"
    return None


def _check_numbers(message: dict[str, Any], now_ms: int) -> Nack | None:
    qty = message.get("qty")
    if qty is not None and (not isinstance(qty, int) or isinstance(qty, bool) or qty < 1):
        return "bad_field", "qty: a whole number from 1"
    for name in ("created_ms", "valid_until"):
        if not isinstance(message[name], int) or isinstance(message[name], bool):
            return "bad_field", f"{name}: whole milliseconds"
    if message["valid_until"] - now_ms > _DAY_MS:
        return "bad_field", "valid_until: at most 24 h ahead"
    for name in ("price", "stop_price", "sl_price", "tp_price"):
        value = message.get(name)
        if value is not None and (not is_number(value) or value <= 0):
            return "bad_field", f"{name}: a number above 0"
    for name in ("sl_points", "tp_points"):
        value = message.get(name)
        if value is not None and (not is_number(value) or value < 0):
            return "bad_field", f"{name}: a number from 0"
    return None


def _check_prices(message: dict[str, Any], *, is_exit: bool) -> Nack | None:
    kind = message.get("type", "market")
    needs = {"market": (), "limit": ("price",), "stop": ("stop_price",), "stop_limit": ("price", "stop_price")}[kind]
    for name in ("price", "stop_price"):
        if name in needs and message.get(name) is None:
            return "missing_field", f"missing field {name!r}: type is {kind}"
    if is_exit:
        if kind != "market" or any(message.get(name) is not None for name in ("price", "stop_price", *_BRACKET)):
            return "bad_field", "an exit is a market order without prices and bracket"
        return None
    for side in ("sl", "tp"):
        if message.get(f"{side}_points") is not None and message.get(f"{side}_price") is not None:
            return "bad_field", f"{side}_points and {side}_price exclude each other"
    return None
