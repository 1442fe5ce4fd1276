"""A cluster of one worker against one of two, on this machine: strategies served, and combinations of a search.

    python benchmarks/cluster.py [--instances 40] [--seconds 30] [--rounds 1]

For each number of workers a whole cluster is started: a head and so many raylets, each with a home and a loopback
address of its own. Strategies: instances on one-second bars; served are those that have decided a bar of the last three
seconds, looked at ten times. Search: a grid of SMA pairs over the demo's bars, combinations a second from submission to
the end. Prints both and their ratio, two workers to one. On one machine the workers share its cores, so the limit is
that two are not slower than one: 0.9, a tenth for noise. The combinations that each cluster has evaluated are compared
before a figure is printed. Exits 1 when they differ, or below the limit. Only a calm machine gives figures that
compare."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from tests.support.cluster import Cluster, running_cluster

LIMIT = 0.9
READY_S, SEARCH_S = 240.0, 600.0
LOOKS = 10
COMBINATIONS = 20 * 50
PLACEMENT = "guardian=head,orders=head,collector:*=head"  # the local exchange is on the head's loopback
SERVED = """
SELECT count(*) FILTER (WHERE cursor_time > clock_timestamp() - interval '4 s') AS served,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM clock_timestamp() - cursor_time)) AS age_s
  FROM strategy_instances WHERE id LIKE 'bench-%'
"""


#: copies of the demo's instance on five-second bars, each in a shard of its own, that are never due to trade
ADD = """
INSERT INTO strategy_instances SELECT made.* FROM strategy_instances t, generate_series(1, {count}) AS n,
       jsonb_populate_record(t, jsonb_build_object('id', 'bench-' || n, 'timeframe', '1s', 'shard', n,
           'cursor_time', NULL, 'anchor_time', NULL, 'approval', 'all')) AS made
 WHERE t.id = (SELECT min(id) FROM strategy_instances)
"""


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one cluster. `age_s`: p99 of the age of the newest bar that an instance has decided."""

    served: float
    age_s: float
    combinations_per_s: float
    nodes: tuple[str, ...]


def wait(condition: Callable[[], Any], what: str, deadline_s: float) -> Any:
    """Return the first true value. Errors: TimeoutError."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.5)
    return found


def measure(workers: int, instances: int, seconds: float) -> Found:
    """Start a cluster of so many workers and measure it."""
    with running_cluster(workers, FKS_SIM_ENABLED="true", FKS_SUPERVISION_PLACEMENT=PLACEMENT) as cluster:
        names = {f"w{number}" for number in range(1, workers + 1)}
        wait(lambda: pool(cluster) == names, "the strategy workers on their machines", READY_S)
        wait(lambda: cluster.head.status()["state"] == "healthy", "a healthy cluster", READY_S)
        served, age_s = strategies(cluster, instances, seconds)
        return Found(served, age_s, search(cluster), tuple(sorted(names)))


def pool(cluster: Cluster) -> set[str]:
    """Return the nodes of the strategy workers."""
    rows = cluster.head.components()
    return {row["node"] for name, row in rows.items() if name.startswith("strategy:") and row["state"] == "ready"}


def strategies(cluster: Cluster, count: int, seconds: float) -> tuple[float, float]:
    """Return how many instances on one-second bars are served, and the p99 age of their newest decided bar."""
    cluster.head.sql(ADD.format(count=count))
    wait(lambda: cluster.head.sql(SERVED)[0][0] > 0, "an instance that decides", READY_S)
    time.sleep(5.0)
    looks = []
    for _ in range(LOOKS):
        time.sleep(seconds / LOOKS)
        looks.append(cluster.head.sql(SERVED)[0])
    return statistics.median(float(row[0]) for row in looks), statistics.median(float(row[1]) for row in looks)


def search(cluster: Cluster) -> float:
    """Return combinations a second of a grid search over the cluster."""
    given = ["sma_cross", "--symbol", "BTCUSDT", "-p", "fast=5:24", "-p", "slow=30:79", "--validation", "none"]
    start = time.monotonic()
    made = json.loads(cluster.head.fks("optimize", "submit", *given, "--method", "grid", "--again", "--json").stdout)
    job = str(made["id"])

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = cluster.head.json("optimize", "status", job)
        return found if found["state"] in ("done", "failed", "cancelled") else None

    found = wait(ended, "the search", SEARCH_S)
    if found["state"] != "done":
        raise RuntimeError(f"the search {found['state']}: {found}")
    took_s = time.monotonic() - start
    done = cluster.head.sql(f"SELECT params FROM trials WHERE search_id = '{job}' AND state = 'done'")
    pairs = sorted((row["fast"], row["slow"]) for row in (json.loads(text) for (text,) in done))
    same("the combinations evaluated", pairs, [(fast, slow) for fast in range(5, 25) for slow in range(30, 80)])
    return COMBINATIONS / took_s


def main() -> int:
    """Print the figures; return 1 when two workers are slower than one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    rounds = {
        workers: [measure(workers, given.instances, given.seconds) for _ in range(given.rounds)] for workers in (1, 2)
    }
    found = {
        workers: (
            statistics.median(one.served for one in all_),
            statistics.median(one.age_s for one in all_),
            statistics.median(one.combinations_per_s for one in all_),
        )
        for workers, all_ in rounds.items()
    }
    print(f"{'':34}{'1 worker':>10}{'2 workers':>11}{'ratio':>8}{'limit':>7}")
    is_missed = False
    for name, place, limit in (
        (f"strategies served, of {given.instances}", 0, LIMIT),
        ("p99 age of their bar, s", 1, 0.0),
        ("combinations a second", 2, LIMIT),
    ):
        one, two = found[1][place], found[2][place]
        ratio = two / one if one else float("nan")
        print(f"{name:34}{one:10.1f}{two:11.1f}{ratio:8.2f}{f'{limit:7.2f}' if limit else f'{chr(45):>7}'}")
        is_missed |= bool(limit) and not ratio >= limit
    print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(is_missed)


if __name__ == "__main__":
    run(main)
