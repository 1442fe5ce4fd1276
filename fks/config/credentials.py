"""Keys of venues, encrypted at rest: AES-256-GCM under a key in a file outside the database.

The file holds one key a line, the newest first: that one encrypts, each of them decrypts. There are two only while
`fks secrets rotate --key` runs. The additional data binds a ciphertext to its account, exchange, role and version, so
that a row that is copied elsewhere decrypts nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets as dice
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from fks.config.paths import Paths
from fks.config.secrets import check_private, write_private
from fks.config.settings import Settings
from fks.model.errors import ConfigError

Role = Literal["orders", "guardian"]
#: the names of the processes that get the keys of a venue
CARRIERS = frozenset({"orders", "guardian"})
_NONCE, _BYTES = 12, 32
_HEADER = "# Encrypts the keys of venues in the database. Keep a copy of it apart from the backups; never commit it.\n"
_FIELDS = ("api_key", "api_secret", "guardian_api_key", "guardian_api_secret")


LENGTH_MIN, LENGTH_MAX = 8, 1024  # characters of a venue key or secret


@dataclass(frozen=True, slots=True)
class VenueKey:
    """An API key with its secret. `str()` of both shows asterisks."""

    api_key: SecretStr
    api_secret: SecretStr

    @property
    def fingerprint(self) -> str:
        """Return 12 hex characters that identify the API key and do not lead to it."""
        return _digest("venue key", self.api_key.get_secret_value().encode())

    def plain(self) -> tuple[str, str]:
        """Return key and secret, for a session and for redaction only."""
        return self.api_key.get_secret_value(), self.api_secret.get_secret_value()

    @property
    def is_sendable(self) -> bool:
        """Return whether both are one printable ASCII word of a usable length. A private key as PEM (Coinbase) has
        spaces in its first and last line, and line ends."""
        for text in self.plain():
            is_pem = text.startswith("-----BEGIN ") and "-----END " in text
            word = text.replace("\n", "").replace(" ", "") if is_pem else text
            is_word = word.isascii() and word.isprintable() and " " not in word
            if not (is_word and LENGTH_MIN <= len(text) <= LENGTH_MAX):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Binding:
    """The row that a ciphertext belongs to."""

    account_id: int
    venue: str
    exchange: str
    role: str
    version: int

    def data(self) -> bytes:
        """Return the additional data of the encryption."""
        return json.dumps([self.account_id, self.venue, self.exchange, self.role, self.version]).encode()


class CredentialKeys:
    """The keys of a key file."""

    def __init__(self, raw: Sequence[bytes], file: Path) -> None:
        self._raw = {_digest("credential key", key): key for key in raw}
        self._file = file

    @property
    def id(self) -> str:
        """Return the id of the key that encrypts."""
        return next(iter(self._raw))

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._raw

    def seal(self, binding: Binding, key: VenueKey) -> bytes:
        """Return nonce and ciphertext."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = dice.token_bytes(_NONCE)
        text = json.dumps(key.plain()).encode()
        return nonce + AESGCM(self._raw[self.id]).encrypt(nonce, text, binding.data())

    def unseal(self, binding: Binding, key_id: str, sealed: bytes) -> VenueKey:
        """Return the key of a row. Errors: ConfigError when the file lacks its encryption key, or the row was changed
        or belongs elsewhere."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        raw, name = self._raw.get(key_id), f"the stored key of account {binding.account_id} ({binding.role})"
        if raw is None:
            raise ConfigError(
                f"{name} is encrypted with {key_id}, and {self._file} holds {', '.join(self._raw)}", remedy=_RESTORE
            )
        try:
            text = AESGCM(raw).decrypt(sealed[:_NONCE], sealed[_NONCE:], binding.data())
        except InvalidTag:
            raise ConfigError(
                f"{name} cannot be decrypted: its row was changed, or is another's",
                remedy="remove it with 'fks secrets remove' and set it again",
            ) from None
        api_key, api_secret = json.loads(text)
        return VenueKey(SecretStr(api_key), SecretStr(api_secret))


_RESTORE = (
    "restore the file from your copy of it, or give the keys up: 'fks secrets remove ACCOUNT', then 'fks secrets set'"
)


def key_file(settings: Settings, paths: Paths) -> Path:
    """Return the file of the encryption key: `venue.credentials_key_file`, else one in FKS_HOME."""
    return settings.venue.credentials_key_file or paths.credentials_key


def load_keys(file: Path) -> CredentialKeys:
    """Return the keys of a file. Errors: ConfigError when it is missing, readable by others or damaged."""
    try:
        check_private(file)
        lines = file.read_text().splitlines()
    except OSError as error:
        text = f"{file}, which encrypts the stored keys of venues, cannot be read: {error.strerror}"
        raise ConfigError(text, remedy=_RESTORE) from None
    try:
        raw = [base64.urlsafe_b64decode(line) for line in map(str.strip, lines) if line and not line.startswith("#")]
    except (binascii.Error, ValueError):
        raw = []
    if not raw or any(len(key) != _BYTES for key in raw):
        raise ConfigError(f"{file} holds no encryption key of {_BYTES} bytes in base64", remedy=_RESTORE)
    return CredentialKeys(raw, file)


def make_key_file(file: Path) -> None:
    """Write a new encryption key, mode 0600, unless the file is there. Errors: ConfigError if that is impossible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
            made.write(_HEADER + _line(dice.token_bytes(_BYTES)))
            made.flush()
            os.fsync(made.fileno())
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}", remedy="see venue.credentials_key_file"
        ) from None


def add_key(file: Path) -> CredentialKeys:
    """Put a new encryption key before those of the file, and return all of them. Errors: ConfigError."""
    load_keys(file)
    old = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    write_private(file, _HEADER + _line(dice.token_bytes(_BYTES)) + "".join(f"{line}\n" for line in old))
    return load_keys(file)


def drop_old_keys(file: Path) -> None:
    """Leave only the newest encryption key in the file. Errors: ConfigError."""
    load_keys(file)
    newest = next(line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#"))
    write_private(file, f"{_HEADER}{newest}\n")


def without_venue_keys(settings: Settings) -> Settings:
    """Return the settings for a process that carries no account: without the keys of venues."""
    return _with_venue(settings, dict.fromkeys(_FIELDS))


def with_stored_keys(settings: Settings, orders: VenueKey | None, guardian: VenueKey | None) -> Settings:
    """Return the settings with stored keys, which win over those of files and the environment."""
    values: dict[str, SecretStr | None] = {}
    if orders is not None:
        values |= {"api_key": orders.api_key, "api_secret": orders.api_secret}
    if guardian is not None:
        values |= {"guardian_api_key": guardian.api_key, "guardian_api_secret": guardian.api_secret}
    return _with_venue(settings, values)


def _with_venue(settings: Settings, values: dict[str, SecretStr | None]) -> Settings:
    return settings.model_copy(update={"venue": settings.venue.model_copy(update=values)})


def _digest(label: str, value: bytes) -> str:
    return hashlib.sha256(f"fks {label}\0".encode() + value).hexdigest()[:12]


def _line(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode() + "\n"
