"""Services that the parts of the guardian share, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

from fks.clock import Clock, ClockSteps
from fks.model.ports import Log, Meter
from fks.store.bus import Bus
from fks.store.db import Database
from fks.trading.guardian.timing import Timing


@dataclass(frozen=True)
class GuardianContext:
    """The surroundings of one guardian. It works without `db` and `bus`: a kill needs the venues and its file alone."""

    clock: Clock
    log: Log
    meter: Meter
    timing: Timing
    db: Database | None = None
    bus: Bus | None = None
    steps: ClockSteps = field(init=False)  # of the clock since this was made, not since the first order asked about

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", ClockSteps(self.clock))
