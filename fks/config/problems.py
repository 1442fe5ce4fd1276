"""Errors of settings: key, value, source, and a valid form."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ValueSource:
    """Source of a value: `text` for people ("fks.toml:3", "env FKS_HTTP_PORT"), `name` the name that set it."""

    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class WrongSetting:
    """One wrong setting. `key` may carry its value; a secret's never does."""

    key: str
    source: ValueSource | None
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f" ({self.source.text})" if self.source else ""
        return f"{self.key}{where}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def joined(problems: Iterable[WrongSetting]) -> str:
    """Return one line for one error, else a count and a line each."""
    lines = list(dict.fromkeys(str(problem) for problem in problems))
    if len(lines) == 1:
        return lines[0]
    return "\n  - ".join([f"{len(lines)} settings are wrong:", *lines])


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.8) -> str:
    """Return "did you mean …?" when one of `known` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else ""
