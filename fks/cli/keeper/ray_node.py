"""Ray's head as one service: every port and address explicit, on loopback, behind a token, never stopped by `ray stop`.

`ray start --block` is the parent of GCS, raylet and the dashboard, and all that they start stays in its session: that
is how we find and end the whole family, and nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from fks.cli.keeper import probe
from fks.cli.keeper.ports import LOOPBACK, ray_ports, wait_free
from fks.cli.keeper.process import Launch, Process, holding, kill
from fks.cli.keeper.spec import ServiceSpec
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.store.children import own_directory

PARTS = ("gcs", "raylet")
_PROGRAMS = {"gcs_server": "gcs", "raylet": "raylet"}
#: Read by Ray's processes once, at the start of the head (ray.md §8, §11). Measured facts, not taste.
_ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the switch that keeps "127.0.0.1" from becoming the host's address
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a killed proxy is an outage of 4.6 s, with Ray's defaults 29 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "5",
    "RAY_ROTATION_MAX_BYTES": "20000000",
    "RAY_ROTATION_BACKUP_COUNT": "2",
    "RAY_DEDUP_LOGS": "0",
    "RAY_task_events_report_interval_ms": "0",  # the GCS keeps a record of every call: 2.7 MB a minute of heartbeats
    "RAY_memory_monitor_refresh_ms": "0",  # it kills the Serve controller first; the operator's limits decide here
    "RAY_health_check_failure_threshold": "10",  # one node, and the keeper watches its processes itself
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


def ray_env(paths: Paths, settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of everything that is or talks to our Ray: the head, its workers, `actors.commands`."""
    kept = {
        name: value
        for name, value in (os.environ if base is None else base).items()
        if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
    }
    return kept | _ENV | {
        "RAY_AUTH_TOKEN_PATH": str(paths.ray_token_file),
        "DASHBOARD_METRIC_PORT": str(settings.ray.dashboard_metrics_port),
        "AUTOSCALER_METRIC_PORT": str(settings.ray.autoscaler_metrics_port),
        "FKS_HOME": str(paths.home),
    }  # fmt: skip


def ray_command(paths: Paths, settings: Settings) -> list[str]:
    """Return the command line of the head (no secret in it)."""
    ray = settings.ray
    return [
        *_ray_program(), "start", "--head", "--block",
        f"--node-ip-address={LOOPBACK}", f"--port={ray.gcs_port}",
        f"--node-manager-port={ray.node_manager_port}", f"--object-manager-port={ray.object_manager_port}",
        f"--ray-client-server-port={ray.client_port}",
        "--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ray.dashboard_port}",
        f"--dashboard-agent-listen-port={ray.agent_listen_port}", f"--dashboard-agent-grpc-port={ray.agent_grpc_port}",
        f"--runtime-env-agent-port={ray.runtime_env_agent_port}", f"--metrics-export-port={ray.metrics_port}",
        f"--min-worker-port={ray.worker_port_min}", f"--max-worker-port={ray.worker_port_max}",
        f"--object-store-memory={ray.object_store_mb * 1024 * 1024}", f"--num-cpus={ray.num_cpus}",
        "--no-monitor",  # the autoscaler: one node has nothing to scale (50 MB)
        "--include-log-monitor=false",  # it copies the workers' words to drivers; we log to files ourselves (45 MB)
        "--disable-usage-stats", "--log-style=record", "--log-color=false", f"--temp-dir={paths.ray_temp}",
    ]  # fmt: skip


def _ray_program() -> list[str]:
    """Return how to run Ray's command: the script beside this Python, else its module."""
    script = Path(sys.executable).with_name("ray")
    return [str(script)] if script.exists() else [sys.executable, "-m", "ray.scripts.scripts"]


def ray_service(paths: Paths, settings: Settings) -> ServiceSpec:
    """Return the service that is Ray's head."""
    temp = f"--temp-dir={paths.ray_temp}"

    def launch() -> Launch:
        kill(ray_processes(paths))  # of a head whose first process died at a bad moment
        _forget_sessions(paths.ray_temp)
        wait_free(ray_ports(settings))
        own_directory(paths.ray_temp.parent, mode=0o700)
        paths.ray_temp.mkdir(mode=0o700, exist_ok=True)
        return Launch(ray_command(paths, settings), ray_env(paths, settings), err=paths.logs / "ray.log")

    async def is_ready(process: Process) -> bool:
        return await probe.listens(LOOPBACK, settings.ray.gcs_port) and await probe.listens(
            LOOPBACK, settings.ray.node_manager_port
        )

    def find() -> int | None:
        return next((pid for pid in holding(temp) if os.getsid(pid) == pid), None)

    return ServiceSpec(
        name="ray", launch=launch, is_ready=is_ready, find=find, log=paths.logs / "ray.log", ports=ray_ports(settings),
        stop=((signal.SIGTERM, 1.0),), wave=1, start_s=45.0, hang_s=45.0, is_group=True, part_names=PARTS, parts=_parts,
    )  # fmt: skip


def ray_processes(paths: Paths) -> list[int]:
    """Return the processes of this home's Ray, in whichever session they are."""
    return holding(f"{paths.ray_temp}/", programs=("ray", "gcs_server", "python"))


def _parts(process: Process) -> dict[str, int]:
    """Return the pids of GCS and raylet, children of `ray start --block`."""
    found = {}
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.name() in _PROGRAMS:
                    found[_PROGRAMS[child.name()]] = child.pid
    return found


def _forget_sessions(temp: Path) -> None:
    """Remove the files of all sessions but the last: Ray never deletes any, and the last may tell why it died."""
    sessions = sorted((path for path in temp.glob("session_2*") if path.is_dir()), key=lambda path: path.name)
    for path in sessions[:-1]:
        shutil.rmtree(path, ignore_errors=True)
