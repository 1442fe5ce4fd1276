"""This machine's claim to be the head of its database: made before anything starts, renewed each second, given back at
the end.

A machine is identified by its id file and its boot, never by its host name (`fks.config.machine`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from fks.config.machine import host_name, machine_of
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError
from fks.model.ports import Log
from fks.store.db import Database
from fks.store.heads import Head, HeadStore

LOOK_S = 1.0
SLACK_S = 2.0  # beyond the row's life, until a row that is still renewed is certainly another machine's


class SupersededError(FksError):
    """Another machine is the head of this database now: this one stops and reclaims nothing."""


class AnotherHeadError(ConfigError):
    """Another machine is the head of this database, and lives."""


class BeginAgainError(FksError):
    """This keeper is done, and the same command has to begin again: a standby whose head is gone takes over, a
    superseded head becomes a standby. A process that is new has the cluster's keys, and nothing of the old tree."""


class OtherBuildError(BeginAgainError):
    """The head has another build, and it is installed beside this one: this machine's keeper goes on as that one, and
    takes over what runs."""

    def __init__(self, build: Path, version: str) -> None:
        super().__init__(f"the head runs {version}, which is installed here, too")
        self.build = build


class HeadClaim:
    """The claim of one machine. Hard state: the row `heads`. Soft state: whether it is ours."""

    def __init__(self, paths: Paths, settings: Settings, log: Log) -> None:
        self.is_claimed = False
        self._paths, self._settings, self._log = paths, settings, log
        self._ttl_s = settings.supervision.head_ttl_s
        self._is_alone = settings.database.url is None  # the server is ours, and ends with us
        self._machine = machine_of(paths)

    async def claim(self, db: Database) -> None:
        """Become the head, or return with nothing claimed while the database has no table for it.

        The row of an earlier boot of this machine is waited out; if it is renewed meanwhile, a running copy owns it.

        Errors: AnotherHeadError; OutageError.
        """
        store, waited_s = HeadStore(db, self._ttl_s), 0.0
        while not self.is_claimed:
            found = await store.claim(
                self._machine,
                host=host_name(),
                home=str(self._paths.home),
                address=self._settings.node.address,
                is_alone=self._is_alone,
            )
            if found is not None:
                self.is_claimed = found > 0
                return
            head = await store.holder()
            if head is None:
                continue
            if head.machine != self._machine.id or waited_s > self._ttl_s + SLACK_S:
                raise self._refused(head)
            if not waited_s:
                self._log.info(
                    "head.waits", reason="an earlier boot of this machine holds the place", wait_s=round(head.wait_s, 1)
                )
            await asyncio.sleep(LOOK_S)
            waited_s += LOOK_S

    async def hold(self, db: Database) -> None:
        """Renew the claim. Errors: SupersededError when it is another machine's; OutageError."""
        store = HeadStore(db, self._ttl_s)
        if await store.renew(self._machine):
            return
        head = await store.holder()
        if self._is_alone or head is None or (head.machine, head.boot) == (self._machine.id, self._machine.boot):
            # the row was lost with a restored database, or another process took it while we were stopped: it is ours
            self._log.warning("head.reclaimed", reason=head.text if head is not None else "there was no head")
            self.is_claimed = False
            await self.claim(db)
            return
        text = f"this head was superseded by {head.text}: it stops, and its positions are the other one's"
        self._log.error("head.superseded", reason=text)
        raise SupersededError(
            text, remedy="to make this machine the head again, stop the other one, then 'fks up' here"
        )

    async def release(self, db: Database) -> None:
        """Give the claim back. Errors: OutageError."""
        await HeadStore(db, self._ttl_s).release(self._machine)
        self.is_claimed = False

    async def head(self, db: Database) -> Head | None:
        """Return the head, None when there never was one. Errors: OutageError."""
        return await HeadStore(db, self._ttl_s).holder()

    def _refused(self, head: Head) -> AnotherHeadError:
        copy = ""
        if head.machine == self._machine.id:
            copy = (
                "; it has this machine's id under another boot: one of the two FKS_HOMEs is a copy, delete its "
                "machine.id"
            )
        return AnotherHeadError(
            f"another head runs on this database: {head.text}, last renewed {max(head.age_s, 0.0):.1f} s ago{copy}",
            remedy="stop it there with 'fks down'; if that machine is gone, try again in "
            f"{max(head.wait_s, 0.0) + 1.0:.0f} s; "
            "to wait as its standby, start with --standby; or give this one a database of its own (database.url)",
        )
