"""Specs and timing of services: data, so that the list can be printed and tests can pass small ones."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fks.config.settings import Supervision
from fks.system.process.handle import Launch, ProcessHandle


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service.

    `launch` prepares and returns how to start it; called in a thread before every start; ConfigError ends a first
    start. `is_ready` probes the service itself; it may raise OSError, which means no.
    `find` returns the pid of a running one that is not in the records: its keeper died before it wrote them.
    `ports` must be free before the first start: settings key -> (address, port).
    `part_names` are processes inside it that status shows instead of it, `parts` finds their pids once it is ready.
    When a part dies the whole service is restarted, unless `restarts_own_parts`: then it starts the part again, or ends
    itself. While `is_delayed` it cannot, and is waited for. `stop`: signals in order, each with the seconds it is
    given; then SIGKILL. `is_group`: the whole session ends with it. `wave`: at the end the services of a higher wave
    are stopped before those of a lower one. `hang_s`: killed after this long without an answer; None leaves it to its
    own recovery (PostgreSQL under load).
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
    restarts_own_parts: bool = False
    is_delayed: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class ServiceTiming:
    """The restarts of services, which are those of the settings for every child, and their probes: one every `probe_s`;
    a service that gave no answer for `degraded_s` is shown as degraded."""

    supervision: Supervision = field(default_factory=Supervision)
    probe_s: float = 2.0
    probe_timeout_s: float = 2.0
    degraded_s: float = 5.0
