"""Parser and matcher of the conversation files in `nt8/conversations` (grammar: its README.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "nt8" / "conversations"
ESCAPE = re.compile(r'\\(["\\rnt]|x[0-9a-fA-F]{2})')
NAMED = {'"': b'"', "\\": b"\\", "r": b"\r", "n": b"\n", "t": b"\t"}
START = "2025-02-03T15:00:00Z"


@dataclass(frozen=True)
class Step:
    """One directive: its name, the connection number if one is written, and its argument text."""

    line: int
    name: str
    connection: int | None
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """The argument as a JSON object, numbers as Decimal."""
        parsed = parse_json(self.text)
        assert isinstance(parsed, dict), f"line {self.line}: no JSON object"
        return parsed

    @property
    def command(self) -> tuple[str, dict[str, Any]]:
        """The argument as a verb and a JSON object, as in `P order {…}`."""
        verb, _, rest = self.text.partition(" ")
        return verb, parse_json(rest) if rest else {}


@dataclass(frozen=True)
class Script:
    """One conversation file."""

    name: str
    against: frozenset[str]
    clock_ms: int
    config: dict[str, Any]
    steps: tuple[Step, ...]


def parse_json(text: str) -> Any:
    """JSON with numbers as Decimal, integers as int."""
    return json.loads(text, parse_float=Decimal)


def load(path: Path) -> Script:
    """Parse a conversation file."""
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(title: str, text: str) -> Script:
    """Parse the text of a conversation."""
    against: frozenset[str] = frozenset()
    clock = START
    config: dict[str, Any] = {}
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        if name == "AGAINST":
            against = frozenset(rest.split())
        elif name == "CLOCK":
            clock = rest
        elif name == "CONFIG":
            config.update(parse_json(rest))
        else:
            found = re.match(r"@(\d+)(?: |$)", rest)
            connection = int(found.group(1)) if found else None
            steps.append(Step(number, name, connection, rest[found.end() :] if found else rest))
    at = datetime.fromisoformat(clock.replace("Z", "+00:00"))
    return Script(title, against, int(at.timestamp() * 1000), config, tuple(steps))


def raw_bytes(text: str) -> bytes:
    r"""The bytes of an IRAW argument: `"…" * N` with the escapes \" \\ \r \n \t \xHH."""
    found = re.fullmatch(r'"((?:\\.|[^"\\])*)"(?: \* (\d+))?', text)
    assert found, text
    made = bytearray()
    position = 0
    body = found.group(1)
    for escape in ESCAPE.finditer(body):
        made += body[position : escape.start()].encode()
        code = escape.group(1)
        made += bytes([int(code[1:], 16)]) if code[0] == "x" else NAMED[code]
        position = escape.end()
    made += body[position:].encode()
    return bytes(made) * int(found.group(2) or 1)


@dataclass
class Variables:
    """Values bound by `$name` so far, and the virtual clock."""

    now_ms: int
    values: dict[str, Any] = field(default_factory=dict)

    def fill(self, value: Any) -> Any:
        """Replace variables in what is sent or asked."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        now = re.fullmatch(r"\$now([+-]\d+)?", value)
        if now:
            return self.now_ms + int(now.group(1) or 0)
        if value[1:] in self.values and value[0] == "$":
            return self.values[value[1:]]
        return re.sub(r"\$([a-z][a-z0-9]*)", lambda m: str(self.values.get(m.group(1), m.group(0))), value)

    def matches(self, pattern: Any, value: Any) -> bool:
        """Compare a received value with a pattern; variables of a matching object are bound."""
        bound = dict(self.values)
        if self._compare(pattern, value, bound):
            self.values = bound
            return True
        return False

    def _compare(self, pattern: Any, value: Any, bound: dict[str, Any]) -> bool:
        if isinstance(pattern, dict):
            return isinstance(value, dict) and all(
                key in value and self._compare(item, value[key], bound) for key, item in pattern.items()
            )
        if isinstance(pattern, list):
            return (
                isinstance(value, list)
                and len(pattern) == len(value)
                and all(self._compare(a, b, bound) for a, b in zip(pattern, value, strict=True))
            )
        if isinstance(pattern, str):
            return self._compare_text(pattern, value, bound)
        if isinstance(pattern, bool) or pattern is None or isinstance(value, bool):
            return pattern is value
        return isinstance(value, int | Decimal) and value == pattern

    def _compare_text(self, pattern: str, value: Any, bound: dict[str, Any]) -> bool:
        if pattern == "*":
            return True
        if re.fullmatch(r"\$now([+-]\d+)?", pattern):
            return bool(value == self.fill(pattern))
        if re.fullmatch(r"\$[a-z][a-z0-9]*", pattern):
            return bool(bound.setdefault(pattern[1:], value) == value)
        if not isinstance(value, str):
            return False
        filled = re.sub(r"\$([a-z][a-z0-9]*)", lambda m: str(bound.get(m.group(1), m.group(0))), pattern)
        form = ".*".join(re.escape(part) for part in filled.split("*"))
        return re.fullmatch(form, value, re.DOTALL) is not None
