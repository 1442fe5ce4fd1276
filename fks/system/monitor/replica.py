"""Row of one replica of Ray Serve in `component_health`: replicas of gateway and pages write theirs themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from fks.clock import Clock
from fks.config.machine import process_space
from fks.config.version import build_id
from fks.model.errors import OutageError
from fks.model.ports import Log
from fks.store.db import Database

BEAT_S = 1.0
#: Age of the last beat at which a replica's row is removed by its neighbours.
GONE_S = 20.0
_SWEEP_BEATS = 10


class ReplicaBeat:
    """Writes the row of the replica `name` (`gateway:0`). A loop that hangs writes none, and shows as silent."""

    def __init__(self, db: Database, clock: Clock, name: str, host: str, config_version: int = 0) -> None:
        self._db, self._clock, self._name, self._host, self._version = db, clock, name, host, config_version
        self._beats = 0
        self._written_s: float | None = None

    async def write(self, detail: Mapping[str, object]) -> bool:
        """Write the row and forget neighbours that are gone; return whether it was committed. Never raises for an
        outage."""
        self._beats += 1
        with contextlib.suppress(OutageError):
            await self._db.execute(
                "monitor.beat",
                self._name,
                "serve",
                "ready",
                os.getpid(),
                self._host,
                0,
                {**detail, "space": process_space()},
                build_id(),
                self._version,
                retry=False,
            )
            self._written_s = self._clock.monotonic()
            if self._beats % _SWEEP_BEATS == 0:
                kin = f"{self._name.partition(':')[0]}:%"
                await self._db.execute("monitor.forget_silent", "serve", self._name, kin, GONE_S, retry=False)
            return True
        return False

    @property
    def written_age_s(self) -> float:
        """Return the age of the last row that was committed, seconds; infinite before the first."""
        return float("inf") if self._written_s is None else self._clock.monotonic() - self._written_s

    async def run(self, log: Log) -> None:
        """Write once a second until cancelled, then close the connections. No error ends it."""
        try:
            while True:
                try:
                    await self.write({})
                except Exception as error:  # a standby that takes no write, a password that was rotated
                    log.error("serve.row_failed", error=f"{type(error).__name__}: {error}")
                await self._clock.sleep(BEAT_S)
        finally:
            await self._db.close()
