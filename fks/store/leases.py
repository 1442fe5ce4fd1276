"""Leases: the right to act in a role, as an epoch that only grows and a deadline that is renewed.

A successor's epoch is raised first; the predecessor's writes then fail on it. `holds` compares times taken before the
renewal was sent, so a slow or dead database can only end it too early, never too late. It uses two clocks, and either
can end it: the one since boot, which counts a suspended machine (CLOCK_BOOTTIME; CLOCK_MONOTONIC stands still
meanwhile), and the wall clock, which a paused virtual machine's host puts right. A wall clock that jumps ahead costs
half a second of sending, one that jumps back changes nothing. A guest that was paused, and has received nothing since,
can still count its lease as held for an instant: its writes fail on the epoch all the same, and the venue refuses a
request that was signed longer ago than its receive window.

`expires_at` is the deadline by the database's clock: for people, and for readers that only deny by it (the price of a
feed whose collector holds no lease is not fresh). No successor waits less because of it. Waiting until then would save
up to TTL + 0.5 s, and would rest on the wall clock of the database, which may step and is another one after a failover;
the wait of a whole TTL rests only on the holder's own clock running on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from fks.clock import Clock
from fks.model.errors import OutageError, StaleEpochError
from fks.model.ports import Lease
from fks.model.timeframe import NS
from fks.store.db import Database


async def raise_epoch(db: Database, name: str, holder: str) -> int:
    """Return the new epoch of `name`, one above every earlier one; earlier holders can no longer write."""
    epoch = await db.fetchval("leases.raise_epoch", name, holder, None, None, retry=False)
    assert isinstance(epoch, int)
    return epoch


class Authority:
    """A supervisor's right to give its children new epochs: only the newest supervisor has it.

    A supervisor that was stopped, replaced and let go on could otherwise end living children by their epochs. One of an
    earlier `deployment` (`fks.store.heads`) never takes the right back, however often it is started; None: there is no
    head. `on_lost` is called once, when a raise finds that another supervisor has taken over.
    """

    def __init__(
        self, db: Database, holder: str, on_lost: Callable[[StaleEpochError], None], deployment: int | None = None
    ) -> None:
        self._db, self._holder, self._on_lost, self._deployment = db, holder, on_lost, deployment
        self._epoch: int | None = None
        self._is_lost = False
        self._taking = asyncio.Lock()

    async def take(self) -> int:
        """Return this supervisor's own epoch, taken at the first call.

        Errors: OutageError; StaleEpochError when another deployment is in charge.
        """
        async with self._taking:
            if self._epoch is None:
                self._epoch = await self._raise("supervisor", None)
            return self._epoch

    @property
    def epoch(self) -> int:
        """Return this supervisor's own epoch, 0 until it is taken."""
        return self._epoch or 0

    async def raise_epoch(self, name: str) -> int:
        """Return the new epoch of a child. Errors: OutageError; StaleEpochError when another supervisor is in
        charge."""
        return await self._raise(name, await self.take())

    def lose(self) -> StaleEpochError:
        """Give the right up to another supervisor; return the error for it."""
        text = f"supervisor epoch {self._epoch}, deployment {self._deployment}: another supervisor has taken over"
        lost = StaleEpochError(text, remedy="stop at once")
        if not self._is_lost:
            self._is_lost = True
            self._on_lost(lost)
        return lost

    async def _raise(self, name: str, own: int | None) -> int:
        epoch = await self._db.fetchval("leases.raise_epoch", name, self._holder, own, self._deployment, retry=False)
        if epoch is None:
            raise self.lose()
        return int(epoch)


def fence_of(lease: Lease | None) -> tuple[str | None, int | None]:
    """Return (name, epoch) for a fenced statement; (None, None) for a write in a person's name."""
    return (None, None) if lease is None else (lease.name, lease.epoch)


class HeldLease:
    """One process's hold on a role. `keep` renews for ever; `holds` is cheap and checked before every send."""

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
        self._deadline, self._deadline_ns = float("-inf"), 0

    def holds(self) -> bool:
        """Return whether the lease certainly still holds, by both clocks."""
        return self._clock.monotonic() < self._deadline and self._clock.now_ns() < self._deadline_ns

    def held_within(self, seconds: float | None) -> bool:
        """Return whether the lease certainly held at most so many seconds ago, by both clocks (None: at any time), and
        no newer epoch is known."""
        if seconds is None or self._deadline == float("-inf"):
            return self._deadline > float("-inf")
        until_ns = self._deadline_ns + round(seconds * NS)
        return self._clock.monotonic() < self._deadline + seconds and self._clock.now_ns() < until_ns

    async def renew(self) -> None:
        """Renew once. Errors: StaleEpochError when a newer epoch owns the role; OutageError is the database's."""
        asked, asked_ns = self._clock.monotonic(), self._clock.now_ns()
        row = await self._db.fetchval("leases.renew", self.name, self.epoch, self._holder, self._ttl_s, retry=False)
        if row is None:
            self._deadline, self._deadline_ns = float("-inf"), 0
            raise StaleEpochError(f"lease {self.name} epoch {self.epoch}: a newer epoch owns it", remedy="stop at once")
        self._deadline, self._deadline_ns = asked + self._ttl_s, asked_ns + round(self._ttl_s * NS)

    async def keep(self) -> None:
        """Renew every `renew_s` until cancelled. A lost database lets the lease run out; a newer epoch raises."""
        while True:
            # holds() turns false by itself: sending pauses until a renewal succeeds
            with contextlib.suppress(OutageError):
                await self.renew()
            await self._clock.sleep(self._renew_s)
