"""Secrets of a node: made here, kept in one 0600 file under FKS_HOME, never default, never printed.

Nothing else makes a password. Servers get them through files only their own user can read, never through argv or the
environment, which any user of the host may see.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import os
import re
import secrets as dice
import shutil
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from fks.config.paths import Paths
from fks.config.problems import ValueSource, WrongSetting
from fks.config.settings import Settings
from fks.model.errors import ConfigError

LENGTH_MIN = 32  # characters; ours have 43, which is 256 bits
_WEAK = ("change_me", "changeme", "password", "secret", "default", "example", "fks", "postgres", "redis", "admin")
#: of a password that a person gives for an embedded server: what needs no quotes in any of the files that hold it
_PLAIN = re.compile(r"[A-Za-z0-9+/=_.~-]+")
_HEADER = (
    "# Made by `fks security-setup`. Never commit it, never share it; `fks security-setup --rotate` makes new ones.\n"
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one node. `str()` of any of them shows asterisks."""

    postgres_password: SecretStr
    redis_password: SecretStr
    ray_token: SecretStr
    cli_token: SecretStr
    session_key: SecretStr

    def values(self) -> tuple[str, ...]:
        """Return the plain values, for redaction only."""
        return tuple(getattr(self, field.name).get_secret_value() for field in fields(self))


@dataclass(frozen=True, slots=True)
class SecretsSetup:
    """The result of `ensure_secrets`: the names it made and those it kept."""

    file: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]


def secret_values(settings: Settings, secrets: Secrets | None = None, urls: Iterable[str] = ()) -> tuple[str, ...]:
    """Return every plain secret of a node, for redaction only: its own, those of its settings, passwords in URLs, also
    of `urls`."""
    found = [] if secrets is None else list(secrets.values())
    waiting: list[object] = [settings, [SecretStr(url) for url in urls]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, SecretStr):
            plain = value.get_secret_value()
            found.append(plain)
            with contextlib.suppress(ValueError):
                if (password := urlsplit(plain).password) is not None:
                    found += [password, unquote(password)]
        elif isinstance(value, BaseModel):
            waiting += [getattr(value, name) for name in type(value).model_fields]
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return tuple(found)


NAMES: tuple[str, ...] = tuple(field.name for field in fields(Secrets))


def derived(key: str, label: str) -> bytes:
    """Return a 256-bit key for one purpose, so that no key serves two."""
    return hmac.digest(key.encode(), f"fks:{label}".encode(), "sha256")


def load_secrets(paths: Paths) -> Secrets:
    """Return the node's secrets. Errors: ConfigError when the file is missing, readable by others, or a value is
    weak."""
    values = _read(paths.secrets_file)
    missing = [name for name in NAMES if name not in values]
    if missing:
        raise ConfigError(
            f"secrets {', '.join(missing)} are missing from {paths.secrets_file}",
            remedy="run 'fks security-setup': it makes the missing ones and keeps the others",
        )
    for name in NAMES:
        check_strong(f"{name} in {paths.secrets_file}", values[name])
    return Secrets(**{name: SecretStr(values[name]) for name in NAMES})


def ensure_secrets(paths: Paths, *, rotate: bool = False, given: Mapping[str, str] | None = None) -> SecretsSetup:
    """Make the secrets that are missing (all of them when `rotate`) and write the files that hold them, mode 0600.

    A missing one that is in `given` (a person's password for an embedded server) is taken from there. Idempotent. A
    crash in the middle leaves the old file whole. Errors: ConfigError when git tracks the file, others may read it, or
    a value is weak.
    """
    refuse_tracked(paths.secrets_file)
    values = _read(paths.secrets_file) if paths.secrets_file.exists() else {}
    for name in NAMES:
        if name in values and not rotate:
            check_strong(f"{name} in {paths.secrets_file}", values[name])
    made = tuple(name for name in NAMES if rotate or name not in values)
    taken = {} if rotate else {name: value for name, value in (given or {}).items() if name in made}
    for name, value in taken.items():
        check_given(name, value)
    values |= {name: taken.get(name) or _strong() for name in made}
    if made:
        write_private(paths.secrets_file, _HEADER + _toml(values))
    for file, name in ((paths.ray_token_file, "ray_token"), (paths.cli_token_file, "cli_token")):
        _ensure_holds(file, values[name])
    return SecretsSetup(paths.secrets_file, made, tuple(name for name in NAMES if name not in made))


def _strong() -> str:
    """Return 256 random bits as text that passes our own check: one in 30,000 begins like a guessable one."""
    while True:
        made = dice.token_urlsafe(32)
        with contextlib.suppress(ConfigError):
            check_strong("what was drawn", made)
            return made


def adopt_ray_token(paths: Paths, file: Path) -> None:
    """Make the token in `file` (0600, the head's) this node's own: all machines of a cluster share one.

    Errors: ConfigError when it is missing, readable by others, or weak.
    """
    try:
        check_private(file)
        token = file.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"no token file {file}: {error.strerror}", remedy="copy the head's FKS_HOME/ray.token there, mode 0600"
        ) from error
    check_strong(f"the token in {file}", token)
    refuse_tracked(paths.secrets_file)
    values = _read(paths.secrets_file) if paths.secrets_file.exists() else {}
    if values.get("ray_token") != token:
        values["ray_token"] = token
        write_private(paths.secrets_file, _HEADER + _toml(values))
    _ensure_holds(paths.ray_token_file, token)


def adopt_delivered_token(paths: Paths, given: Path | None) -> None:
    """Take the cluster's token over from where it was delivered. Errors: ConfigError when it was not."""
    places = [given.expanduser()] if given else [paths.ray_token_file, Path("~/.ray/auth_token").expanduser()]
    file = next((place for place in places if place.exists()), None)
    if file is None:
        raise ConfigError(
            f"the cluster's token is not at {' or '.join(map(str, places))}",
            remedy="copy the head's FKS_HOME/ray.token there, mode 0600, or name it with --token-file",
        )
    adopt_ray_token(paths, file)


def sealed_keys(secrets: Secrets) -> str:
    """Return what every machine of a cluster has to share beside its token, encrypted with a key of the token.

    It is the session key: it signs tickets and access tokens, and encrypts second factors. Every holder of the token
    runs code on all machines, so the sealed text gives none of them anything that it could not take.
    """
    from cryptography.fernet import Fernet

    text = json.dumps({"session_key": secrets.session_key.get_secret_value()})
    return Fernet(_sealing_key(secrets.ray_token)).encrypt(text.encode()).decode()


def adopt_keys(paths: Paths, sealed: str) -> bool:
    """Make the head's keys this machine's own; return whether they were others before.

    Errors: ConfigError when they were sealed with another token than this machine's, or one is weak.
    """
    from cryptography.fernet import Fernet, InvalidToken

    values = _read(paths.secrets_file)
    try:
        keys = json.loads(Fernet(_sealing_key(SecretStr(values.get("ray_token", "")))).decrypt(sealed.encode()))
    except (InvalidToken, ValueError):
        raise ConfigError(
            "the head's keys were sealed with another token than this machine's",
            remedy="copy the head's FKS_HOME/ray.token there, mode 0600, and name it with --token-file",
        ) from None
    key = str(keys.get("session_key", ""))
    check_strong("the head's session_key", key)
    if values.get("session_key") == key:
        return False
    values["session_key"] = key
    write_private(paths.secrets_file, _HEADER + _toml(values))
    return True


def _sealing_key(token: SecretStr) -> bytes:
    return base64.urlsafe_b64encode(derived(token.get_secret_value(), "cluster-keys"))


def _toml(values: dict[str, str]) -> str:
    """Return the lines of a secrets file. JSON's text is TOML's: a person's own password may have quotes in it."""
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


def check_strong(what: str, value: str) -> None:
    """Raise ConfigError when `value` is empty, short or a well-known default. The value itself is never shown."""
    remedy = "run 'fks security-setup --rotate' for strong ones"
    if not value:
        raise ConfigError(f"{what} is empty", remedy=remedy)
    if len(value) < LENGTH_MIN:
        raise ConfigError(f"{what} has {len(value)} characters (at least {LENGTH_MIN})", remedy=remedy)
    if len(set(value)) < 8 or any(value.lower().startswith(weak) for weak in _WEAK):
        raise ConfigError(f"{what} is a default or easily guessed value", remedy=remedy)


def check_given(what: str, value: str) -> None:
    """Raise ConfigError when `value` cannot be the password of an embedded server. The value itself is never shown."""
    check_strong(what, value)
    if not _PLAIN.fullmatch(value):
        raise ConfigError(
            f"{what} has other characters than letters, digits and + / = _ . ~ -",
            remedy="run 'fks security-setup --rotate' for one without them",
        )


def ignored_passwords(given: Mapping[str, tuple[str, ValueSource]]) -> dict[str, WrongSetting]:
    """Return a warning for a Redis password that is too weak for the embedded server, by the name of our secret.

    The server has a strong one of its own then. It holds no data and has no port, so a start need not fail for it.
    """
    for name, (value, source) in given.items():
        try:
            if name == "redis_password":
                check_given("it", value)
        except ConfigError as error:
            text = f"is ignored, the embedded server has its own: {error.message}"
            return {name: WrongSetting(source.name, source, text, _remedy(source))}
    return {}


def _remedy(source: ValueSource) -> str:
    """Return what to do about a password that is not the embedded server's."""
    is_file = not source.text.startswith("env ")
    remedy = "run 'fks security-setup': it writes the right one there" if is_file else "unset it"
    return f"{remedy}; set {source.name.replace('PASSWORD', 'HOST')} for an external server"


def wrong_passwords(paths: Paths, given: Mapping[str, tuple[str, ValueSource]]) -> list[WrongSetting]:
    """Return a problem for each password given for an embedded server that is not its password, or cannot become it.

    `given`: by the name of our secret. Before the server is made, a strong one becomes its password.
    """
    try:
        stored = _read(paths.secrets_file) if given and paths.secrets_file.exists() else {}
    except ConfigError:  # reported where the secrets themselves are loaded
        return []
    problems = []
    for name, (value, source) in given.items():
        text = ""
        if name in stored:
            if value != stored[name]:
                text = f"is not the embedded server's password, which is {name} in {paths.secrets_file}"
        else:
            try:
                check_given("it", value)
            except ConfigError as error:
                text = f"cannot be the embedded server's password: {error.message}"
        if text:
            problems.append(WrongSetting(source.name, source, text, _remedy(source)))
    return problems


def write_passwords(file: Path, values: Mapping[str, str]) -> tuple[str, ...]:
    """Set NAME=value lines of a `.env` file, mode 0600, and return the names that changed. All other lines stay.

    Errors: ConfigError when git tracks the file.
    """
    refuse_tracked(file)
    text = file.read_text(encoding="utf-8", errors="surrogateescape") if file.exists() else _ENV_HEADER
    lines, changed = text.splitlines(), []
    for name, value in values.items():
        line = re.compile(rf"\s*(?:export\s+)?{name}\s*=")
        places = [number for number, old in enumerate(lines) if line.match(old)]
        new = f"{name}={value}"
        if not places:
            lines.append(new)
        elif all(lines[number] == new for number in places):
            continue
        for number in places:
            lines[number] = new
        changed.append(name)
    is_open = file.exists() and bool(stat.S_IMODE(file.stat().st_mode) & 0o077)
    if changed or is_open:
        write_private(file, "\n".join(lines) + "\n")
    return tuple(changed)


_ENV_HEADER = "# Made by `fks security-setup` from secrets.toml. Never commit it.\n"


def refuse_tracked(file: Path) -> None:
    """Raise ConfigError when git tracks `file`: a committed secret is public for ever."""
    git = shutil.which("git")
    if git is None or not file.parent.is_dir():
        return
    found = subprocess.run(
        [git, "-C", str(file.parent), "ls-files", "--error-unmatch", "--", file.name],
        capture_output=True,
        check=False,
        timeout=10,
    )
    if found.returncode == 0:
        raise ConfigError(
            f"git tracks {file}, which holds secrets",
            remedy=f"run 'git rm --cached {file}', commit, then 'fks security-setup --rotate': the old values are "
            "public",
        )


def write_private(file: Path, text: str) -> None:
    """Write `text` to `file` with mode 0600, whole or not at all (a crash leaves the old content)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mkstemp makes it 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _ensure_holds(file: Path, text: str) -> None:
    """Write `text` with mode 0600 where the file differs: a start on a full disk writes nothing that is there."""
    if not file.exists() or file.read_text() != text or stat.S_IMODE(file.stat().st_mode) != 0o600:
        write_private(file, text)


def check_private(file: Path) -> None:
    """Raise ConfigError when anyone but its owner can read or write `file`."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{file} has mode {mode:04o}: others can read it", remedy=f"run 'chmod 600 {file}'")


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        raise ConfigError(f"no secrets file {file}", remedy="run 'fks security-setup' (fks up does it too)")
    check_private(file)
    try:
        values = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # the parser's text may quote the line, and so the secret
        raise ConfigError(
            f"{file} is no valid TOML", remedy="restore it, or move it away and run 'fks security-setup'"
        ) from error
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} in {file} must be text in quotes", remedy="mend the file")
    return values
