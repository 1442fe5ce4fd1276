"""Memory and idle CPU of the default tree against a bare one, from one run.

Bare: `ray start` with Ray's own defaults (FKS leaves out two of its processes), Serve with as many replicas of a hello
application, and as many empty actors as FKS has. Ours: `fks up`, warm, trading on the local exchange. PSS over all
processes of each; CPU over a minute of each. Before the bare tree is measured, the actors that answer in it and its
replicas are compared with ours. The limit (docs/performance.md): PSS <= bare + 0.9 GiB; idle CPU <= bare + 10 points of
a core. Exits 1 when the trees differ or a limit is missed.

    python benchmarks/footprint.py [--seconds 60] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._results import run, same
from tests.support.system import System

WELL = ("ready", "running", "degraded")
PSS_MAX_GIB, CPU_MAX_CORES = 0.9, 0.1
GIB = 2**30
BARE = """
import json, sys, time
import ray
from ray import serve
from fastapi import FastAPI
ray.init(address=sys.argv[1], namespace="bare", log_to_driver=False, logging_level="ERROR")
app = FastAPI()
@serve.deployment(num_replicas=int(sys.argv[4]), ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Hello:
    @app.get("/")
    async def hello(self):
        return "hello"
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
serve.run(Hello.bind(), name="bare", route_prefix="/")
@ray.remote(num_cpus=0)
class Empty:
    async def ping(self):
        return 1
actors = [Empty.options(name=f"e{i}", lifetime="detached").remote() for i in range(int(sys.argv[3]))]
answers = sum(ray.get([a.ping.remote() for a in actors]))
replicas = serve.status().applications["bare"].deployments["Hello"].replica_states
print("ready", json.dumps([answers, sum(replicas.values())]), flush=True)
"""


def family(roots: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes and all their descendants that still live."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        try:
            for process in [root, *root.children(recursive=True)]:
                found[process.pid] = process
        except psutil.Error:
            continue
    return list(found.values())


def measure(find: object, seconds: float) -> tuple[float, float, int]:
    """Return (PSS in GiB, CPU in cores, processes), CPU over `seconds`."""
    processes = find()  # type: ignore[operator]
    before = {p.pid: sum(p.cpu_times()[:2]) for p in processes if p.is_running()}
    start = time.monotonic()
    time.sleep(seconds)
    pss = cpu = 0.0
    count = 0
    for process in find():  # type: ignore[operator]
        try:
            pss += process.memory_full_info().pss
            cpu += sum(process.cpu_times()[:2]) - before.get(process.pid, 0.0)
            count += 1
        except psutil.Error:
            continue
    return pss / GIB, cpu / (time.monotonic() - start), count


def bare(actors: int, replicas: int, seconds: float) -> tuple[float, float, int]:
    """Measure the bare tree."""
    with tempfile.TemporaryDirectory(prefix="fb-") as temp:
        env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        ray = str(Path(sys.executable).parent / "ray")
        head = subprocess.Popen(
            [
                ray,
                "start",
                "--head",
                "--block",
                "--port=26379",
                f"--temp-dir={temp}",
                "--num-cpus=4",
                "--object-store-memory=83886080",
                "--dashboard-port=28265",
                "--dashboard-agent-listen-port=25365",
                "--ray-client-server-port=25001",
                "--disable-usage-stats",
            ],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(8)
            done = subprocess.run(
                [sys.executable, "-c", BARE, "127.0.0.1:26379", "28000", str(actors), str(replicas)],
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )
            if "ready" not in done.stdout:
                raise RuntimeError(f"the bare tree did not start: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.partition("ready")[2])
            same("actors that answer and replicas of the bare tree, against ours", found, [actors, replicas])
            return measure(lambda: family([psutil.Process(head.pid)]), seconds)
        finally:
            for process in family([psutil.Process(head.pid)]):
                process.kill()


def ours(seconds: float) -> tuple[float, float, int, int, int, dict[str, float]]:
    """Measure our tree; also return how many actors and replicas it has and the PSS of each part in MiB."""
    with tempfile.TemporaryDirectory(prefix="fo-") as temp:
        Path(temp).chmod(0o755)
        system = System.at(Path(temp) / "home", FKS_SUPERVISION_HEARTBEAT_S="1", FKS_WEB_ENABLED="true")
        try:
            system.up()
            system.wait_for_fills(2)
            rows = system.components().values()
            actors = sum(row["kind"] == "actor" for row in rows)
            replicas = sum(
                row["kind"] == "serve" and row["name"].startswith(("gateway", "pages", "web")) for row in rows
            )
            same("components that are not well", [r["name"] for r in rows if r["state"] not in WELL], [])

            def processes() -> list[psutil.Process]:
                return family(system.processes())

            parts: dict[str, float] = {}
            names = {row["pid"]: name for name, row in system.components().items()}
            for process in processes():
                name = names.get(process.pid) or process.name()
                parts[name] = round(parts.get(name, 0.0) + process.memory_full_info().pss / 2**20, 1)
            return (*measure(processes, seconds), actors, replicas, parts)
        finally:
            system.down()


def main() -> bool:
    """Print both trees; return whether a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pss, cpu, count, actors, replicas, parts = ours(options.seconds)
    bare_pss, bare_cpu, bare_count = bare(actors, replicas, options.seconds)
    is_missed = pss - bare_pss > PSS_MAX_GIB or cpu - bare_cpu > CPU_MAX_CORES
    if options.json:
        print(json.dumps({"ours": [pss, cpu, count], "bare": [bare_pss, bare_cpu, bare_count], "parts": parts}))
        return is_missed
    print(f"{'':14}{'PSS GiB':>10}{'CPU cores':>11}{'processes':>11}")
    print(f"{'bare':14}{bare_pss:10.2f}{bare_cpu:11.2f}{bare_count:11d}")
    print(f"{'fks':14}{pss:10.2f}{cpu:11.2f}{count:11d}")
    print(
        f"{'difference':14}{pss - bare_pss:10.2f}{cpu - bare_cpu:11.2f}   limit {PSS_MAX_GIB:.2f} GiB, {CPU_MAX_CORES:.2f} cores"
    )
    print(f"{'ratio':14}{pss / bare_pss:10.2f}{cpu / max(bare_cpu, 1e-9):11.2f}")
    for name, mib in sorted(parts.items(), key=lambda item: -item[1])[:24]:
        print(f"  {name:28}{mib:8.1f} MiB")
    return is_missed


if __name__ == "__main__":
    run(main)
