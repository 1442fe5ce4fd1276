"""Metrics that every process reports of itself: its build, memory, open files, processor time, and the lag of its
event loop."""

from __future__ import annotations

import resource
import time

import psutil

from fks.clock import Clock
from fks.model.ports import Meter

#: Seconds between two looks at the loop: a shorter lag than the wait for the next look is seen in part.
LOOK_S = 0.5


class SelfMetrics:
    """Samples this process into its meter. Soft state: the longest lag since the last sample."""

    def __init__(self, meter: Meter, clock: Clock, version: str) -> None:
        self._meter, self._clock = meter, clock
        self._process = psutil.Process()
        self._lag_s = self._cpu_s = 0.0
        meter.gauge("fks_build_info", 1.0, version=version)

    def sample(self) -> None:
        """Set the gauges; call it before each snapshot."""
        cpu_s = time.process_time()
        self._meter.count("fks_process_cpu_seconds_total", cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        self._meter.gauge("fks_process_memory_bytes", float(self._process.memory_info().rss))
        files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files_max != resource.RLIM_INFINITY:
            self._meter.gauge("fks_process_files_ratio", self._process.num_fds() / files_max)
        self._meter.gauge("fks_loop_lag_seconds", self._lag_s)
        self._meter.count("fks_snapshots_total")
        self._lag_s = 0.0

    async def sleep(self, seconds: float) -> None:
        """Wait, and measure how late the loop wakes this task up."""
        end_s = self._clock.monotonic() + seconds
        while (before_s := self._clock.monotonic()) < end_s:
            wait_s = min(LOOK_S, end_s - before_s)
            await self._clock.sleep(wait_s)
            self._lag_s = max(self._lag_s, self._clock.monotonic() - before_s - wait_s)
