"""Reading fks.toml and .env with the line each key stands on."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from fks.config import aliases
from fks.config.problems import ValueSource, WrongSetting, did_you_mean
from fks.config.settings import Section, Settings

_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"\s*(?:([A-Za-z0-9_-]+)\s*\.\s*)?([A-Za-z0-9_-]+)\s*=")
_ENV_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_QUOTED = re.compile(r"\s*([\"'])(.*?)\1\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s)\s*#.*$")


def read(file: Path, problems: list[WrongSetting]) -> dict[tuple[str, str], tuple[Any, ValueSource]]:
    """Return (section, key) -> (value, source) of a TOML file; what FKS does not know becomes a problem."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(
            WrongSetting(str(file), None, f"no valid TOML: {error}", "strings need quotes, sections square brackets")
        )
        return {}
    lines = _lines(text)
    known = {name: field.annotation for name, field in Settings.model_fields.items() if name != "home"}
    found: dict[tuple[str, str], tuple[Any, ValueSource]] = {}
    for section, content in document.items():
        source = ValueSource(f"{file.name}:{lines.get((section, ''), lines.get(('', section), 1))}", section)
        if section == "home":
            problems.append(WrongSetting("home", source, "is not set here", "set FKS_HOME or use --home"))
        elif section not in known:
            problems.append(
                WrongSetting(
                    f"[{section}]",
                    source,
                    "no such section",
                    did_you_mean(section, known, cutoff=0.6) or f"there are {', '.join(known)}",
                )
            )
        elif not isinstance(content, dict):
            problems.append(
                WrongSetting(section, source, "is a section, not a key", f"write [{section}] and its keys below")
            )
        else:
            model = known[section]
            assert isinstance(model, type)
            assert issubclass(model, Section)
            for key, value in content.items():
                at = ValueSource(f"{file.name}:{lines.get((section, key), '?')}", f"{section}.{key}")
                if key in model.model_fields:
                    found[section, key] = (value, at)
                else:
                    hint = (
                        did_you_mean(key, model.model_fields, cutoff=0.6)
                        or f"[{section}] has {', '.join(model.model_fields)}"
                    )
                    problems.append(WrongSetting(f"{section}.{key}", at, "no such key", hint))
    return found


def read_env(file: Path, problems: list[WrongSetting]) -> dict[str, tuple[str, ValueSource]]:
    """Return name -> (value, source) of a .env file: NAME=value, quotes and `export` allowed, # comments, also after
    a value (`NAME=value  # why`) and after none (`NAME=  # why`).

    A file with one of our secrets in it must be readable by its owner only.
    """
    found: dict[str, tuple[str, ValueSource]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ENV_LINE.fullmatch(line)
        if match is None:
            problems.append(WrongSetting(f"{file.name}:{number}", None, "is no NAME=value", "comments start with #"))
            continue
        name, value = match.groups()
        found[name] = (_value(value), ValueSource(f"{file.name}:{number} {name}", name))
    mode = stat.S_IMODE(file.stat().st_mode)
    secret = sorted(name for name, (value, _) in found.items() if value and aliases.is_secret(name, value))
    if mode & 0o077 and secret:
        problems.append(
            WrongSetting(
                str(file), None, f"mode {mode:04o} lets others read {', '.join(secret)}", f"run 'chmod 600 {file}'"
            )
        )
    return found


def _lines(text: str) -> dict[tuple[str, str], int]:
    section = ""
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = header[1]
            found.setdefault((section, ""), number)
        elif key := _KEY.match(line):
            found.setdefault((key[1] or section, key[2]), number)
    return found


def _value(text: str) -> str:
    """Return the value of a line: quotes removed, and what follows white space and `#`. `a#b` is whole."""
    if quoted := _QUOTED.fullmatch(text):
        return quoted[2]
    # at the start, `#` is a comment after white space only: NAME=#abc is the value #abc
    return (text if text.startswith("#") else _COMMENT.sub("", text)).strip()
