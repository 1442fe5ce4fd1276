"""Ports of this node: the settings key of each, whether it is free, and which program holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Mapping

import psutil

from fks.config.settings import Settings
from fks.model.errors import ConfigError

LOOPBACK = "127.0.0.1"
PAUSE_S = 0.05
CLIENT_PORT_MIN = 20000  # Ray keeps 10002-19999 for its workers and refuses its client server there
_RAYLET = (
    "node_manager_port",
    "object_manager_port",
    "agent_listen_port",
    "agent_grpc_port",
    "runtime_env_agent_port",
)
_HEAD = ("gcs_port", "client_port", "dashboard_port")


def ray_ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return key -> (address, port) of everything that this machine's Ray and the gateway on it listen on."""
    is_worker = settings.node.role == "worker"
    keys = _RAYLET if is_worker else (*_HEAD, *_RAYLET)
    found = {
        f"ray.{name}": (
            LOOPBACK if name == "dashboard_port" else settings.node.address,
            int(getattr(settings.ray, name)),
        )
        for name in keys
    }
    if is_worker and not settings.http.spread:
        return found
    return {"http.port": (settings.http.host, settings.http.port), **found}


def sim_ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return key -> (address, port) of the local exchange."""
    return {"sim.port": (LOOPBACK, settings.sim.port)}


def check_distinct(ports: Mapping[str, tuple[str, int]]) -> None:
    """Raise ConfigError when two keys name the same port, or Ray's client port is where Ray refuses it."""
    seen: dict[int, str] = {}
    for key, (_, port) in ports.items():
        if port and port in seen:
            raise ConfigError(f"{seen[port]} and {key} are both {port}", remedy=f"give {key} a port of its own")
        seen[port] = key
    client = ports.get("ray.client_port", ("", CLIENT_PORT_MIN))[1]
    if client < CLIENT_PORT_MIN:
        raise ConfigError(
            f"ray.client_port is {client}", remedy=f"use one from {CLIENT_PORT_MIN} on: Ray's workers have those below"
        )


def check_free(ports: Mapping[str, tuple[str, int]]) -> None:
    """Raise ConfigError naming the key, the port and its holder when one of them is taken."""
    for key, (host, port) in ports.items():
        if port and not is_free(host, port):
            raise ConfigError(
                f"{key} {port} is in use by {holder(port)}",
                remedy=f"end that program, or set {key} in fks.toml or {env_name(key)} to a free port",
            )


def wait_free(ports: Mapping[str, tuple[str, int]], *, patience_s: float = 3.0) -> None:
    """Return once all are free: the kernel takes a moment to close what a killed process held. Errors: ConfigError."""
    pause = threading.Event()
    for _ in range(int(patience_s / PAUSE_S)):
        if all(not port or is_free(host, port) for host, port in ports.values()):
            return
        pause.wait(PAUSE_S)
    check_free(ports)


def env_name(key: str) -> str:
    """Return the environment variable of a settings key."""
    return "FKS_" + key.upper().replace(".", "_")


def is_free(host: str, port: int) -> bool:
    """Return whether a program could listen on host:port now. An address that is not ours counts as free here: the
    program that binds it reports it better."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)  # two may bind with SO_REUSEADDR, one may listen
        except OSError as error:
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def holder(port: int) -> str:
    """Return the program that listens on `port`, as far as we may know it: "redis-server (pid 42)"."""
    if port < 1024 and os.geteuid() != 0:
        return "the system: ports below 1024 need root"
    with contextlib.suppress(psutil.Error, OSError):
        for link in psutil.net_connections(kind="tcp"):
            if link.laddr and link.laddr.port == port and link.status == psutil.CONN_LISTEN and link.pid:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(link.pid)
                    command = " ".join(process.cmdline()[:3]) or process.name()
                    return f"{command[:60]} (pid {link.pid})"
    return "another program (of another user)"
