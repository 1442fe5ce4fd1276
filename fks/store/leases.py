"""Leases: who may act in a role, as an epoch that only grows and a deadline that is renewed.

A successor's epoch is raised first; the predecessor's writes then fail on it. `holds` compares monotonic times taken
before the renewal was sent, so a slow or dead database can only make it say no too early, never too late.
"""

from __future__ import annotations

import contextlib

from fks.clock import Clock
from fks.model.errors import OutageError, StaleEpochError
from fks.store.db import Database


async def raise_epoch(db: Database, name: str, holder: str) -> int:
    """Return the new epoch of `name`, one above every earlier one; earlier holders can no longer write."""
    epoch = await db.fetchval("leases.raise_epoch", name, holder, retry=False)
    assert isinstance(epoch, int)
    return epoch


class HeldLease:
    """One process's hold on a role. `keep` renews for ever; `holds` is cheap and asked before every send."""

    def __init__(
        self, db: Database, clock: Clock, *, name: str, epoch: int, holder: str, ttl_s: float, renew_s: float
    ) -> None:
        self.name = name
        self.epoch = epoch
        self._db = db
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._deadline = float("-inf")

    def holds(self) -> bool:
        """Return whether the lease certainly still holds."""
        return self._clock.monotonic() < self._deadline

    async def renew(self) -> None:
        """Renew once. Errors: StaleEpochError when a newer epoch owns the role; OutageError is the database's."""
        asked = self._clock.monotonic()
        row = await self._db.fetchval("leases.renew", self.name, self.epoch, self._holder, self._ttl_s, retry=False)
        if row is None:
            self._deadline = float("-inf")
            raise StaleEpochError(f"lease {self.name} epoch {self.epoch}: a newer epoch owns it", remedy="stop at once")
        self._deadline = asked + self._ttl_s

    async def keep(self) -> None:
        """Renew every `renew_s` until cancelled. A lost database lets the lease run out; a newer epoch raises."""
        while True:
            with contextlib.suppress(OutageError):  # holds() turns false by itself: sending pauses until a renewal succeeds
                await self.renew()
            await self._clock.sleep(self._renew_s)
