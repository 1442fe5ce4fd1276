"""The environment file of a machine (`fks node --env-file`), read the same by FKS and by systemd.

One line is NAME=VALUE. A bare value is taken as it stands, to the end of the line; a value in single or double quotes
is what stands between them. Nothing is expanded. What systemd, FKS and a shell would read differently is refused:
`export`, spaces around `=`, a backslash, a comment behind a value, text beside quotes.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from fks.model.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMENT = re.compile(r"\s#")
QUOTING = "NAME=VALUE: bare without quotes, backslash or ' #', else all of it in single quotes"


def parse(text: str, file: str = "fks.env") -> dict[str, str]:
    """Return the variables of an environment file. Errors: ConfigError naming the line, never its value."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ConfigError(f"{file}:{number} is no NAME=VALUE", remedy=QUOTING)
        if (fault := _fault(value.strip())) is not None:
            raise ConfigError(f"{file}:{number} {name}: {fault}", remedy=QUOTING)
        found[name] = _plain(value.strip())
    return found


def read(file: Path) -> dict[str, str]:
    """Return the variables of a file that its owner alone may read. Errors: ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
        mode = stat.S_IMODE(file.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", remedy="name the file with --env-file") from None
    if mode & 0o077:
        raise ConfigError(f"{file}: mode {mode:04o} lets others read its secrets", remedy=f"run 'chmod 600 {file}'")
    return parse(text, file.name)


def take(file: Path, environ: MutableMapping[str, str]) -> Mapping[str, str]:
    """Read the file into the environment and return what it holds; a variable that is set already wins."""
    found = read(file)
    for name, value in found.items():
        environ.setdefault(name, value)
    return found


def _fault(value: str) -> str | None:
    quote = value[:1]
    if quote in ("'", '"'):
        inside = value[1:-1]
        if len(value) < 2 or value[-1] != quote or quote in inside:
            return "its quotes do not enclose the whole value"
        return "a backslash, $ or ` in double quotes" if quote == '"' and re.search(r"[\\$`]", inside) else None
    if "\\" in value:
        return "a backslash"
    return "a comment behind the value" if _COMMENT.search(value) else None


def _plain(value: str) -> str:
    return value[1:-1] if value[:1] in ("'", '"') else value
