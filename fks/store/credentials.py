"""Stored keys of venues: encrypted rows, one for each version, and a node's copy of those that its processes carry."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from fks.config.credentials import Binding, CredentialKeys, VenueKey
from fks.config.secrets import check_private, write_private
from fks.model.errors import ConfigError, InputError, not_found
from fks.store.base import SqlStore, query
from fks.store.db import Querier


@dataclass(frozen=True, slots=True)
class Credential:
    """A version of an account's key, without the key. `may_withdraw` and `is_address_bound` None: the venue did not
    say."""

    id: int
    account_id: int
    account: str
    venue: str
    exchange: str
    role: str
    version: int
    state: str
    key_id: str
    fingerprint: str
    may_withdraw: bool | None
    is_address_bound: bool | None
    reason: str
    created_by: str
    created_at: datetime
    taken_at: datetime | None


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A stored key as the database has it. `environment` and `uid`: the account's identity, if it is fixed."""

    id: int
    account_id: int
    venue: str
    exchange: str
    role: str
    version: int
    state: str
    key_id: str
    sealed: bytes
    environment: str | None
    uid: str | None

    @property
    def binding(self) -> Binding:
        return Binding(self.account_id, self.venue, self.exchange, self.role, self.version)

    def unsealed(self, keys: CredentialKeys) -> VenueKey:
        """Return the key. Errors: ConfigError as `CredentialKeys.unseal`."""
        return keys.unseal(self.binding, self.key_id, self.sealed)


class CredentialStore(SqlStore[Querier], queries="credentials"):
    """Reads and writes of the credentials table. Takes a database or an open transaction."""

    @query("list")
    async def page(self) -> list[Credential]:
        """Return every version of every key, newest first."""

    async def session_account(self, venue: str, mode: str) -> int | None:
        """Return the account that the venue's session belongs to, None without one. `mode`: live or paper, of the
        account that is preferred."""

    async def carried(self, account_id: int, exchange: str) -> list[SealedKey]:
        """Return the keys of an account, waiting and active ones, oldest first."""

    async def lock(self) -> None:
        """Let one process at a time encrypt with the newest encryption key or replace that, until the end of the
        transaction."""

    async def sealed(self) -> list[SealedKey]:
        """Return every stored key, locked until the end of the transaction."""

    async def add(
        self,
        account_id: int,
        venue: str,
        exchange: str,
        role: str,
        version: int,
        sealed: bytes,
        key_id: str,
        fingerprint: str,
        may_withdraw: bool | None,
        is_address_bound: bool | None,
        by: str,
    ) -> int | None:
        """Add a version that waits for the process that carries the account; None if the number is taken."""

    async def take(self, id: int) -> bool:
        """Note that a waiting version is in use: those before it keep no key. False if it does not wait any more."""

    async def refuse(self, id: int, reason: str) -> None:
        """Note that the venue refused a waiting version; it keeps no key. Idempotent."""

    async def note_rights(self, id: int, may_withdraw: bool | None, is_address_bound: bool | None) -> None:
        """Note what the venue says of a key."""

    async def reseal(self, id: int, key_id: str, sealed: bytes) -> None:
        """Replace the ciphertext of a key by one under another encryption key."""

    @query(missing=lambda account_id: _unknown())
    async def remove(self, account_id: int, role: str) -> None:
        """Remove the keys of an account for a role. Errors: InputError 404."""


def _unknown() -> InputError:
    return not_found("CREDENTIAL_UNKNOWN", "the account has no stored key of this role", "see fks secrets list")


def keep_copy(file: Path, rows: Sequence[SealedKey]) -> None:
    """Write the node's copy where it differs. A full or broken disk costs the copy, not the start."""
    items = [{**asdict(row), "sealed": base64.b64encode(row.sealed).decode()} for row in rows]
    try:
        if rows != read_copy(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_private(file, json.dumps(items, indent=1) + "\n")
    except OSError:
        return


def read_copy(file: Path) -> list[SealedKey]:
    """Return the node's copy, [] without one or if it is damaged. Errors: OSError."""
    try:
        check_private(file)
        items = json.loads(file.read_text())
        return [SealedKey(**{**item, "sealed": base64.b64decode(item["sealed"])}) for item in items]
    except (FileNotFoundError, ConfigError, ValueError, KeyError, TypeError):
        return []
