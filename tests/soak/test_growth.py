"""Half an hour of trading: nothing grows, and the auditor finds nothing wrong. `make soak` (FKS_SOAK_MINUTES to
shorten)."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from tests.support.audit import assert_not_doubled, audit, baseline_of
from tests.support.system import System
from tests.support.waiting import wait_until

MINUTES = float(os.environ.get("FKS_SOAK_MINUTES", "30"))
WARM_UP_S = 120.0
SLOPE_MAX_MB_MIN = 1.0  # per process (C14)


def sizes(system: System) -> dict[str, float]:
    """Return the PSS in MB of every component with a pid."""
    found = {}
    for name, row in system.components().items():
        try:
            found[name] = psutil.Process(row["pid"]).memory_full_info().pss / 2**20
        except (psutil.Error, TypeError):
            continue
    return found


def slope_mb_min(points: list[tuple[float, float]]) -> float:
    """Return the least-squares slope of (seconds, MB) in MB a minute."""
    count = len(points)
    mean_t = sum(t for t, _ in points) / count
    mean_v = sum(v for _, v in points) / count
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return 60 * sum((t - mean_t) * (v - mean_v) for t, v in points) / spread


@pytest.mark.soak
def test_nothing_grows_while_it_trades() -> None:
    with tempfile.TemporaryDirectory(prefix="fks-soak-") as place:
        Path(place).chmod(0o755)
        system = System.at(Path(place) / "home")
        try:
            system.up()
            baseline = baseline_of(system)
            series: dict[str, list[tuple[float, float]]] = defaultdict(list)
            start = time.monotonic()
            while (now := time.monotonic() - start) < MINUTES * 60:
                if now > WARM_UP_S:
                    for name, size in sizes(system).items():
                        series[name].append((now, size))
                time.sleep(10)  # the pace of the samples, not a wait for something
            wait_until(lambda: not audit(system, baseline).position_errors, deadline_s=60.0, every_s=1.0)
            found = audit(system, baseline)
            for name, points in sorted(series.items()):
                print(f"{name:24}{points[0][1]:8.1f} -> {points[-1][1]:8.1f} MB {slope_mb_min(points):+7.3f} MB/min")
            print(found)
            assert_not_doubled(found)
            assert found.undecided == 0
            growing = {
                name: slope_mb_min(points) for name, points in series.items() if slope_mb_min(points) > SLOPE_MAX_MB_MIN
            }
            assert not growing
        finally:
            system.down()
