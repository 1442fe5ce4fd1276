"""Keys of venues, stored encrypted: the venue is asked for the rights of a key first. No key is read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fks.clock import Clock
from fks.config.check import venue_plaintext
from fks.config.credentials import (
    Binding,
    CredentialKeys,
    Role,
    VenueKey,
    key_file,
    load_keys,
    make_key_file,
    with_stored_keys,
)
from fks.config.endpoints import NodeEndpoints
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.account import Account
from fks.model.errors import ConfigError, InputError, KeyRefusedError, OutageError, conflict, not_found, unprocessable
from fks.model.ports import KeyRights, Log
from fks.store.accounts import AccountStore
from fks.store.credentials import Credential, CredentialStore
from fks.store.db import Database
from fks.system.process.log import Redactor, hide
from fks.trading.credentials.carrier import rights_of, rights_refusal
from fks.trading.venues.registry import Making, keyed_venue

_STORED = frozenset({"waiting", "active"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Stored keys as administrators see them: without the keys."""

    db: Database
    settings: Settings
    paths: Paths
    node: NodeEndpoints | None
    clock: Clock
    log: Log

    async def listed(self) -> list[dict[str, Any]]:
        """Return every version of every stored key, newest first."""
        return [asdict(row) for row in await CredentialStore(self.db).page()]

    async def store(self, name: str, role: Role, key: VenueKey, *, by: str, is_rotation: bool) -> dict[str, Any]:
        """Store a key of an account; return its row, with `warnings`. It waits there for the process that uses it.

        Errors: InputError 404, 409, 422 (the venue refuses the key, it may withdraw, or the way there is without TLS);
        OutageError with real money when the venue does not answer; ConfigError when the encryption key is lost.
        """
        hide(*key.plain())
        if not key.is_sendable:
            raise _wrong("key or secret is not usable", "use it as the venue shows it, without spaces")
        store, account = CredentialStore(self.db), await self._account(name, is_keyed=True)
        settings, venue = self.settings.at(account.venue), account.venue
        if wrong := venue_plaintext(with_stored_keys(settings, key, None)):
            raise _wrong(f"{wrong[0].key} {wrong[0].text}", wrong[0].remedy)
        rows = [row for row in await store.page() if row.account_id == account.id]
        self._check(rows, role, key, is_rotation=is_rotation)
        self._keys(await store.page())
        rights, warnings = await self._asked(key, settings, venue)
        exchange, version = (
            settings.venue.exchange,
            max((r.version for r in rows if r.role == role), default=0) + 1,
        )
        async with self.db.transaction() as tx:  # the encryption key may be rotated at any time
            await CredentialStore(tx).lock()
            keys = self._keys(await CredentialStore(tx).page())
            sealed = keys.seal(Binding(account.id, venue, exchange, role, version), key)
            added = await CredentialStore(tx).add(
                account.id, venue, exchange, role, version, sealed, keys.id, key.fingerprint,
                rights.may_withdraw, rights.is_address_bound, by,
            )  # fmt: skip
        if added is None:
            raise conflict("CREDENTIAL_CHANGED", "another key was stored meanwhile", "see fks secrets list")
        self.log.info(
            "credentials.stored", account=name, role=role, version=version, fingerprint=key.fingerprint, by=by
        )
        row = next(row for row in await store.page() if row.id == added)
        return asdict(row) | {"warnings": warnings}

    async def remove(self, name: str, role: Role, *, by: str) -> None:
        """Remove the stored keys of an account for a role. Errors: InputError 404."""
        await CredentialStore(self.db).remove((await self._account(name)).id, role)
        self.log.info("credentials.removed", account=name, role=role, by=by)

    async def _account(self, name: str, *, is_keyed: bool = False) -> Account:
        accounts = await AccountStore(self.db).page()
        found = next((account for account in accounts if name in (account.name, str(account.id))), None)
        if found is None:
            known = ", ".join(account.name for account in accounts) or "none"
            raise not_found("ACCOUNT_UNKNOWN", f"no such account: {name}", f"known: {known}")
        if is_keyed and found.venue not in (keyed := self.settings.venues_at_exchanges()):
            text = f"account {found.name} trades at {found.venue}, which has no API keys"
            raise _wrong(text, f"use one at {' or '.join(keyed)}; venues.exchanges names further exchanges")
        return found

    def _check(self, rows: Sequence[Credential], role: Role, key: VenueKey, *, is_rotation: bool) -> None:
        stored = [row for row in rows if row.state in _STORED]
        has_one = any(row.role == role for row in stored)
        if has_one and not is_rotation:
            raise conflict("CREDENTIAL_EXISTS", f"the account has a key for {role} already", "rotate it")
        if is_rotation and not has_one:
            raise not_found("CREDENTIAL_UNKNOWN", f"the account has no key for {role}", "set it first")
        for row in stored:
            if row.fingerprint == key.fingerprint and (row.role != role or row.state == "active"):
                what = "the key in use" if row.role == role else f"the key for {row.role}"
                raise conflict("CREDENTIAL_SAME", f"it is {what}", "make another key at the venue")

    def _keys(self, rows: Sequence[Credential]) -> CredentialKeys:
        """Return the encryption keys; a new one where no stored key needs the one that is missing."""
        file = key_file(self.settings, self.paths)
        if not file.exists() and not any(row.state in _STORED for row in rows):
            make_key_file(file)
        return load_keys(file)

    async def _asked(self, key: VenueKey, settings: Settings, name: str) -> tuple[KeyRights, list[str]]:
        """Return what the venue says of a key, with warnings. Errors: InputError for a key that is not to be stored."""
        is_live = settings.venue.live
        making = Making(settings=settings, node=self.node, clock=self.clock, log=self.log)
        try:
            venue = keyed_venue(making, with_stored_keys(settings, key, None), name)
            try:
                rights = await rights_of(venue, is_live=is_live)
                await venue.identity()
            finally:
                await venue.close()
        except KeyRefusedError as error:
            raise _refused("KEY_REFUSED", Redactor(key.plain()).text(str(error))) from None
        except ConfigError as error:
            return KeyRights(), [f"the venue was not asked: {error.message}; it is asked before the key is used"]
        except OutageError:
            if is_live:
                raise
            return KeyRights(), ["the venue did not answer; it is asked before the key is used"]
        if reason := rights_refusal(rights, is_live=is_live):
            raise _refused("KEY_MAY_WITHDRAW", reason)
        warnings = []
        if rights.may_withdraw is None:
            warnings.append("the venue does not say whether the key may withdraw")
        if rights.is_address_bound is None:
            warnings.append("the venue does not say whether the key is bound to addresses")
        elif not rights.is_address_bound:
            warnings.append("the key may be used from any address: bind it to this machine's at the venue")
        return rights, warnings


def _wrong(text: str, remedy: str) -> InputError:
    return unprocessable("CREDENTIAL_WRONG", text, remedy)


def _refused(code: str, reason: str) -> InputError:
    return unprocessable(code, f"the key is not stored: {reason}", "make another key at the venue")
