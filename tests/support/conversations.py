"""Conversations of the NinjaTrader protocol (`nt8/conversations/*.txt`): the one parser, and matching with variables.

The grammar is in `nt8/conversations/README.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "nt8" / "conversations"
BARE = {"eDISCONNECT", "ENONE"}  # no argument
SIGNAL: dict[str, Any] = {
    "t": "signal", "id": "", "account": "Sim101", "instrument": "ES 03-25", "action": "buy", "qty": 1, "type": "limit",
    "price": Decimal("4500.00"), "sl_points": 10, "tp_points": 20, "created_ms": "$now", "valid_until": "$now+30000",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One directive. `verb`: what stands before the JSON argument (a verb, a check, an id); `data`: that argument;
    `raw`: the bytes of IRAW; `text`: the whole argument, as it is written."""

    line: int
    name: str
    connection: int | None
    verb: str
    data: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    text: str = ""


@dataclass(frozen=True)
class Conversation:
    """One file. `against`: the ends that may be under test."""

    name: str
    title: str
    against: frozenset[str]
    clock_ms: int
    config: dict[str, Any]
    steps: tuple[Step, ...]


def conversations(against: str) -> list[Path]:
    """Return the files that may be run against this end."""
    return [path for path in sorted(FOLDER.glob("C*.txt")) if against in parse(path).against]


def parse(path: Path) -> Conversation:
    """Return the conversation in a file. Errors: ValueError naming file and line."""
    found = parse_text(path.stem, path.read_text())
    if not found.against <= {"bridge", "client"} or not found.against:
        raise ValueError(f"{path.name}: AGAINST is missing")
    return found


def parse_text(name: str, script: str) -> Conversation:
    """Return the conversation in a text. Errors: ValueError naming it and the line."""
    title, against, config = "", frozenset[str](), dict[str, Any]()
    clock = "2025-02-03T15:00:00Z"
    steps = []
    for number, text in enumerate(script.splitlines(), 1):
        if number == 1:
            title = text.removeprefix("# ")
        if not text.strip() or text.startswith("#"):
            continue
        directive, _, rest = text.partition(" ")
        try:
            if directive == "AGAINST":
                against = frozenset(rest.split())
            elif directive == "CLOCK":
                clock = rest
            elif directive == "CONFIG":
                config = config | _json(rest)
            else:
                steps.append(_step(number, directive, rest))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{name}:{number}: {error}") from None
    clock_ms = int(datetime.fromisoformat(clock).timestamp() * 1000)
    return Conversation(name, title, against, clock_ms, config, tuple(steps))


def _step(line: int, name: str, rest: str) -> Step:
    connection = None
    if found := re.match(r"@(\d+)(?: |$)", rest):
        connection, rest = int(found[1]), rest[found.end() :]
    if name in BARE or name in ("iCONNECT", "iDISCONNECT", "T", "X"):
        return Step(line, name, connection, rest, text=rest)
    if name == "IRAW":
        return Step(line, name, connection, rest, raw=_raw(rest), text=rest)
    if name == "I" and rest.startswith("SIG "):
        _, signal_id, *changes = rest.split(" ", 2)
        data = {**SIGNAL, "id": signal_id, **(_json(changes[0]) if changes else {})}
        return Step(line, "SIG", connection, signal_id, data, text=rest)
    if name in ("I", "E", "E*", "AUTH"):
        return Step(line, name, connection, "", _json(rest), text=rest)
    if name in ("P", "A", "C"):
        verb, _, argument = rest.partition(" ")
        return Step(line, name, connection, verb, _json(argument or "{}"), text=rest)
    raise ValueError(f"unknown directive {name}")


def parse_json(text: str) -> Any:
    """Return JSON with its numbers as int and Decimal."""
    return json.loads(text, parse_float=Decimal)


def _json(text: str) -> dict[str, Any]:
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _raw(text: str) -> bytes:
    found = re.fullmatch(r'"((?:[^"\\]|\\.)*)"(?: \* (\d+))?', text)
    if not found:
        raise ValueError("not a quoted string")
    names = {"r": b"\r", "n": b"\n", "t": b"\t", '"': b'"', "\\": b"\\"}

    def byte(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1][1:], 16)]) if match[1].startswith(b"x") else names[match[1].decode()]

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", byte, found[1].encode()) * int(found[2] or 1)


class Variables:
    """Variables of one run. `now_ms` gives the value of `$now`."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.values: dict[str, Any] = {}

    def filled(self, value: Any) -> Any:
        """Return `value` with every variable replaced by its value. Errors: KeyError for an unbound one."""
        if isinstance(value, dict):
            return {key: self.filled(of) for key, of in value.items()}
        if isinstance(value, list):
            return [self.filled(of) for of in value]
        if not isinstance(value, str):
            return value
        if found := re.fullmatch(r"\$now([+-]\d+)?", value):
            return self._now_ms() + int(found[1] or 0)
        if found := re.fullmatch(r"\$([a-z][a-z0-9]*)", value):
            return self.values[found[1]]
        return re.sub(r"\$([a-z][a-z0-9]*)", lambda match: str(self.values[match[1]]), value)

    def difference(self, expected: Any, got: Any) -> str:
        """Return the difference of `got` from `expected`, or an empty text: then unbound variables are bound."""
        before = dict(self.values)
        if found := self._difference(expected, got, ""):
            self.values = before
        return found

    def matches(self, expected: Any, got: Any) -> bool:
        """Return whether nothing differs."""
        return not self.difference(expected, got)

    def _difference(self, expected: Any, got: Any, where: str) -> str:
        if isinstance(expected, dict):
            if not isinstance(got, dict):
                return f"{where}: {got!r} is no object"
            for key, of in expected.items():
                if key not in got:
                    return f"{where}.{key} is missing"
                if found := self._difference(of, got[key], f"{where}.{key}"):
                    return found
            return ""
        if isinstance(expected, list):
            if not isinstance(got, list | tuple) or len(got) != len(expected):
                return f"{where}: {got!r} is not {expected!r}"
            return next(
                (
                    d
                    for n, (a, b) in enumerate(zip(expected, got, strict=True))
                    if (d := self._difference(a, b, f"{where}[{n}]"))
                ),
                "",
            )
        if isinstance(expected, str):
            return self._text_difference(expected, got, where)
        same = expected == got and isinstance(expected, bool) == isinstance(got, bool)
        return "" if same else f"{where}: {got!r} is not {expected!r}"

    def _text_difference(self, expected: str, got: Any, where: str) -> str:
        if expected == "*":
            return ""
        found = re.fullmatch(r"\$([a-z][a-z0-9]*)", expected)
        if found and found[1] != "now" and found[1] not in self.values:
            self.values[found[1]] = got
            return ""
        wanted = self.filled(expected)
        if isinstance(wanted, str) and "*" in wanted and isinstance(got, str):
            pattern = ".*".join(re.escape(part) for part in wanted.split("*"))
            return "" if re.fullmatch(pattern, got, re.DOTALL) else f"{where}: {got!r} does not match {wanted!r}"
        return "" if wanted == got else f"{where}: {got!r} is not {wanted!r}"
