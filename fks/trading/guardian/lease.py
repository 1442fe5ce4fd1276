"""The guardian's lease: which of several guardians acts while PostgreSQL answers, and which one acts without it.

After a node loss two guardians may live: one cut off from everything but the venue, and its successor. While PostgreSQL
answers within `answer_s`, only the holder of the lease row `guardian` acts. Without an answer only the guardian on the
node that the placement names acts; any other one pages. A guardian takes the lease as soon as PostgreSQL answers and no
other holder renews it; on its own machine it takes over at once, because the lock of the kill file proves that its
predecessor is gone. The renewal is also the guardian's heartbeat: entries are denied (GUARDIAN_DOWN) when it is old.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from pathlib import Path

from fks.config.machine import boot_id, machine_of
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.model.errors import FksError
from fks.model.timeframe import NS
from fks.store.db import Database
from fks.trading.guardian.context import GuardianContext

NAME = "guardian"
HELD, ELSEWHERE, UNANSWERED, EXPIRED = "held", "elsewhere", "unanswered", "expired"
_REASONS = {
    ELSEWHERE: "another guardian holds the lease: it acts, this one looks on",
    UNANSWERED: "PostgreSQL does not answer, and supervision.placement names another node for the guardian",
    EXPIRED: "the lease has run out and PostgreSQL was not asked yet",
}
_MARGIN_S = 0.5  # another holder's lease is left alone for so much longer than it lives


class GuardianLease:
    """One guardian's right to act. `keep` renews it for ever; `may_act` is cheap and asked before every send."""

    def __init__(self, context: GuardianContext, *, holder: str, is_placed: bool) -> None:
        timing = context.timing
        self._db, self._clock, self._log = context.db, context.clock, context.log
        self._holder = holder
        self._is_placed = is_placed
        self._ttl_s, self._renew_s, self._answer_s = timing.lease_ttl_s, timing.lease_renew_s, timing.answer_s
        self._deadline, self._deadline_ns = float("-inf"), 0
        self.epoch = 0
        self._answer = UNANSWERED if context.db is None else EXPIRED
        # another holder's last renewal, and since when we saw it
        self._watched: tuple[datetime | None, float] = (None, 0.0)
        self._noted = ""

    @property
    def state(self) -> str:
        """Return `held`, `elsewhere` (another guardian holds it), `unanswered` (PostgreSQL is away, or there is none)
        or `expired` (this process stood still; PostgreSQL is asked first)."""
        if self._answer != HELD:
            return self._answer
        is_held = self._clock.monotonic() < self._deadline and self._clock.now_ns() < self._deadline_ns
        return HELD if is_held else EXPIRED

    @property
    def may_act(self) -> bool:
        """Return whether this guardian may cancel and close now."""
        return not self.why_not

    @property
    def why_not(self) -> str:
        """Return the reason why it may not act, "" when it may."""
        state = self.state
        if state == HELD or (state == UNANSWERED and self._is_placed):
            return ""
        return _REASONS[state]

    async def renew(self) -> None:
        """Take the lease when it is free, or hold on to it. Never raises: PostgreSQL away means `unanswered`."""
        if self._db is None:
            return
        asked, asked_ns = self._clock.monotonic(), self._clock.now_ns()
        try:
            async with asyncio.timeout(self._answer_s):
                epoch = await self._claim(self._db, asked)
        except (FksError, TimeoutError):
            self._answer = UNANSWERED
        except Exception as error:  # a table that lacks a column must not take the kill switch down with it
            self._answer = UNANSWERED
            self._log.error("guardian.lease_failed", error=f"{type(error).__name__}: {error}")
        else:
            self._answer = ELSEWHERE if epoch is None else HELD
            self.epoch = epoch or 0
            self._deadline, self._deadline_ns = asked + self._ttl_s, asked_ns + round(self._ttl_s * NS)
        self._note()

    async def _claim(self, db: Database, now: float) -> int | None:
        """Return our epoch, None while another guardian holds the lease. Another holder's is free once its row stood
        still for a whole TTL and a margin by our own clock: the database's wall clock may step."""
        renewed_at, since = self._watched
        seen = renewed_at if now - since > self._ttl_s + _MARGIN_S else None
        epoch = await db.fetchval("leases.claim", NAME, self._holder, self._ttl_s, seen, retry=False)
        if epoch is not None:
            return int(epoch)
        at = await db.fetchval("leases.renewed_at", NAME, retry=False)
        if at != renewed_at:
            self._watched = at, now
        return None

    async def keep(self) -> None:
        """Renew every `renew_s` until cancelled."""
        while True:
            await self.renew()
            await self._clock.sleep(self._renew_s)

    async def release(self) -> None:
        """Leave the role to a successor at once, as far as PostgreSQL answers."""
        if self._db is None or self.state != "held":
            return
        self._answer = EXPIRED
        with contextlib.suppress(FksError, TimeoutError):
            async with asyncio.timeout(self._answer_s):
                await self._db.execute("leases.give_up", NAME, self._holder)

    def _note(self) -> None:
        """Log a change of the right to act, once."""
        why, state = self.why_not, self.state
        if state == self._noted:
            return
        self._noted = state
        if why:
            self._log.error("guardian.looks_on", state=state, reason=why)
        else:
            self._log.info("guardian.acts", state=state)


def holder_of(kill_file: Path) -> str:
    """Return the name under which the guardian of this file on this machine holds its lease.

    It is the same after a restart of the process; a machine that booted again, or a copy of it, is another holder. A
    disk that takes no machine id must not keep the guardian from its work: the file's path stands in for it.
    """
    file = kill_file.resolve()
    try:
        machine = machine_of(Paths.of(file.parent))
    except OSError:
        return f"{file}:{boot_id()}"
    return f"{machine.id}:{machine.boot}"


def is_placed_here(settings: Settings, name: str = NAME) -> bool:
    """Return whether this machine is the one on which the guardian, or another child, acts without PostgreSQL.

    A machine alone is; in a cluster it is the one that offers what `supervision.placement` asks of the child, the head
    when it asks for nothing.
    """
    node = settings.node
    if node.role == "single":
        return True
    wanted = settings.supervision.placement.get(name, "head")
    offered = {
        "worker" if node.role == "worker" else "head",
        *(entry.partition("=")[0].strip() for entry in node.resources),
    }
    return wanted in offered


def is_machine_alone(settings: Settings) -> bool:
    """Return whether no other machine could run an order manager: none belongs to it, or reaches its PostgreSQL."""
    return settings.node.role == "single" and settings.database.url is None
