"""`fks node`: this machine as the head or a worker of a cluster; started by systemd and `ray up`, and brought to the
installed build by a second `ray up`."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.config.version import build_id
from fks.interfaces.cli.base import as_json, home_of, options, paths_of, result
from fks.model.errors import FksError, OutageError, conflict, invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fks.config.paths import Paths
    from fks.store.nodes import NodeRow, NodeStore

T = TypeVar("T")
GCS_PORT = 6379  # where workers look for the head, unless ray.gcs_port says otherwise
BY_SYSTEMD_S = 10.0  # until systemd has started a killed keeper again
GOING_BACK = "FKS_GOING_BACK"  # set for the command of the build of before: its failure goes no further back
UPGRADE_LOCK = "upgrade.lock"  # beside the keeper's: one upgrade of a machine at a time
WORKERS_S = 900.0  # Ray's autoscaler installs on the workers, one ssh session each
_pause = threading.Event().wait
_OUTSIDE = ("192.0.2.1", 9)  # reserved for documentation: nothing is sent, the kernel only picks the way there

_name = options(
    click.option("--name", metavar="NAME", help="This machine's name in the cluster (default: host name)."),
    click.option(
        "--resource", "-r", "resources", multiple=True, metavar="NAME=N", help="What this machine offers, e.g. ninja=1."
    ),
)
_begun = options(
    click.option(
        "--env-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Variables of this machine, NAME=VALUE, mode 0600; one that is set already wins.",
    ),
    click.option(
        "--detach",
        "-d",
        is_flag=True,
        help="Run in the background; return once it is ready. A node that runs an earlier build is brought to this "
        "one.",
    ),
    click.option(
        "--at-boot", is_flag=True, help="With --detach: start it at boot too, by this user's systemd, else by cron."
    ),
    as_json,
    click.pass_context,
)


@click.group()
def node() -> None:
    """Run this machine as the head or a worker of a cluster."""


@node.command()
@click.option(
    "--address",
    metavar="IP",
    help="Address at which the workers reach this machine (default: head_ip of `ray up`, else the default route's).",
)
@click.option("--port", type=int, help=f"Port of the cluster (default {GCS_PORT}).")
@_name
@click.option("--autoscaling-config", metavar="FILE", help="What `ray up` left here for Ray's autoscaler.")
@click.option(
    "--standby", is_flag=True, help="Wait while another head lives, and take over once it is gone (node.standby)."
)
@_begun
def head(
    ctx: click.Context,
    address: str | None,
    port: int | None,
    standby: bool,
    autoscaling_config: str | None,
    env_file: Path | None,
    **how: Any,
) -> None:
    """Run the head: PostgreSQL and Redis (unless given by URL), Ray's GCS, a raylet, and the tree.

    Runs until it is stopped; started again after a crash it takes over what lives and starts the rest.
    """
    from fks.config.secrets import adopt_delivered_token

    _take_env(env_file)
    found = _sources(ctx)
    bootstrap = Path(autoscaling_config).expanduser() if autoscaling_config else None
    if (paths := paths_of(ctx)).ray_token_file.exists():  # `ray up` delivers one to all: it must not be replaced
        adopt_delivered_token(paths, paths.ray_token_file)
    given = {
        "FKS_NODE_ROLE": "head",
        "FKS_NODE_ADDRESS": address or (None if ("node", "address") in found else _head_address(bootstrap)),
        "FKS_RAY_GCS_PORT": str(port) if port else (None if ("ray", "gcs_port") in found else str(GCS_PORT)),
        "FKS_RAY_AUTOSCALING_CONFIG": str(bootstrap) if bootstrap else None,
        "FKS_NODE_STANDBY": "true" if standby else None,
    }
    again = _options(port=port, autoscaling_config=bootstrap, env_file=env_file) + ["--standby"] * standby
    _begin(ctx, given, again, **how)


@node.command()
@click.option(
    "--address", metavar="HOST:PORT", help="The head's Ray (default: as the head's row in the database says)."
)
@click.option("--node-ip", metavar="IP", help="Address at which the others reach this machine (default: found out).")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The cluster's token, as the head's FKS_HOME/ray.token; taken over into this machine's secrets.",
)
@_name
@_begun
def worker(
    ctx: click.Context,
    address: str | None,
    node_ip: str | None,
    token_file: Path | None,
    env_file: Path | None,
    **how: Any,
) -> None:
    """Run a worker: a raylet that joins the head, waits for it as long as it takes, and comes back by itself.

    Needs FKS_DATABASE_URL, FKS_REDIS_URL and the head's token.
    """
    from fks.config.secrets import adopt_delivered_token
    from fks.model.errors import ConfigError

    _take_env(env_file)
    found = _sources(ctx)
    head_host = (address or "").rpartition(":")[0].strip("[]")
    if address is not None and not (head_host and address.rpartition(":")[2].isdigit()):
        raise ConfigError(f"--address {address} is not HOST:PORT", remedy=f"e.g. 10.0.0.1:{GCS_PORT}")
    adopt_delivered_token(paths_of(ctx), token_file)
    is_open = ("node", "address") not in found
    given = {
        "FKS_NODE_ROLE": "worker",
        "FKS_RAY_ADDRESS": address,
        "FKS_NODE_ADDRESS": node_ip or (_own_address(head_host or _OUTSIDE[0]) if is_open else None),
    }
    again = _options(address=address, node_ip=node_ip, token_file=token_file, env_file=env_file)
    _begin(ctx, given, again, **how)


@node.command()
@click.option("--address", metavar="IP", help="Address at which the others reach this machine (default: found out).")
@click.option("--postgres-port", type=int, help="PostgreSQL with TLS (default 5432).")
@click.option("--redis-port", type=int, help="Redis with TLS (default 6379).")
@click.option(
    "--certificate-at",
    metavar="FILE",
    help="Where the other machines will keep FKS_HOME/database.pem (default: the same path as here).",
)
@_begun
def database(
    ctx: click.Context,
    address: str | None,
    postgres_port: int | None,
    redis_port: int | None,
    certificate_at: str | None,
    env_file: Path | None,
    **how: Any,
) -> None:
    """Run PostgreSQL and Redis with TLS for the heads and workers of a cluster, on a machine of its own.

    It makes a certificate (FKS_HOME/database.pem), which the others pin, and FKS_HOME/database.env with both URLs,
    passwords in them: add that to the environment file of each machine.
    """
    _take_env(env_file)
    is_open = ("node", "address") not in _sources(ctx)
    given = {
        "FKS_NODE_ROLE": "database",
        "FKS_NODE_ADDRESS": address or (_own_address(_OUTSIDE[0]) if is_open else None),
        "FKS_NODE_POSTGRES_PORT": str(postgres_port) if postgres_port else None,
        "FKS_NODE_REDIS_PORT": str(redis_port) if redis_port else None,
        "FKS_NODE_CERTIFICATE_AT": certificate_at,
    }
    again = _options(
        postgres_port=postgres_port, redis_port=redis_port, certificate_at=certificate_at, env_file=env_file
    )
    _begin(ctx, given, again, name=None, resources=(), **how)


@node.command()
@click.argument("name")
@result("fks.node-forget/1", "machine {name} is forgotten")
def forget(ctx: click.Context, name: str) -> Any:
    """Drop a machine that is gone for good: 'fks node stop' cannot be run there any more."""
    import asyncio

    from fks.interfaces.cli.store import opened_store

    with opened_store(ctx) as (url, _, _):
        is_found = asyncio.run(_in_nodes(url, lambda nodes: nodes.forget(name), retry_s=2.0))
    if not is_found:
        raise invalid("NODE_UNKNOWN", f"no machine {name!r}", "see 'fks cluster check'")
    return {"name": name}


@node.command()
@click.option(
    "--all", "is_all", is_flag=True, help="On the head: end the workers too, and start no machine at boot any more."
)
@as_json
@click.pass_context
def stop(ctx: click.Context, is_all: bool, as_json: bool) -> None:
    """Stop this machine's part of the cluster in order (the same as `fks down`); with --all the whole cluster."""
    from fks.interfaces.cli.up import stop_home
    from fks.system.node.boot import remove

    if is_all:
        remove(paths_of(ctx))
    stop_home(paths_of(ctx), is_all=is_all, is_json=as_json)


@node.command()
@click.option("--gateway", "is_gateway", is_flag=True, help="This machine's gateway has to be ready, too.")
@result("fks.node-ping/1", "the keeper answers: {0[phase]}, process {0[pid]}")
def ping(ctx: click.Context, is_gateway: bool) -> Any:
    """Ask this machine's keeper for an answer, for probes of Kubernetes: exit 0 when it gives one within 5 seconds."""
    import httpx

    from fks.config.endpoints import load_node
    from fks.system.node.control_socket import ask

    paths = paths_of(ctx)
    answer = ask(paths.keeper_socket, "progress")
    if is_gateway:
        node = load_node(paths)
        try:
            httpx.get(
                f"{node.gateway_url}/ready", timeout=4.0, trust_env=False, verify=node.tls_context() or True
            ).raise_for_status()
        except httpx.HTTPError as error:
            raise OutageError(f"the gateway is not ready: {error}", remedy="see 'fks status'") from error
    return {"phase": answer["phase"], "pid": answer["pid"]}


@node.command()
@result("fks.node-prepare/1", "{0[command]}: what 'ray down' runs stops FKS in order here")
def prepare(ctx: click.Context) -> Any:
    """Prepare this account for `ray up`: a command `ray` by which `ray down` stops FKS in order, on all machines.

    In a virtualenv below a folder `builds` it also marks that as complete: 'fks node head' and 'worker' of it may then
    bring this machine to it.
    """
    from fks.config import builds
    from fks.system.node.ray_up import prepare

    account, fks, ray = Path.home(), builds.program("fks"), builds.program("ray")
    file = prepare(account / "fks" / "bin", fks, ray, paths_of(ctx).home, account / ".bashrc")
    builds.seal(build_id())
    return {"command": str(file)}


def _take_env(file: Path | None) -> None:
    from fks.config.env_file import take
    from fks.config.load import ENV_FILE

    if file is not None:
        take(file.expanduser(), os.environ)
        os.environ[ENV_FILE] = str(file.expanduser().absolute())


def _options(**given: object) -> list[str]:
    """Return the options of the command line that start the same node again."""
    found: list[str] = []
    for name, value in given.items():
        if value is not None:
            text = str(value.expanduser().absolute()) if isinstance(value, Path) else str(value)
            found += [f"--{name.replace('_', '-')}", text]
    return found


def _begin(
    ctx: click.Context,
    given: dict[str, str | None],
    again: list[str],
    *,
    name: str | None,
    resources: tuple[str, ...],
    detach: bool,
    at_boot: bool,
    as_json: bool,
) -> None:
    from fks.interfaces.cli.up import run_keeper
    from fks.model.errors import InputError
    from fks.system.node.build import check_host
    from fks.system.node.child_records import has_living
    from fks.system.node.preflight import check_interpreter

    check_interpreter()
    if at_boot and not detach:
        raise InputError("--at-boot goes with --detach", remedy="add --detach")
    found = _sources(ctx)
    given |= {"FKS_NODE_NAME": name, "FKS_NODE_RESOURCES": ",".join(resources) or None}
    if ("sim", "enabled") not in found:
        given["FKS_SIM_ENABLED"] = "false"  # a cluster trades on real venues unless the setting is set
    for key, value in given.items():
        if value is not None:
            os.environ[key] = value
    if ("supervision", "placement") not in found:
        os.environ["FKS_SUPERVISION_PLACEMENT"] = _placement(ctx)
    paths = check_host(paths_of(ctx).home)
    os.environ["FKS_HOME"] = str(paths.home)
    role = str(given["FKS_NODE_ROLE"])
    unit = False
    if at_boot:
        again += [*(["--name", name] if name else []), *(f"--resource={entry}" for entry in resources)]
        if role != "worker":
            again += ["--address", os.environ.get("FKS_NODE_ADDRESS", "")]
        unit = _install_at_boot(paths, role, again, is_json=as_json)
    is_left = has_living(paths)  # an upgrade that was interrupted may have left the parts without a keeper
    before = None if _runs(paths) else _switch_here(paths, role)
    try:
        is_new = run_keeper(
            paths, is_detached=detach, is_quiet=role != "head" or as_json, is_json=as_json, unit=unit, is_silent=detach
        )
    except FksError as error:
        if before is not None and is_left and detach and GOING_BACK not in os.environ:
            _go_back(paths, role, before, again, error, is_json=as_json)
        raise
    if detach and (is_left or not is_new):
        _upgrade(ctx, paths, role, again, is_json=as_json, is_new=is_new)


def _install_at_boot(paths: Paths, role: str, options: list[str], *, is_json: bool) -> bool:
    """Have this node start at boot and print how; return whether systemd starts it now, too."""
    from fks.config import builds
    from fks.system.node.boot import BootEntry, install

    program = str(builds.program("fks"))
    command = (program, "--home", str(paths.home), "node", role, *options)
    kept = {key: os.environ[key] for key in ("TMPDIR", "PATH") if key in os.environ}
    how = install(BootEntry(paths, role, command, kept))
    text = {
        "systemd": "starts at boot: a systemd unit of this user",
        "cron": "starts at boot: a line @reboot in this user's crontab",
    }.get(how, "does NOT start at boot: this account has neither systemd nor cron; see deploy/*.service")
    if not is_json:
        click.echo(f"this node {text}")
    return how == "systemd"


def _head_address(bootstrap: Path | None) -> str:
    from fks.system.node.ray_up import head_address

    return (head_address(bootstrap) if bootstrap else None) or _own_address(_OUTSIDE[0])


def _placement(ctx: click.Context) -> str:
    """Return the default placement of children: those that hold the kill switch and the venues' sessions, or use the
    local exchange, run beside the head's keeper."""
    from fks.config.load import load_settings

    is_local = load_settings(home_of(ctx)).sim.enabled
    return "guardian=head,orders=head" + (",collector:*=head" if is_local else "")


def _sources(ctx: click.Context) -> set[tuple[str, str]]:
    """Return the settings that are set in fks.toml or the environment."""
    from fks.config.load import load

    # `_begin` sets it, too: a system with real money was refused for the local exchange that no cluster has
    return set(load(home_of(ctx), defaults={("sim", "enabled"): False}).sources)


def _own_address(towards: str) -> str:
    """Return the address this machine has towards another. Errors: ConfigError when it is ambiguous."""
    from fks.model.errors import ConfigError

    try:
        with socket.socket(socket.AF_INET6 if ":" in towards else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, _OUTSIDE[1]))
            found = str(probe.getsockname()[0])
    except OSError:
        found = ""
    if not found or ipaddress.ip_address(found).is_loopback:
        found = towards if _is_loopback(towards) else ""  # the head is on this very machine: a test, a trial
    if not found or ipaddress.ip_address(found).is_global:
        raise ConfigError(
            f"this machine's private address cannot be told{f' ({found} is public)' if found else ''}",
            remedy="name it: --address IP for a head, --node-ip IP for a worker",
        )
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ── upgrade ──────────────────────────────────────────────────────────────────────────────────────
def _runs(paths: Paths) -> bool:
    """Return whether this machine has a keeper, or a parent that is about to start one."""
    from fks.system.node.lock import PARENT_LOCK, holder_of

    return any(holder_of(paths.run / name) is not None for name in ("keeper.lock", PARENT_LOCK))


def _switch_here(paths: Paths, role: str) -> Path | None:
    """Have this machine's link lead to this build, where builds are beside each other; return where it led before.

    Checked first where something of FKS runs. Errors: FksError, with nothing changed.
    """
    from fks.config import builds
    from fks.system.node.child_records import has_living

    before, own = builds.current(), builds.own()
    if has_living(paths) and before != own:
        _check_upgrade(paths, role)
    if own is not None and before != own:
        builds.switch(own)
    return before if before != own else None


def _check_upgrade(paths: Paths, role: str) -> None:
    """Refuse a build to which this machine cannot be brought while it trades; not the one that is brought back, which
    ran here until now. Errors: FksError."""
    import platform
    from importlib.metadata import version

    from fks.interfaces.cli.deploy import check_schema
    from fks.store.nodes import living_head
    from fks.system.node.build import check_settings

    if GOING_BACK in os.environ:
        return
    check_settings(paths)
    if role == "database":
        return
    check_schema(paths)
    rows = [row for row in _machines(paths) if row.is_alive]
    for what, ours in (("ray", version("ray")), ("python", platform.python_version())):
        if others := sorted({str(row.detail[what]) for row in rows if row.detail.get(what, ours) != ours}):
            raise invalid(
                "DEPLOY_UNFIT",
                f"{build_id()} has {what} {ours}, and the machines run {', '.join(others)}",
                "such a change is no rolling one: 'ray down', then 'ray up'",
            )
    head = living_head(rows)
    if role == "worker" and head is not None and head.version != build_id():
        raise invalid(
            "DEPLOY_EARLY",
            f"the head {head.name} runs {head.version}, not {build_id()}",
            "none: this machine goes over to the head's build when that has changed",
        )


def _go_back(paths: Paths, role: str, before: Path, again: list[str], error: FksError, *, is_json: bool) -> None:
    """Bring this machine, and from a head the others, to the build that ran before: by its own command, as another
    upgrade. Errors: `error` with what became of it."""
    import subprocess

    from fks.config import builds
    from fks.system.node.control_socket import ask
    from fks.system.node.lock import PARENT_LOCK, holder_of
    from fks.system.process.handle import kill

    if not (before / "bin" / "fks").exists():
        error.remedy = "; ".join(filter(None, [error.remedy, f"the build of before, {before}, is gone"]))
        return
    click.echo(f"the upgrade failed: {error.message}; going back to {before.name}", err=is_json)
    builds.switch(before)
    try:
        ask(paths.keeper_socket, "progress")
    except OutageError:  # its keeper does not start: the one of before is started in its place, and takes over
        kill([pid for name in (PARENT_LOCK, "keeper.lock") if (pid := holder_of(paths.run / name)) is not None])
    command = [str(before / "bin" / "fks"), "--home", str(paths.home), "node", role, "--detach", *again]
    done = subprocess.run(command, env=os.environ | {GOING_BACK: "1"}, stdin=subprocess.DEVNULL)
    went = "it runs again" if done.returncode == 0 else f"its command ended with status {done.returncode}"
    error.remedy = "; ".join(filter(None, [error.remedy, f"the build of before, {before}: {went}"]))


def _upgrade(ctx: click.Context, paths: Paths, role: str, again: list[str], *, is_json: bool, is_new: bool) -> None:
    """Bring a node that runs another build to the installed one; print that it runs when it is the same, unless its
    keeper `is_new`: then only its parts may be of another build.

    The schema, the settings, Ray and Python are checked before anything changes. Then the machine's link leads to this
    build, and the keeper is replaced and takes over what runs. A head then waits until every machine has the build, and
    replaces the parts of the tree and the gateway one by one (`fks deploy`). Where one of these fails, the build of
    before is brought back by the same steps. Errors: FksError; what runs goes on then.
    """
    from fks.config import builds
    from fks.interfaces.cli.up import print_running
    from fks.system.node.control_socket import ask
    from fks.system.node.lock import AlreadyRunning, keeper_lock

    progress = ask(paths.keeper_socket, "progress")
    running, installed = str(progress.get("version", "")), build_id()
    is_head = role == "head" and progress["phase"] != "standby"  # the machines of a standby are its head's to upgrade
    is_going_back = GOING_BACK in os.environ
    is_same = running == installed and not builds.is_left()
    if is_same and not (is_head and (is_going_back or _others(paths, installed))):
        if not is_new:
            print_running(paths, int(progress["pid"]), is_json=is_json)
        return
    with contextlib.ExitStack() as stack:
        if not is_going_back:  # else the command that goes back has it
            try:
                stack.enter_context(keeper_lock(paths.run / UPGRADE_LOCK))
            except AlreadyRunning as error:
                raise conflict(
                    "UPGRADE_RUNS",
                    f"process {error.pid} brings this machine to another build",
                    "wait for its end, then 'ray up' again",
                ) from None
        _check_upgrade(paths, role)
        before = _switch_here(paths, role) or (builds.find(running) if running != installed else None)
        try:
            if not is_same:
                click.echo(f"upgrading the keeper from {running or 'an earlier build'} to {installed}", err=is_json)
                _replace_keeper(paths, int(progress["pid"]), is_json=is_json)
            if is_head:
                _roll_out(ctx, paths, installed, is_json=is_json)
        except FksError as error:
            if before is not None and not is_going_back:
                _go_back(paths, role, before, again, error, is_json=is_json)
            raise


def _roll_out(ctx: click.Context, paths: Paths, build: str, *, is_json: bool) -> None:
    """Bring the other machines and the tree to the head's build. Errors: FksError."""
    from fks.interfaces.cli.deploy import deploy
    from fks.system.node.ray_up import restart_autoscaler

    restart_autoscaler(paths.ray_temp)
    _wait_for_workers(paths, build, is_json=is_json)
    ctx.invoke(deploy, only=None, why="ray up: another build", as_json=is_json)


def _behind(rows: Sequence[NodeRow], build: str) -> list[str]:
    """Return the living machines whose keeper runs another build, with it."""
    return [f"{row.name} ({row.version})" for row in rows if row.is_alive and row.version != build]


def _others(paths: Paths, build: str) -> bool:
    """Return whether a machine of this head, or a part of the tree, runs another build: an upgrade that was
    interrupted."""
    from fks.interfaces.cli.status import find_status

    try:
        if _behind(_machines(paths), build):
            return True
        rows = find_status(paths)["components"]
    except (FksError, OSError):
        return False
    return any(row["kind"] == "actor" and row.get("version") not in (None, "", build) for row in rows)


def _replace_keeper(paths: Paths, pid: int, *, is_json: bool) -> None:
    from fks.interfaces.cli.up import run_keeper
    from fks.system.node import boot
    from fks.system.node.lock import PARENT_LOCK, holder_of
    from fks.system.process.handle import kill

    is_by_systemd = boot.is_running(paths)
    parent = holder_of(paths.run / PARENT_LOCK)
    # it leaves what runs to the next keeper; asked to stop it would stop everything
    kill([parent, pid] if parent else [pid])
    end = time.monotonic() + BY_SYSTEMD_S
    while time.monotonic() < end:
        holder = holder_of(paths.run / "keeper.lock")
        if holder not in (None, pid) or (holder is None and not is_by_systemd):
            break
        _pause(0.1)
    run_keeper(paths, is_detached=True, is_quiet=True, is_json=is_json, is_silent=True)


def _wait_for_workers(paths: Paths, build: str, *, is_json: bool) -> None:
    """Return once no living machine runs another build: a child may start on any of them. Errors: OutageError."""
    end, shown = time.monotonic() + WORKERS_S, ""
    while left := _behind(_machines(paths), build):
        if time.monotonic() > end:
            raise OutageError(
                f"{', '.join(left)} did not come to {build} within {WORKERS_S:g} s",
                remedy=f"see {paths.ray_temp}/session_latest/logs/monitor.log; 'ray up' again goes on from here",
            )
        if (text := ", ".join(left)) != shown:
            shown = text
            click.echo(f"waiting for {text}", err=is_json)
        _pause(1.0)


def _machines(paths: Paths) -> list[NodeRow]:
    import asyncio

    from fks.config.endpoints import load_node

    return asyncio.run(_in_nodes(load_node(paths).database_url, lambda nodes: nodes.all(), retry_s=5.0))


async def _in_nodes(url: str, work: Callable[[NodeStore], Awaitable[T]], *, retry_s: float) -> T:
    from fks.config.settings import DatabaseSettings as Options
    from fks.interfaces.cli.store import on_database
    from fks.store.nodes import NodeStore

    pool = Options(pool_max=1)
    return await on_database(url, lambda db: work(NodeStore(db)), pool, application="node", retry_s=retry_s)
