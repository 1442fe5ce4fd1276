"""Loading of the settings: defaults, fks.toml, the owner's names, FKS_* names; checked as a whole, all errors at once.

Order, strongest first: FKS_<SECTION>_<KEY> > the owner's names (POSTGRES_HOST, BINANCE_API_KEY, …) > fks.toml >
default. Both kinds of names are looked up in the environment, then in `.env` (in FKS_HOME, or beside it when that is
the default `.fks` of a checkout: the same file whatever the working directory, so every process of a node reads the
same). An empty value counts as not set. A setting given under both names with different values is refused. An error
names the line of the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr, ValidationError

from fks.config import aliases
from fks.config.check import problems_of
from fks.config.paths import Paths
from fks.config.problems import ValueSource, WrongSetting, did_you_mean, joined
from fks.config.secrets import ignored_passwords, wrong_passwords
from fks.config.settings import Section, Settings
from fks.config.unread import REMOVED, removed
from fks.model.errors import ConfigError
from fks.model.instrument import folded

Key = tuple[str, str]
ENV_FILE = "FKS_ENV_FILE"  # set by `fks node --env-file`: where that file is
#: FKS_ names that are no settings
NOT_SETTINGS = frozenset({"FKS_HOME", "FKS_REQUIRE_ALL", ENV_FILE})
SERVERS: dict[str, Key] = {"postgres": ("database", "url"), "redis": ("redis", "url")}
SHORT_NAMES: dict[str, Key] = {"FKS_CORS_ORIGINS": ("http", "cors_origins")}


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Checked settings, the source of each that is not a default, the files that were read, and warnings about what
    was ignored."""

    settings: Settings
    sources: Mapping[Key, ValueSource]
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def load_settings(home: str | Path | None = None) -> Settings:
    """Return the checked settings of the node at `home` (default FKS_HOME, else `.fks`).

    Errors: ConfigError naming every wrong key, its value (never a secret's), its source and a valid form.
    """
    return load(home).settings


def load(
    home: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    defaults: Mapping[Key, Any] = MappingProxyType({}),
) -> LoadedSettings:
    """Return the settings with their sources. `environ` stands in for the process's environment, `defaults` go before
    those of the settings."""
    env = os.environ if environ is None else environ
    paths = Paths.of(home or env.get("FKS_HOME") or ".fks")
    values: dict[Key, Any] = dict(defaults)
    sources: dict[Key, ValueSource] = {}
    problems: list[WrongSetting] = []
    files: list[Path] = []
    if paths.config_file.exists():
        files.append(paths.config_file)
        _take(values, sources, read_toml(paths.config_file, problems))
    names, env_files = names_of(paths, env, problems)
    files += env_files
    owners = aliases.read(names, problems)
    ours = _our_names(names, problems)
    problems += aliases.conflicts(owners, ours)
    _take(values, sources, owners)
    _take(values, sources, ours)
    old = [removed(key, sources.pop(key)) for key in REMOVED if key in values]
    values = {key: value for key, value in values.items() if key not in REMOVED}
    external = {f"{server}_password" for server, url in SERVERS.items() if url in values}
    given = aliases.embedded(names)
    ignored = ignored_passwords({secret: given[secret] for secret in given.keys() - external})
    problems += wrong_passwords(paths, {secret: given[secret] for secret in given.keys() - external - ignored.keys()})
    settings = _validate(paths, values, sources, problems)
    if settings is not None:
        settings = _expand_symbols(settings, sources)
        problems += problems_of(settings, sources)
    if problems:
        raise ConfigError(joined(problems))
    assert settings is not None
    return LoadedSettings(settings, sources, tuple(files), tuple(map(str, [*ignored.values(), *old])))


def env_name(section: str, key: str) -> str:
    """Return the environment name of a setting: FKS_HTTP_PORT of http.port."""
    return f"FKS_{section.upper()}_{key.upper()}"


def sections() -> dict[str, type[Section]]:
    """Return the sections of fks.toml by name."""
    found: dict[str, type[Section]] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found[name] = field.annotation
    return found


def is_secret(section: str, key: str) -> bool:
    """Return whether the setting's value must never be shown."""
    model = sections().get(section)
    return model is not None and key in model.model_fields and "SecretStr" in str(model.model_fields[key].annotation)


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are settings and no secrets, and the one that names the environment file."""
    named = {
        env_name(section, key): (section, key) for section, model in sections().items() for key in model.model_fields
    }
    named |= SHORT_NAMES | aliases.DIRECT
    found = {name: environ[name] for name, key in named.items() if name in environ and not is_secret(*key)}
    return found | {name: environ[name] for name in (ENV_FILE,) if name in environ}


def config_hash(settings: Settings) -> str:
    """Return 16 hex characters that differ when any setting (a secret too) does: nodes with another file are
    refused."""

    def plain(value: object) -> object:
        if isinstance(value, SecretStr):
            return hashlib.sha256(value.get_secret_value().encode()).hexdigest()
        return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else str(value)

    dumped = settings.model_dump(exclude={"home"})
    return hashlib.sha256(repr(plain(dumped)).encode()).hexdigest()[:16]


def _take(
    values: dict[Key, Any], sources: dict[Key, ValueSource], given: Mapping[Key, tuple[Any, ValueSource]]
) -> None:
    for key, (value, source) in given.items():
        values[key], sources[key] = value, source


def given_passwords(paths: Paths, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the passwords that the environment or `.env` give for the embedded servers, by the name of our secret.
    One that is ignored is left out."""
    names, _ = names_of(paths, os.environ if environ is None else environ, [])
    given = aliases.embedded(names)
    return {secret: given[secret][0] for secret in given.keys() - ignored_passwords(given).keys()}


def names_of(
    paths: Paths, env: Mapping[str, str], problems: list[WrongSetting]
) -> tuple[dict[str, tuple[str, ValueSource]], list[Path]]:
    """Return every set name with its value, the environment's over .env's, and the files that were read."""
    found: dict[str, tuple[str, ValueSource]] = {}
    files = []
    for file in paths.env_files:
        if file.is_file():
            files.append(file)
            found |= read_env(file, problems)
    found |= {name: (value, ValueSource(f"env {name}", name)) for name, value in env.items()}
    return {name: pair for name, pair in found.items() if pair[0] != ""}, files


def _our_names(
    names: Mapping[str, tuple[str, ValueSource]], problems: list[WrongSetting]
) -> dict[Key, tuple[Any, ValueSource]]:
    known = {
        env_name(section, key): (section, key) for section, model in sections().items() for key in model.model_fields
    }
    known |= SHORT_NAMES | {env_name(*key): key for key in REMOVED}
    found: dict[Key, tuple[Any, ValueSource]] = {}
    for name, (value, source) in sorted(names.items()):
        if not name.startswith("FKS_") or name in NOT_SETTINGS or name in aliases.SERVICE_URLS:
            continue
        if name in known:
            found[known[name]] = (value, source)
            continue
        hint = did_you_mean(name, known)
        is_setting_like = any(name.startswith(f"FKS_{section.upper()}_") for section in sections())
        if hint or is_setting_like:  # other programs may have FKS_ names of their own
            problems.append(WrongSetting(name, source, "no such setting", hint or "see 'fks config reference'"))
    return found


def _validate(
    paths: Paths, values: Mapping[Key, Any], sources: Mapping[Key, ValueSource], problems: list[WrongSetting]
) -> Settings | None:
    tree: dict[str, Any] = {"home": paths.home}
    for (section, key), value in values.items():
        tree.setdefault(section, {})[key] = _shaped(section, key, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=False):
            problems.append(_problem(found, values, sources))
    return None


def _shaped(section: str, key: str, value: Any) -> Any:
    """Split the text of a list setting ('a, b' or '["a", "b"]') or of a table ('a=b, c=d')."""
    model = sections().get(section)
    field = model.model_fields.get(key) if model else None
    kind = str(field.annotation) if field is not None and isinstance(value, str) else ""
    if not kind.startswith(("tuple[", "dict[")):
        return value
    inner = value.strip().removeprefix("[").removesuffix("]")
    parts = [part for part in (piece.strip().strip("\"'") for piece in inner.split(",")) if part]
    if kind.startswith("tuple["):
        return tuple(parts)
    if not all("=" in part for part in parts):
        return value  # reported by the check as no table
    return {name.strip(): text.strip() for name, _, text in (part.partition("=") for part in parts)}


def _problem(found: Any, values: Mapping[Key, Any], sources: Mapping[Key, ValueSource]) -> WrongSetting:
    section, key = str(found["loc"][0]), str(found["loc"][1]) if len(found["loc"]) > 1 else ""
    field = sections()[section].model_fields.get(key)
    name = f"{section}.{key}"
    shown = "" if is_secret(section, key) or (section, key) not in values else f" = {_short(values[section, key])}"
    meaning = f" ({field.description})" if field is not None and field.description else ""
    text = str(found["msg"])
    return WrongSetting(name + shown, sources.get((section, key)), text[:1].lower() + text[1:] + meaning, "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expand_symbols(settings: Settings, sources: Mapping[Key, ValueSource]) -> Settings:
    """Expand MAINS and ALTS and write symbols as the venue does; MAINS or ALTS alone mean: collect those."""
    data = settings.data
    wanted = data.symbols
    if ("data", "symbols") not in sources:
        named = tuple(name.upper() for name in ("mains", "alts") if ("data", name) in sources)
        wanted = named or wanted
    lists = {"MAINS": data.mains, "ALTS": data.alts}
    spelled = [symbol for entry in wanted for symbol in lists.get(entry.strip().upper(), (entry,))]
    unique = tuple(dict.fromkeys(folded(symbol) for symbol in spelled))
    return settings.model_copy(update={"data": data.model_copy(update={"symbols": unique})})


_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"\s*(?:([A-Za-z0-9_-]+)\s*\.\s*)?([A-Za-z0-9_-]+)\s*=")
_ENV_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_QUOTED = re.compile(r"\s*([\"'])(.*?)\1\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s)\s*#.*$")


def read_toml(file: Path, problems: list[WrongSetting]) -> dict[tuple[str, str], tuple[Any, ValueSource]]:
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
                if key in model.model_fields or (section, key) in REMOVED:
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
