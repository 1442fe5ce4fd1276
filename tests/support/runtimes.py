"""The services of a process, for tests that build its library object."""

from __future__ import annotations

from fks.clock import Clock, RealClock
from fks.config.settings import Settings, Sim
from fks.model.ports import Lease, Log, Meter
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.runtime import Runtime
from tests.support.ports import CollectingLog, RecordingMeter

#: settings of a system whose exchange plays a tape
TAPE = Settings(sim=Sim(tape="sample"))


def runtime(
    db: Database,
    bus: Bus,
    lease: Lease,
    *,
    settings: Settings | None = None,
    clock: Clock | None = None,
    log: Log | None = None,
    meter: Meter | None = None,
) -> Runtime:
    """Return the services around `lease`, with the real clock, default settings and collecting log and meter."""
    return Runtime(
        settings or Settings(), clock or RealClock(), db, bus, log or CollectingLog(), meter or RecordingMeter(), lease
    )
