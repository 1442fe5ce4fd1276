"""Metrics of each component by the minute: CPU, memory, requests, errors and latency, from counters and processes.

`minute_of` is pure; the rest reads the snapshots in Redis and the processes of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict, dataclass

from fks.clock import Clock
from fks.config.machine import can_reach
from fks.model.timeframe import to_datetime
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.process.metrics import SNAPSHOT_PREFIX, Snapshot, parse_snapshot
from fks.system.runtime import SNAPSHOTS

_MINUTE_NS = 60 * 10**9
Usage = tuple[float, float]  # CPU seconds so far, resident memory in MB


@dataclass(frozen=True, slots=True)
class Minute:
    """One component over one interval. None: not known (no requests are served, or the process is elsewhere)."""

    service: str
    cpu_percent: float | None
    memory_mb: float | None
    requests: int | None
    errors: int | None
    latency_ms: float | None


def minute_of(
    service: str,
    before: Snapshot,
    now: Snapshot,
    usage_before: Usage | None,
    usage: Usage | None,
    elapsed_s: float,
) -> Minute:
    """Return a component's minute from two metric snapshots and two usages, `elapsed_s` apart.

    A counter that fell belongs to a new process and counts from zero. CPU is in percent of one core.
    """
    requests = errors = 0
    took_s = count = 0.0
    has_requests = False
    for key, value in now.items():
        name = key.partition("{")[0]
        grown = value - before.get(key, 0.0) if value >= before.get(key, 0.0) else value
        if name == "fks_http_requests_total":
            has_requests = True
            requests += round(grown)
            errors += round(grown) if 'status="5' in key else 0
        elif name == "fks_http_request_seconds_sum":
            took_s += grown
        elif name == "fks_http_request_seconds_count":
            count += grown
    cpu = None
    if usage is not None and usage_before is not None and usage[0] >= usage_before[0] and elapsed_s > 0:
        cpu = round(100 * (usage[0] - usage_before[0]) / elapsed_s, 2)
    return Minute(
        service,
        cpu,
        None if usage is None else round(usage[1], 1),
        requests if has_requests else None,
        errors if has_requests else None,
        round(1000 * took_s / count, 3) if count else None,
    )


def process_usage(pid: int) -> Usage | None:
    """Return the CPU seconds and the resident memory of a process of this machine; None when there is none."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss / 1e6
    return None


class MinuteStore:
    """Writes one row a component and minute. Soft state: the counters of the minute before."""

    def __init__(self, db: Database, bus: Bus, clock: Clock) -> None:
        self._db, self._bus, self._clock = db, bus, clock
        self._before: dict[str, tuple[Snapshot, Usage | None]] = {}
        self._at_s = clock.monotonic()

    async def write(self) -> int:
        """Write what each component did since the call before, and return how many rows that are.

        The first sight of a component writes its memory alone. Processes of other machines have no CPU and memory here.
        Errors: OutageError.
        """
        components = [dict(row) for row in await self._db.fetch("monitor.components")]
        kept = {name: parse_snapshot(text) for name, text in (await self._bus.fields(SNAPSHOTS)).items()}
        for row in components:
            if row["kind"] == "serve" and (text := await self._bus.get(SNAPSHOT_PREFIX + row["name"])) is not None:
                kept[row["name"]] = parse_snapshot(text)
        now_s = self._clock.monotonic()
        pids = {row["name"]: row["pid"] for row in components if row["pid"] and can_reach(row["detail"].get("space"))}
        usages = await asyncio.to_thread(lambda: {name: process_usage(pid) for name, pid in pids.items()})
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        at = to_datetime(self._clock.now_ns() // _MINUTE_NS * _MINUTE_NS)
        rows, seen = [], dict[str, tuple[Snapshot, Usage | None]]()
        for row in components:
            name = row["name"]
            now, usage = kept.get(name, {}), usages.get(name)
            before, usage_before = self._before.get(name, (now, None))
            seen[name] = (now, usage)
            rows.append({"at": at, **asdict(minute_of(name, before, now, usage_before, usage, elapsed_s))})
        self._before = seen
        if rows:
            await self._db.execute("registry.save_metrics", rows)
        return len(rows)
