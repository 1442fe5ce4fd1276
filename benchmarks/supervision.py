"""Cost of supervising 50 children, against the same 50 children without a supervisor.

    python benchmarks/supervision.py [--children 50] [--seconds 30] [--rounds 3] [--json]

A real system with so many strategy workers that the tree has that many children; its supervisor checks each once a
second, as it does by default: it reads the child's heartbeat in shared memory, and calls it once a minute.
The market is quiet (a tape of minute bars at its own pace), or the children's own work would drown the difference.
Interleaved rounds: with the supervisor, then with it stopped (SIGSTOP; the keeper too, or it would put a new one in its
place). The overhead is the additional CPU of the system: the supervisor itself, Ray's daemons, the rows in PostgreSQL,
each the median of its differences; and the calls in the children, counted at the bare call's cost, since the children's
own work varies more from one half minute to the next than all of it. Beside it the bare call: one health call
from one process to another, CPU of both ends. Limit: 2 % of one core (8 % if every beat were a call). Needs about 130
MB a child. Before the rounds, the children and the pid that the bare call answers are compared with those that the
supervisor reports. Exits 1 when they differ or the limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks._results import run, same
from tests.support.system import PROFILE, System
from tests.support.waiting import wait_until

CALL_S = 60.0  # actors.system.CALL_S: a child with a readable heartbeat is called this seldom
LIMIT = 2.0  # percent of one core, where beats travel in shared memory (8 over Ray calls)
OTHERS = 5  # children that are no strategy workers
BARE = """
import asyncio, json, sys, time
import psutil, ray
ray.init(address=sys.argv[1], namespace="fks", log_to_driver=False, logging_level="ERROR")
handle = ray.get_actor("scheduler", namespace="fks")
callee = psutil.Process(ray.get(handle.health.remote())["pid"])
async def calls(count):
    for _ in range(count):
        await handle.health.remote()
async def main():
    await calls(200)
    mine, theirs = time.process_time(), sum(callee.cpu_times()[:2])
    start = time.monotonic()
    await asyncio.sleep(3)
    idle = (time.process_time() - mine) / 3, (sum(callee.cpu_times()[:2]) - theirs) / 3
    mine, theirs, start = time.process_time(), sum(callee.cpu_times()[:2]), time.monotonic()
    await calls(3000)
    took = time.monotonic() - start
    mine, theirs = time.process_time() - mine - idle[0] * took, sum(callee.cpu_times()[:2]) - theirs - idle[1] * took
    print(json.dumps({"pid": callee.pid, "caller_us": mine / 3000 * 1e6, "callee_us": theirs / 3000 * 1e6, "wall_us": took / 3000 * 1e6}))
asyncio.run(main())
"""


def parts(system: System, names: dict[int, str]) -> dict[int, tuple[str, float]]:
    """Return pid -> (what it belongs to, CPU seconds so far) of every process of the system."""
    found = {}
    for process in system.processes():
        try:
            for each in [process, *process.children(recursive=True)]:
                title = " ".join(each.cmdline()[:1])
                found[each.pid] = (names.get(each.pid) or belongs(title, each.name()), sum(each.cpu_times()[:2]))
        except psutil.Error:
            continue
    return found


def belongs(title: str, name: str) -> str:
    """Return the part that a process without a row of its own is counted to."""
    for title_part, part in (
        ("postgres", "PostgreSQL"),
        ("redis", "Redis"),
        ("gcs_server", "Ray"),
        ("raylet", "Ray"),
        ("ray::Serve", "Serve"),
        ("ray::Proxy", "Serve"),
        ("ray", "Ray"),
    ):
        if title_part in name or title_part in title:
            return part
    return "other"


def burnt(system: System, names: dict[int, str], seconds: float) -> dict[str, float]:
    """Return percent of one core per part, over `seconds`."""
    before, start = parts(system, names), time.monotonic()
    time.sleep(seconds)
    after, took = parts(system, names), time.monotonic() - start
    total: dict[str, float] = defaultdict(float)
    for pid, (part, cpu) in after.items():
        total[part] += (cpu - before.get(pid, (part, 0.0))[1]) / took * 100
    return dict(total)


def names_of(system: System) -> dict[int, str]:
    """Return pid -> part for everything that has a row."""
    rows = system.sql("SELECT name, kind, pid FROM component_health WHERE pid IS NOT NULL")
    named = {pid: ("children" if name != "supervisor" else "supervisor") for name, kind, pid in rows if kind == "actor"}
    return named | {pid: "Serve" for _, kind, pid in rows if kind == "serve"}


def pid_of(system: System, name: str) -> int:
    return int(system.sql(f"SELECT pid FROM component_health WHERE name = '{name}'")[0][0])


def measure(
    system: System, children: int, seconds: float, repeats: int
) -> tuple[dict[str, list[float]], int, dict[str, float]]:
    """Return the difference per part for each round, how many children there were, and the bare call's cost."""
    ready = (
        "SELECT count(*) FROM component_health WHERE kind = 'actor' AND name <> 'supervisor' AND state IN "
        "('ready', 'degraded')"
    )
    wait_until(lambda: system.sql(ready)[0][0] >= children, deadline_s=300.0, every_s=1.0)
    time.sleep(15)
    done = subprocess.run(
        [sys.executable, "-c", BARE, system.node["ray_address"]],
        capture_output=True,
        text=True,
        timeout=120,
        env=system.env
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(system.home / "ray.token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        },  # else 127.0.0.1 becomes the host's address
    )
    bare = json.loads(done.stdout.strip().splitlines()[-1])
    names, keeper, supervisor = names_of(system), pid_of(system, "keeper"), pid_of(system, "supervisor")
    same("the number of children", len([name for name in names.values() if name == "children"]), children)
    same("the pid that the bare call answers", bare.pop("pid"), pid_of(system, "scheduler"))
    differences: dict[str, list[float]] = defaultdict(list)
    os.kill(keeper, signal.SIGSTOP)
    try:
        for _ in range(repeats):
            watched = burnt(system, names, seconds)
            os.kill(supervisor, signal.SIGSTOP)
            try:
                alone = burnt(system, names, seconds)
            finally:
                os.kill(supervisor, signal.SIGCONT)
            time.sleep(5)  # what piled up meanwhile is no part of the next round
            for part in {*watched, *alone}:
                differences[part].append(watched.get(part, 0.0) - alone.get(part, 0.0))
            differences["all"].append(sum(watched.values()) - sum(alone.values()))
    finally:
        os.kill(keeper, signal.SIGCONT)
    same("the children, after they were measured", names_of(system), names)
    return differences, len([name for name in names.values() if name == "children"]), bare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", dest="repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fks-sup-") as place:
        os.chmod(place, 0o755)  # the database's own user must come through
        system = System.at(Path(place) / "home")
        for name in PROFILE:
            system.env.pop(name, None)
        system.env.update(
            FKS_HTTP_PORT="0", FKS_RAY_DASHBOARD_PORT="0", FKS_STRATEGIES_WORKERS=str(options.children - OTHERS)
        )
        try:
            system.fks("up", "--detach", "--tape", "sample", "--speed", "1", timeout_s=400.0, check=False)
            found, count, bare = measure(system, options.children, options.seconds, options.repeats)
        finally:
            system.down()
    worth = (bare["caller_us"] + bare["callee_us"]) * count / 1e6 * 100
    answering = count * bare["callee_us"] / CALL_S / 1e6 * 100
    overhead = answering + sum(
        statistics.median(values) for part, values in found.items() if part not in ("all", "children")
    )
    if options.json:
        print(
            json.dumps(
                {
                    "children": count,
                    "overhead": overhead,
                    "answering": answering,
                    "percent_of_a_core": found,
                    "bare": bare,
                    "bare_percent": worth,
                }
            )
        )
    else:
        print(
            f"{count} children, a beat a second, {options.repeats} x {options.seconds:g} s, percent of one core "
            "(median, range)"
        )
        for part, values in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
            print(f"  {part:<14}{statistics.median(values):7.2f}   {min(values):7.2f} to {max(values):.2f}")
        print(
            f"bare health call: caller {bare['caller_us']:.0f} us, callee {bare['callee_us']:.0f} us CPU, "
            f"{bare['wall_us']:.0f} us wall; {count} a second: {worth:.1f} %"
        )
        print(f"  {'answering':<14}{answering:7.2f}   ({count} calls in {CALL_S:g} s at the bare call's cost)")
        print(f"overhead {overhead:.1f} % (limit {LIMIT:g} %), {overhead / worth:.1f} x the bare calls")
    return 0 if overhead < LIMIT else 1


if __name__ == "__main__":
    run(main)
