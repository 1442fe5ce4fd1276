"""Builds the keeper of one FKS_HOME from its settings: everything is chosen and checked, nothing is started."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from fks.clock import RealClock
from fks.config import builds
from fks.config.endpoints import NodeEndpoints, resolve_ports
from fks.config.load import environ_of, given_passwords, load
from fks.config.machine_http import listens_at
from fks.config.paths import Paths
from fks.config.secrets import Secrets, ensure_secrets, load_secrets, secret_values
from fks.config.settings import Settings
from fks.config.urls import certificate_fault
from fks.model.errors import ConfigError, FksError
from fks.model.margin import paper_margin
from fks.system.node import ports, preflight
from fks.system.node.child_records import ChildRecords, has_living
from fks.system.node.cluster_driver import ClusterDriver, KeeperContext, KeeperStart
from fks.system.node.database_node import DatabaseDriver
from fks.system.node.head import BeginAgainError, OtherBuildError
from fks.system.node.head_driver import HeadDriver
from fks.system.node.keeper import Keeper, ReportProgress
from fks.system.node.lock import PARENT_LOCK, holder_of
from fks.system.node.presence import NodePresence
from fks.system.node.ray_node import check_head, has_gcs, head_address, resources_of
from fks.system.node.services import services
from fks.system.node.sim_node import SimFiles, check_market, tape_symbol
from fks.system.node.spec import ServiceSpec, ServiceTiming
from fks.system.node.worker_driver import WorkerDriver
from fks.system.process.log import Redactor, open_log
from fks.system.servers.embedded import PostgresServer, RedisServer

BLOCKS_TRIED = 16
_DRIVERS: dict[str, type[ClusterDriver]] = {"worker": WorkerDriver, "database": DatabaseDriver}
CHECK_S = 60.0  # for the check of the settings by the build that is to come


@dataclass(frozen=True, slots=True)
class NodeSite:
    """A node that could run: paths, checked settings with every port chosen, secrets."""

    paths: Paths
    settings: Settings
    secrets: Secrets
    redactor: Redactor

    def specs(self) -> tuple[ServiceSpec, ...]:
        """Return the services this node runs."""
        return services(self.paths, self.settings, self.secrets)

    def node(self) -> NodeEndpoints:
        """Return the endpoints as they are now; `sim` is None until the local exchange has written its own."""
        settings = self.settings
        url, redis = settings.database.url, settings.redis.url
        return NodeEndpoints(
            database_url=url.get_secret_value() if url else PostgresServer(self.paths, self.secrets).url(),
            redis_url=redis.get_secret_value() if redis else RedisServer(self.paths, self.secrets).url(),
            ray_address=head_address(self.paths, settings) or f"{settings.node.address}:{settings.ray.gcs_port}",
            http=listens_at(settings),
            dashboard_url=f"http://{ports.LOOPBACK}:{settings.ray.dashboard_port}" if has_gcs(settings) else "",
            sim=self._sim() if settings.sim.enabled and settings.node.role != "worker" else None,
            pids=self._pids(),
            environ=environ_of(os.environ),
        )

    def _sim(self) -> dict[str, object] | None:
        found = SimFiles.of(self.paths).endpoints()
        return {**found, "pid": self._pids().get("sim"), "port": self.settings.sim.port} if found else None

    def _pids(self) -> dict[str, int]:
        parent = holder_of(self.paths.run / PARENT_LOCK)
        own = {"keeper": os.getpid()} | ({"keeper-parent": parent} if parent else {})
        return own | ChildRecords(self.paths.run / "keeper.json").pids()


def check_host(home: str | Path) -> Paths:
    """Return the paths of a home that can hold a system. Errors: ConfigError for a fault of the machine."""
    preflight.check_interpreter()
    paths = Paths.of(home)
    if has_living(paths):  # a keeper takes over what runs, also on a full disk
        preflight.check_sockets(paths)
    else:
        preflight.check_place(paths)
    return paths.ensure()


def open_site(paths: Paths) -> NodeSite:
    """Return the node at `paths`, its secrets made if need be. Call under `keeper_lock`.

    Errors: ConfigError naming what is wrong with the settings, the secrets, the market or a port.
    """
    settings = _choose_ports(_read_settings(paths), paths)
    ports.check_distinct(ports.ray_ports(settings) | ports.sim_ports(settings))
    _check_node(settings)
    if settings.sim.enabled and settings.node.role != "worker":
        check_market(SimFiles.of(paths), settings)
    ensure_secrets(paths, given=given_passwords(paths))
    secrets = load_secrets(paths)
    return NodeSite(paths, settings, secrets, Redactor(secret_values(settings, secrets)))


def make_keeper(
    site: NodeSite,
    *,
    on_progress: ReportProgress | None = None,
    start: KeeperStart | None = None,
) -> Keeper:
    """Return the keeper of a node."""
    log = open_log("keeper", site.paths, site.settings.log, secret_values(site.settings, site.secrets))
    clock = RealClock()
    presence = NodePresence(site.paths, site.settings, site.secrets, site.node().redis_url, clock)
    key = site.secrets.session_key
    context = KeeperContext(site.paths, site.node, clock, log, site.redactor, start or KeeperStart(), key)
    driver = _DRIVERS.get(site.settings.node.role, HeadDriver)(context, site.settings, presence)
    timing = ServiceTiming(site.settings.supervision)
    return Keeper(context, site.specs(), driver, timing=timing, on_progress=on_progress)


def begin_again(paths: Paths, error: BeginAgainError) -> NoReturn:
    """Replace this process by a new one of the same command, pid and parent; of the head's build where `error` asks for
    it, unless that refuses the settings: then of this one."""
    python = builds.own_python()
    if isinstance(error, OtherBuildError):
        try:
            _check_with(error.build, paths)
            builds.switch(error.build)
            python = str(error.build / "bin" / "python")
        except (FksError, OSError, subprocess.SubprocessError) as fault:  # gone, a full disk, no answer in time
            sys.stderr.write(f"this machine stays with its build: {fault}\n")
    os.execv(python, [python, *sys.orig_argv[1:]])  # noqa: S606  our own command


def _check_with(build: Path, paths: Paths) -> None:
    """Have another build check the settings. Errors: ConfigError; OSError, SubprocessError where it cannot."""
    command = [str(build / "bin" / "fks"), "--home", str(paths.home), "config", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S)
    if done.returncode:
        raise ConfigError(f"{build} refuses the settings: {done.stderr.strip()}", remedy="correct them")


def check_settings(paths: Paths) -> None:
    """Refuse settings with which no keeper of this build would start. Errors: ConfigError."""
    _check_node(_read_settings(paths))


def _check_node(settings: Settings) -> None:
    """Refuse a place in a cluster that cannot work, and a margin that no order manager takes. Errors: ConfigError."""
    node = settings.node
    paper_margin(settings.paper.margin, can_short=settings.paper.can_short)
    try:
        is_any = ipaddress.ip_address(node.address).is_unspecified
    except ValueError:
        is_any = True
    if is_any:
        raise ConfigError(
            f"node.address = {node.address!r} is no address the other machines could use",
            remedy="give this machine's address in the private network",
        )
    resources_of(settings)
    url = settings.database.url
    if node.role == "database" and (url is not None or settings.redis.url is not None):
        raise ConfigError(
            "this machine is to serve the database, and is given one by database.url or redis.url",
            remedy="unset both here: the other machines have them",
        )
    if url is not None and (fault := certificate_fault(url.get_secret_value(), os.environ)) is not None:
        raise ConfigError(f"database.url: {fault[0]}", remedy=fault[1])
    if node.role != "worker":
        if settings.ray.address is not None:
            check_head(settings.ray.address)
        missing = [name for name, given in (("database.url", url), ("redis.url", settings.redis.url)) if given is None]
        if node.standby and missing:
            raise ConfigError(
                f"a standby needs {', '.join(missing)}",
                remedy="it takes over what the head's database has: name a PostgreSQL and a Redis on other machines",
            )
        return
    missing = [
        name
        for name, value in (
            ("database.url", settings.database.url),
            ("redis.url", settings.redis.url),
        )
        if value is None
    ]
    if missing:
        raise ConfigError(
            f"a worker needs {', '.join(missing)}",
            remedy="a worker has no database of its own, and finds its head there: "
            + ", ".join(f"set {ports.env_name(name)}" for name in missing),
        )


def _read_settings(paths: Paths) -> Settings:
    """Return the settings; with a tape, the tape's symbol is collected unless others are set."""
    loaded = load(paths.home)
    sim = loaded.settings.sim
    if not (sim.enabled and sim.tape) or ("data", "symbols") in loaded.sources:
        return loaded.settings
    os.environ["FKS_DATA_SYMBOLS"] = tape_symbol(sim.tape)  # our children read the same
    return load(paths.home).settings


def _choose_ports(settings: Settings, paths: Paths) -> Settings:
    """Return settings without a port of 0: the ports the living part of this node has, else the first block that is
    free. A port that was set is not changed: if it is taken, the start is refused when the port is needed."""
    marker = paths.run / "ports"
    if has_living(paths):
        with contextlib.suppress(OSError, ValueError):
            return resolve_ports(settings, paths, attempt=int(marker.read_text()))
    named = {port for _, port in (ports.ray_ports(settings) | ports.sim_ports(settings)).values()}
    for attempt in range(BLOCKS_TRIED):
        chosen = resolve_ports(settings, paths, attempt=attempt)
        derived = [
            pair for pair in (ports.ray_ports(chosen) | ports.sim_ports(chosen)).values() if pair[1] not in named
        ]
        if _are_free(derived):
            marker.write_text(f"{attempt}\n")
            return chosen
    raise ConfigError(
        f"no {BLOCKS_TRIED} blocks of ports between 21000 and 31999 hold a free one",
        remedy="name the ports in fks.toml",
    )


def _are_free(pairs: Iterable[tuple[str, int]]) -> bool:
    return all(ports.is_free(host, port) for host, port in pairs)
