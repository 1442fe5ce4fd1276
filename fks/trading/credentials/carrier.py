"""The venue keys of a process that carries an account: the stored ones, else those of its settings.

The order manager and the guardian alone use this module, so that no other process decrypts a key. A new version is
tried at the venue first, with a session of its own; if the venue refuses it, the one in use stays. The guardian follows
the order manager's key where it has none of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fks.clock import Clock
from fks.config.credentials import (
    CredentialKeys,
    Role,
    VenueKey,
    add_key,
    drop_old_keys,
    key_file,
    load_keys,
    with_stored_keys,
)
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.account import AT_EXCHANGE
from fks.model.errors import ConfigError, FksError, KeyRefusedError, OutageError
from fks.model.ports import KeyedVenue, KeyRights, Log
from fks.store.credentials import CredentialStore, SealedKey, keep_copy, read_copy
from fks.store.db import Database
from fks.system.process.log import Redactor, hide
from fks.system.runtime import Component
from fks.trading.venues.registry import is_key_exclusive

LOOK_S = 1.0  # between two looks for a new version
ASK_S = 2.0  # a start waits so long for PostgreSQL before it takes the node's copy
RIGHTS_S = 600.0  # between two questions about the rights of the key in use
_RETRY_S = 15.0  # after a question that the venue did not answer
_TRY_S = 20.0


class KeyAlert(Protocol):
    """Raises an alert: its level (page or warning), event and message."""

    def __call__(self, level: str, event: str, message: str, /) -> object: ...


@dataclass(frozen=True, slots=True)
class CarriedKeys:
    """Settings with the keys to sign with, the stored version among them that the process uses, if any, and the account
    that its session belongs to, if that is known. `is_current`: PostgreSQL was asked for stored ones."""

    settings: Settings
    held: SealedKey | None
    account_id: int | None
    is_current: bool = False

    @property
    def is_in_use(self) -> bool:
        """Return whether orders were sent with the stored key before."""
        return self.held is not None and self.held.state == "active"


@dataclass(frozen=True, slots=True)
class KeyCarrier:
    """A process that carries the account of a venue. `settings`: those of the venue, with the keys of files and the
    environment."""

    role: Role
    settings: Settings
    paths: Paths
    store: CredentialStore
    clock: Clock
    log: Log
    venue: str = AT_EXCHANGE

    @staticmethod
    def of(role: Role, component: Component, store: CredentialStore) -> KeyCarrier:
        """Return the carrier of a component for the venue `ccxt`."""
        return KeyCarrier(role, component.settings, component.paths, store, component.clock, component.log)

    def at(self, venue: str) -> KeyCarrier:
        """Return the carrier of the same process for another venue."""
        return replace(self, settings=self.settings.at(venue), venue=venue)

    @property
    def _copy(self) -> Path:
        file = self.paths.credentials_copy
        return file if self.venue == AT_EXCHANGE else file.with_stem(f"{file.stem}-{self.venue}")

    @property
    def follows_orders(self) -> bool:
        """Return whether this is a guardian that signs with the order manager's key unless one of its own is stored."""
        venue = self.settings.venue
        is_exclusive = is_key_exclusive(venue.exchange, self.settings.venues.plugins)
        is_possible = venue.guardian_api_key is None and not is_exclusive
        return self.role == "guardian" and is_possible

    async def account(self) -> int | None:
        """Return the account that the venue's session belongs to. Errors: OutageError."""
        return await self.store.session_account(self.venue, "live" if self.settings.venue.live else "paper")

    async def rows(self, account_id: int | None) -> list[SealedKey]:
        """Return the stored keys of the account, oldest first. Errors: OutageError."""
        rows = [] if account_id is None else await self.store.carried(account_id, self.settings.venue.exchange)
        keep_copy(self._copy, rows)
        return rows

    async def load(self) -> CarriedKeys:
        """Return the keys to start with: stored ones in use, else those of the settings, which a waiting version
        replaces once it was tried, else a waiting one. To the guardian the order manager's key in use is such another
        one, where two processes may share it. The rows are this node's copy while PostgreSQL is away.

        Errors: ConfigError when a stored key cannot be decrypted.
        """
        account_id: int | None
        try:
            async with asyncio.timeout(ASK_S):
                account_id = await self.account()
                rows = await self.rows(account_id)
            is_current = True
        except (OutageError, TimeoutError):
            is_current = False
            # of before `venue.exchange` was another one: its keys are not sent here
            rows = [row for row in read_copy(self._copy) if row.exchange == self.settings.venue.exchange]
            account_id = rows[0].account_id if rows else None
        wanted = self.settings.venue
        orders = _first(rows, "orders", has_other=wanted.api_key is not None)
        first = {"orders": orders}
        if self.role == "guardian":
            is_known = wanted.api_key is not None if orders is None else orders.state == "active"
            has_other = wanted.guardian_api_key is not None or (is_known and self.follows_orders)
            first["guardian"] = _first(rows, "guardian", has_other=has_other)
        if not any(first.values()):
            return CarriedKeys(self.settings, None, account_id, is_current)
        opened = {}
        has_own = first[self.role] is not None or not self.follows_orders
        for role, row in first.items():
            try:
                if row is not None:
                    opened[role] = self.opened(row, self.keys())
            except ConfigError as error:
                if role == self.role or not has_own:
                    raise
                self.log.debug("venue.key_look_failed", venue=self.venue, detail=str(error))
        settings = with_stored_keys(self.settings, opened.get("orders"), opened.get("guardian"))
        held = first[self.role] or (first["orders"] if self.follows_orders else None)
        return CarriedKeys(settings, held, account_id, is_current)

    def keys(self) -> CredentialKeys:
        """Return the encryption keys of this node. Errors: ConfigError."""
        return load_keys(key_file(self.settings, self.paths))

    def opened(self, row: SealedKey, keys: CredentialKeys) -> VenueKey:
        """Return a stored key; no log of this process shows it. Errors: ConfigError."""
        key = row.unsealed(keys)
        hide(*key.plain())
        return key


def _first(rows: Sequence[SealedKey], role: str, *, has_other: bool) -> SealedKey | None:
    """Return the version to start with: the one in use, else the newest that waits, if there is no other key."""
    own = [row for row in rows if row.role == role]
    waiting = own[-1] if own and not has_other else None
    return next((row for row in own if row.state == "active"), waiting)


class CredentialWatch:
    """Gives a venue's session the newest stored key, and asks the venue for the rights of the one in use.

    `candidate` makes an unopened session that signs with the keys of given settings.
    """

    def __init__(
        self, carrier: KeyCarrier, carried: CarriedKeys, venue: KeyedVenue, candidate: Callable[[Settings], KeyedVenue]
    ) -> None:
        self._carrier, self._venue, self._candidate = carrier, venue, candidate
        self._store, self._clock, self._log = carrier.store, carrier.clock, carrier.log
        self._is_live = carrier.settings.venue.live
        # for the life of the process: a change of accounts must not give the session another one's key
        self._account_id = carried.account_id
        self._held = carried.held
        self._reported: set[str] = set()
        self._sink: KeyAlert | None = None
        self._tries_s = self._rights_s = float("-inf")

    async def run(self, alert: KeyAlert) -> None:
        """Look each second, until cancelled. An outage of PostgreSQL or the venue leaves the key in use."""
        self._sink = alert
        while True:
            for look in (self._follow, self._ask):
                try:
                    async with asyncio.timeout(_TRY_S):
                        await look()
                except ConfigError as error:
                    self._alert("page", "venue.key_file_lost", str(error))
                except (FksError, TimeoutError) as error:
                    self._log.debug("venue.key_look_failed", venue=self._venue.name, detail=str(error))
            await self._clock.sleep(LOOK_S)

    async def _follow(self) -> None:
        if self._account_id is None:
            self._account_id = await self._carrier.account()
        row = self._newest(await self._carrier.rows(self._account_id))
        if row is None or (self._held is not None and row.id == self._held.id and row.state == "active"):
            return
        if row.state == "active":  # another process, or one before this, has tried it
            self._use(row, self._carrier.opened(row, self._carrier.keys()))
            return
        if self._clock.monotonic() < self._tries_s:
            return
        self._tries_s = self._clock.monotonic() + _RETRY_S
        key = self._carrier.opened(row, self._carrier.keys())
        is_held = self._held is not None and row.id == self._held.id
        refusal, rights = await self._tried(row, key, is_held=is_held)
        refusal = Redactor(key.plain()).text(refusal)
        self._tries_s = float("-inf")
        if refusal:
            await self._store.refuse(row.id, refusal[:500])
            name = f"the new API key of account {row.account_id} ({row.role}, version {row.version})"
            text = f"{name} is not used: {refusal}"
            self._alert("warning", "venue.key_refused", text)
            return
        if not await self._store.take(row.id):
            return  # a newer version took its place: its key may be deleted at the venue already
        if not is_held:
            self._use(row, key)
        self._held = row
        await self._store.note_rights(row.id, rights.may_withdraw, rights.is_address_bound)

    def _newest(self, rows: Sequence[SealedKey]) -> SealedKey | None:
        """Return the version that this process ought to use; one for the order manager is taken once that uses it."""
        own = [row for row in rows if row.role == self._carrier.role]
        usable = own or [row for row in rows if row.state == "active" and self._carrier.follows_orders]
        return usable[-1] if usable else None

    async def _tried(self, row: SealedKey, key: VenueKey, *, is_held: bool) -> tuple[str, KeyRights]:
        """Return why a key is not to be used, "" if it is, and its rights. Errors: OutageError when the venue does not
        answer."""
        orders, guardian = (key, None) if row.role == "orders" else (None, key)
        settings = with_stored_keys(self._carrier.settings, orders, guardian)
        venue = self._venue if is_held else self._candidate(settings)
        try:
            rights = await rights_of(venue, is_live=self._is_live)
            identity = await venue.identity()
        except KeyRefusedError as error:
            return str(error), KeyRights()
        finally:
            if not is_held:
                await venue.close()
        if row.uid is not None and (row.environment, row.uid) != (identity.environment.value, identity.uid):
            return f"it belongs to {identity}, and the account is {row.uid} on {row.environment}", rights
        return rights_refusal(rights, is_live=self._is_live), rights

    def _use(self, row: SealedKey, key: VenueKey) -> None:
        self._venue.use_key(*key.plain())
        self._held, self._rights_s = row, float("-inf")
        self._reported.clear()
        name = self._venue.name
        self._log.info("venue.key_replaced", venue=name, version=row.version, fingerprint=key.fingerprint)

    async def _ask(self) -> None:
        """Ask for the rights of the key in use: a right may be given to a key at any time."""
        if self._clock.monotonic() < self._rights_s:
            return
        self._rights_s = self._clock.monotonic() + _RETRY_S
        if self._held is not None:
            self._carrier.opened(self._held, self._carrier.keys())
        rights = await rights_of(self._venue, is_live=self._is_live)
        self._rights_s = self._clock.monotonic() + RIGHTS_S
        if self._held is not None:
            await self._store.note_rights(self._held.id, rights.may_withdraw, rights.is_address_bound)
        if fault := self._venue.key_fault:
            text = f"{self._venue.name} ({self._carrier.role}): {fault}: entries are denied, exits and protection go on"
            self._alert("page", "venue.key_may_withdraw", text)
        if rights.is_address_bound is False and self._is_live:
            text = f"{self._venue.name} ({self._carrier.role}): the API key may be used from any address"
            self._alert("warning", "venue.key_unbound", text)

    def _alert(self, level: str, event: str, text: str) -> None:
        if self._sink is not None and text not in self._reported:
            self._reported.add(text)
            self._sink(level, event, text)


async def renew_encryption_key(db: Database, file: Path) -> tuple[str, int]:
    """Encrypt every stored key with a new encryption key; return its id and the number of keys. All of them or none.

    The file holds both until the rows are committed, so that a crash loses nothing; until then no other process
    replaces the key or adds a row. Errors: ConfigError, OutageError.
    """
    async with db.transaction() as around:
        await CredentialStore(around).lock()
        keys = add_key(file)
        async with db.transaction() as tx:
            store = CredentialStore(tx)
            rows = await store.sealed()
            for row in rows:
                await store.reseal(row.id, keys.id, keys.seal(row.binding, row.unsealed(keys)))
        drop_old_keys(file)
    return keys.id, len(rows)


async def rights_of(venue: KeyedVenue, *, is_live: bool) -> KeyRights:
    """Return the rights of a session's key; None for each that a test network does not state.

    Errors: KeyRefusedError; OutageError with real money.
    """
    try:
        return await venue.read_rights()
    except KeyRefusedError:
        raise
    except OutageError:
        if is_live:
            raise
        return KeyRights()


def rights_refusal(rights: KeyRights, *, is_live: bool) -> str:
    """Return why a key with these rights is not to be stored or taken, "" if it is."""
    if rights.may_withdraw:
        return "it may withdraw: make a key without the withdrawal right"
    if is_live and rights.may_withdraw is None:
        return "the venue does not say whether it may withdraw"
    return ""
