"""What the keeper must know of a service: data, so that the list can be printed and tests can pass small ones."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fks.process.handle import Launch, ProcessHandle
from fks.supervision.spec import Intensity


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service.

    `launch` prepares and says how to start it; called in a thread before every start; ConfigError ends a first start.
    `is_ready` asks the service itself; it may raise OSError, which means no.
    `find` returns the pid of a living one that the book does not know: its keeper died at a bad moment.
    `ports` must be free before the first start: settings key -> (address, port).
    `part_names` are processes inside it that status shows instead of it, `parts` finds their pids once it is ready;
    when one dies the whole service is done for, unless `is_mended_inside`: then it starts the part again, or ends
    itself. `stop`: signals in order, each with the seconds it is given; then SIGKILL. `is_group`: the whole session
    ends with it. `wave`: at the end the services of a higher wave are stopped before those of a lower one. `hang_s`:
    silent for so long it is killed; None leaves it to its own recovery (PostgreSQL under load).
    """

    name: str
    launch: Callable[[], Launch]
    is_ready: Callable[[ProcessHandle], Awaitable[bool]]
    find: Callable[[], int | None]
    log: Path
    ports: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    stop: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 5.0),)
    start_s: float = 30.0
    hang_s: float | None = None
    is_group: bool = False
    wave: int = 0
    part_names: tuple[str, ...] = ()
    parts: Callable[[ProcessHandle], Mapping[str, int]] | None = None
    is_mended_inside: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """When a dead service is started again: at once, then with doubling waits; past `limit` it is called down and
    tried every `backoff_max_s`, for ever: somebody may be repairing what it needs."""

    backoff_first_s: float = 0.2
    backoff_max_s: float = 10.0
    limit: Intensity = field(default_factory=lambda: Intensity(restarts_max=5, period_s=60.0))
    probe_s: float = 2.0
    probe_timeout_s: float = 2.0
    degraded_s: float = 5.0
