"""This machine's Ray as one service: every port and address explicit, behind a token, never stopped by `ray stop`.

A process of ours (`ray_host`) is the parent of GCS, raylet and the dashboard, and all that they start stays in its
session: that is how we find and end all of them and no other program. A node alone and the head of a cluster run a
GCS; a worker runs a raylet that joins the head's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import psutil

from fks.config import builds
from fks.config.environment import passed_on
from fks.config.paths import FULL_MB, Paths, free_mb
from fks.config.python import module
from fks.config.secrets import write_private
from fks.config.settings import Settings
from fks.model.errors import ConfigError, OutageError
from fks.system.node import probe
from fks.system.node.ports import LOOPBACK, ray_ports, wait_free
from fks.system.node.spec import ServiceSpec
from fks.system.process import procfs, ray_names
from fks.system.process.handle import Launch, ProcessHandle, find_by_command, kill, session_members
from fks.system.servers.directories import own_directory

SERVICE = "ray"
HEAD_FILE = "head"  # of a worker: where its head has its Ray
RESEARCH_BESIDES = 4  # backtests, syncs and the coordinator of a search, besides its workers
_PROXY = ray_names.PROXY.encode()
#: Read by Ray's processes once, at the start of the head; measured (docs/run-a-cluster.md, Ray's settings).
_ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a killed proxy is an outage of 4.6 s, with Ray's defaults 29 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "5",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "fks.interfaces.api.serve_proxy.middlewares",
    "RAY_ROTATION_MAX_BYTES": "20000000",
    "RAY_ROTATION_BACKUP_COUNT": "2",
    "RAY_DEDUP_LOGS": "0",
    # Ray's own metrics would be served on every address without a token. Dashboard and autoscaler have no switch: they
    # cannot open a port of this number, write that to their logs and go on.
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
    "RAY_task_events_report_interval_ms": "0",  # the GCS keeps a record of every call: 2.7 MB a minute of heartbeats
    "RAY_preload_python_modules": "actors.system",  # a killed child is back in 0.8 s instead of 1.6 s
    "RAY_memory_monitor_refresh_ms": "0",  # it kills the Serve controller first; the operator's limits decide here
    "RAY_worker_niceness": "0",  # Ray's 15 lets any program of the machine go before the order manager and the guardian
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # else a process that asked for no GPU sees all of them
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
#: Set by Ray or its user for other clusters, or by `ray up` for the second autoscaler.
_NOT_TAKEN = frozenset(
    {
        *("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_gcs_storage", "RAY_gcs_storage_path"),
        *("RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME"),
    }
)
#: A node alone is watched by its keeper, which sees its processes end; a lost machine shows by silence only:
#: 1 s x 3 finds it in 3 s (Ray's own defaults: 15 s). Tighter would declare a busy machine dead, and that is for good.
_HEALTH_ALONE = {
    "RAY_health_check_failure_threshold": "10",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",  # a full disk may keep the GCS from being started for so long
}
_HEALTH_CLUSTER = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",  # a worker waits so long for a head that is started again
    # the first autoscaler: the second one installs nothing on a worker that runs, so `ray up` could not upgrade it
    "RAY_enable_autoscaler_v2": "0",
}


def ray_env(paths: Paths, settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of everything that is or talks to our Ray: the head, its workers, `actors.commands`."""
    kept = {
        name: value
        for name, value in passed_on(os.environ if base is None else base, settings.node.environment).items()
        if name not in _NOT_TAKEN
    }
    ray = settings.ray
    if ray.storage == "rocksdb" and has_gcs(settings):
        kept |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(paths.gcs_dir)}
    return (
        kept
        | _ENV
        | (_HEALTH_ALONE if settings.node.role == "single" else _HEALTH_CLUSTER)
        | {
            # "0" keeps 127.0.0.1 from becoming the host's own address; nodes of a cluster need "1" to be let in at all
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if settings.node.address == LOOPBACK else "1",
            "RAY_AUTH_TOKEN_PATH": str(paths.ray_token_file),
            "FKS_HOME": str(paths.home),
            # of the proxy on this machine, where it is a worker: the deployment names the head's port
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(settings.http.port),
            # Serve's HTTP server would put X-Forwarded-For of local callers in the place of their address; the gateway
            # itself decides which proxies it believes (http.trusted_proxies)
            "FORWARDED_ALLOW_IPS": "",
        }
    )


def has_gcs(settings: Settings) -> bool:
    """Return whether this machine runs the cluster's GCS."""
    return settings.ray.address is None and settings.node.role not in ("worker", "database")


def head_address(paths: Paths, settings: Settings) -> str:
    """Return where a worker's head has its Ray, HOST:PORT: as the row of the head said last, else `ray.address`; ""
    when neither is known."""
    if settings.node.role == "worker":
        with contextlib.suppress(OSError):
            return (paths.run / HEAD_FILE).read_text().strip()
    return settings.ray.address or ""


def save_head_address(paths: Paths, address: str) -> None:
    """Note where the head has its Ray; the next start of the raylet goes there. Errors: OSError."""
    file = paths.run / HEAD_FILE
    with contextlib.suppress(OSError):
        if file.read_text().strip() == address:
            return
    write_private(file, f"{address}\n")


def resources_of(settings: Settings) -> dict[str, float]:
    """Return what this machine offers to placement: its role, and what `node.resources` says.

    Errors: ConfigError when an entry is not NAME=NUMBER.
    """
    role = "worker" if settings.node.role == "worker" else "head"
    offered = {role: 1000.0, "research": float(settings.research.places + RESEARCH_BESIDES)}
    for entry in settings.node.resources:
        name, _, amount = entry.partition("=")
        try:
            offered[name.strip()] = float(amount)
        except ValueError:
            raise ConfigError(f"node.resources: {entry!r} is not NAME=NUMBER", remedy="write e.g. ninja=1") from None
    return offered


def ray_command(paths: Paths, settings: Settings) -> list[str]:
    """Return the command line of `ray start` (no secret in it)."""
    ray, node = settings.ray, settings.node
    cluster = _head_options(settings) if has_gcs(settings) else [f"--address={head_address(paths, settings)}"]
    return [
        *_ray_program(),
        "start",
        *cluster,
        f"--node-ip-address={node.address}",
        f"--node-manager-port={ray.node_manager_port}",
        f"--object-manager-port={ray.object_manager_port}",
        f"--dashboard-agent-listen-port={ray.agent_listen_port}",
        f"--dashboard-agent-grpc-port={ray.agent_grpc_port}",
        f"--runtime-env-agent-port={ray.runtime_env_agent_port}",
        f"--min-worker-port={ray.worker_port_min}",
        f"--max-worker-port={ray.worker_port_max}",
        f"--object-store-memory={ray.object_store_mb * 1024 * 1024}",
        f"--num-cpus={ray.num_cpus}",
        f"--resources={json.dumps(resources_of(settings), sort_keys=True)}",
        "--include-log-monitor=false",  # it copies the workers' output to drivers; we log to files ourselves (45 MB)
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
        f"--temp-dir={paths.ray_temp}",
    ]


def _head_options(settings: Settings) -> list[str]:
    ray = settings.ray
    return [
        "--head",
        f"--port={ray.gcs_port}",
        f"--ray-client-server-port={ray.client_port}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={ray.dashboard_port}",
        # the autoscaler has something to do under `ray up` only (50 MB)
        f"--autoscaling-config={ray.autoscaling_config}" if ray.autoscaling_config else "--no-monitor",
    ]


def _ray_program() -> list[str]:
    """Return how to run Ray's command: the script beside this Python, else its module. Where builds are beside each
    other, the module by the machine's link: Ray starts its workers with the Python that started it."""
    if builds.current() is not None:
        return [str(builds.program("python")), *module("ray.scripts.scripts")[1:]]
    script = Path(sys.executable).with_name("ray")
    return [str(script)] if script.exists() else module("ray.scripts.scripts")


def ray_service(paths: Paths, settings: Settings) -> ServiceSpec:
    """Return the service that is this machine's Ray: the head's, or a worker's raylet."""
    temp = f"--temp-dir={paths.ray_temp}"
    is_head = has_gcs(settings)
    is_stored = is_head and settings.ray.storage != "none"
    needed = ray_ports(settings)
    parts = ("gcs", "raylet") if is_head else ("raylet",)

    def launch() -> Launch:
        kill(ray_processes(paths))  # of a head whose first process died at a bad moment
        _forget_sessions(paths.ray_temp)
        if not is_head:
            check_head(head_address(paths, settings))
        elif settings.node.role == "single":
            forget_storage(paths)  # alone, nothing outlives the raylet: the tables list only dead actors
        elif is_stored:
            _keep_storage(paths)
        wait_free(needed)
        own_directory(paths.ray_temp.parent, mode=0o700)
        paths.ray_temp.mkdir(mode=0o700, exist_ok=True)
        command = ray_command(paths, settings)
        if sys.platform == "linux":
            flags = ["--stored"] if is_stored else []
            command = module("fks.system.node.ray_host", *flags, "--", *command)
        else:
            command.append("--block")
        return Launch(command, ray_env(paths, settings), err=paths.logs / "ray.log")

    async def is_ready(process: ProcessHandle) -> bool:
        if sys.platform == "linux" and set(_parts(process)) != set(parts):
            return False  # `ray start` is still under way, or a dead part is being started again
        gcs = not is_head or await probe.listens(settings.node.address, settings.ray.gcs_port)
        return gcs and await probe.listens(settings.node.address, settings.ray.node_manager_port)

    def find() -> int | None:
        return next((pid for pid in find_by_command(temp) if os.getsid(pid) == pid), None)

    return ServiceSpec(
        name=SERVICE,
        launch=launch,
        is_ready=is_ready,
        find=find,
        log=paths.logs / "ray.log",
        ports=needed,
        stop=((signal.SIGTERM, 2.5),),
        wave=1,
        start_s=90.0,
        hang_s=45.0,
        is_group=True,
        part_names=parts,
        parts=_parts,
        restarts_own_parts=sys.platform == "linux",
        is_delayed=lambda: is_stored and free_mb(paths.gcs_dir) < FULL_MB,
    )


def check_head(address: str) -> None:
    """Connect to the head once: `ray start` itself would try for half a minute. Errors: OutageError."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except (OSError, ValueError) as error:
        raise OutageError(
            f"Ray's head at {address or 'no address'} does not answer: {error}",
            remedy="start it, or correct ray.address",
        ) from error


def forget_storage(paths: Paths) -> None:
    """Remove the GCS's tables: after an orderly end the actors in them are gone and must not be started again."""
    shutil.rmtree(paths.gcs_dir, ignore_errors=True)


def _keep_storage(paths: Paths) -> None:
    """Prepare the directory of the GCS's tables; those of another Ray version cannot be read and are removed."""
    mark = paths.gcs_dir / "ray-version"
    if mark.exists() and mark.read_text() != version("ray"):
        forget_storage(paths)
    own_directory(paths.gcs_dir, mode=0o700)
    mark.write_text(version("ray"))


def ray_processes(paths: Paths) -> list[int]:
    """Return the processes of this home's Ray, in whichever session they are."""
    return find_by_command(f"{paths.ray_temp}/", programs=("ray", "gcs_server", "python"))


def serve_proxy(session: int) -> int | None:
    """Return the pid of Serve's HTTP proxy among the processes of a Ray of ours; None while there is none."""
    for pid in session_members(session):
        if any(argument.startswith(_PROXY) for argument in procfs.arguments(pid)[:1]):
            return pid
    return None


def _parts(process: ProcessHandle) -> dict[str, int]:
    """Return the pids of GCS and raylet, children of our host process."""
    found = {}
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.name() in ray_names.PROGRAMS:
                    found[ray_names.PROGRAMS[child.name()]] = child.pid
    return found


def _forget_sessions(temp: Path) -> None:
    """Remove the files of all sessions but the last: Ray never deletes any, and the last may show why it died."""
    sessions = sorted((path for path in temp.glob("session_2*") if path.is_dir()), key=lambda path: path.name)
    for path in sessions[:-1]:
        shutil.rmtree(path, ignore_errors=True)
