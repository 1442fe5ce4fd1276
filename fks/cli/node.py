"""`fks node`: this machine as the head or a worker of a cluster; started by systemd and `ray up`, and brought to the
installed build by a second `ray up`."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.cli.base import as_json, home_of, options, paths_of, result
from fks.config.version import build_id
from fks.model.errors import FksError, OutageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fks.config.paths import Paths
    from fks.store.nodes import NodeRow, NodeStore

T = TypeVar("T")
GCS_PORT = 6379  # where workers look for the head, unless ray.gcs_port says otherwise
BY_SYSTEMD_S = 10.0  # until systemd has started a killed keeper again
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
@_begun
def head(
    ctx: click.Context,
    address: str | None,
    port: int | None,
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
    }
    again = _options(port=port, autoscaling_config=bootstrap, env_file=env_file)
    _begin(ctx, given, again, **how)


@node.command()
@click.option("--address", metavar="HOST:PORT", help="The head's Ray.")
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
    if address is None and ("ray", "address") not in found:
        raise ConfigError("a worker has to know its head", remedy="give --address HOST:PORT, or set ray.address")
    head_host = (address or "").rpartition(":")[0].strip("[]")
    if address is not None and not (head_host and address.rpartition(":")[2].isdigit()):
        raise ConfigError(f"--address {address} is not HOST:PORT", remedy=f"e.g. 10.0.0.1:{GCS_PORT}")
    adopt_delivered_token(paths_of(ctx), token_file)
    is_open = ("node", "address") not in found
    given = {
        "FKS_NODE_ROLE": "worker",
        "FKS_RAY_ADDRESS": address,
        "FKS_NODE_ADDRESS": node_ip or (_own_address(head_host) if is_open and head_host else None),
    }
    again = _options(address=address, node_ip=node_ip, token_file=token_file, env_file=env_file)
    _begin(ctx, given, again, **how)


@node.command()
@click.argument("name")
@result("fks.node-forget/1", "machine {name} is forgotten")
def forget(ctx: click.Context, name: str) -> Any:
    """Drop a machine that is gone for good: 'fks node stop' cannot be run there any more."""
    import asyncio

    from fks.cli.store import opened_store
    from fks.model.errors import InputError

    with opened_store(ctx) as (url, _, _):
        is_found = asyncio.run(_in_nodes(url, lambda nodes: nodes.forget(name), retry_s=2.0))
    if not is_found:
        raise InputError(f"no machine {name!r}", code="NODE_UNKNOWN", remedy="see 'fks cluster check'")
    return {"name": name}


@node.command()
@click.option(
    "--all", "is_all", is_flag=True, help="On the head: end the workers too, and start no machine at boot any more."
)
@as_json
@click.pass_context
def stop(ctx: click.Context, is_all: bool, as_json: bool) -> None:
    """Stop this machine's part of the cluster in order (the same as `fks down`); with --all the whole cluster."""
    from fks.cli.up import stop_home
    from fks.node.boot import remove

    if is_all:
        remove(paths_of(ctx))
    stop_home(paths_of(ctx), is_all=is_all, is_json=as_json)


@node.command()
@result("fks.node-prepare/1", "{0[command]}: what 'ray down' runs stops FKS in order here")
def prepare(ctx: click.Context) -> Any:
    """Prepare this account for `ray up`: a command `ray` by which `ray down` stops FKS in order, on all machines."""
    import sys

    from fks.node.ray_up import prepare

    programs, account = Path(sys.executable).parent, Path.home()
    file = prepare(account / "fks" / "bin", programs / "fks", programs / "ray", paths_of(ctx).home, account / ".bashrc")
    return {"command": str(file)}


def _take_env(file: Path | None) -> None:
    from fks.config.env_file import take

    if file is not None:
        take(file.expanduser(), os.environ)


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
    from fks.cli.up import run_keeper
    from fks.model.errors import InputError
    from fks.node.build import check_host
    from fks.node.preflight import check_interpreter

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
        if role == "head":
            again += ["--address", os.environ.get("FKS_NODE_ADDRESS", "")]
        unit = _install_at_boot(paths, role, again, is_json=as_json)
    is_new = run_keeper(
        paths, is_detached=detach, is_quiet=role == "worker" or as_json, is_json=as_json, unit=unit, is_silent=detach
    )
    if not is_new and detach:
        _upgrade(ctx, paths, role, is_json=as_json)


def _install_at_boot(paths: Paths, role: str, options: list[str], *, is_json: bool) -> bool:
    """Have this node start at boot and print how; return whether systemd starts it now, too."""
    import sys

    from fks.node.boot import BootEntry, install

    program = str(Path(sys.executable).with_name("fks"))
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
    from fks.node.ray_up import head_address

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

    return set(load(home_of(ctx)).sources)


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
def _upgrade(ctx: click.Context, paths: Paths, role: str, *, is_json: bool) -> None:
    """Bring a node that runs another build to the installed one; print that it runs when it is the same.

    The keeper is replaced, and takes over what runs. A head then waits until every machine has the build, and replaces
    the parts of the tree and the gateway one by one (`fks deploy`). Errors: FksError; what runs goes on then.
    """
    from fks.cli.deploy import check_schema, deploy
    from fks.cli.up import print_running
    from fks.node.control_socket import ask
    from fks.node.ray_up import restart_autoscaler

    progress = ask(paths.keeper_socket, "progress")
    running, installed = str(progress.get("version", "")), build_id()
    if running == installed and not _others(paths, installed):
        print_running(paths, int(progress["pid"]), is_json=is_json)
        return
    if role == "head":
        check_schema(paths, None)
    if running != installed:
        click.echo(f"upgrading the keeper from {running or 'an earlier build'} to {installed}", err=is_json)
        _replace_keeper(paths, int(progress["pid"]), is_json=is_json)
    if role != "head":
        return
    restart_autoscaler(paths.ray_temp)
    _wait_for_workers(paths, installed, is_json=is_json)
    ctx.invoke(
        deploy, wheel=None, only=None, rollback=False, install_only=False, why="ray up: another build", as_json=is_json
    )


def _behind(rows: Sequence[NodeRow], build: str) -> list[str]:
    """Return the living machines whose keeper runs another build, with it."""
    return [f"{row.name} ({row.version})" for row in rows if row.is_alive and row.version != build]


def _others(paths: Paths, build: str) -> bool:
    """Return whether a machine of this head runs another build: an upgrade that was interrupted."""
    try:
        return bool(_behind(_machines(paths), build))
    except (FksError, OSError):
        return False


def _replace_keeper(paths: Paths, pid: int, *, is_json: bool) -> None:
    from fks.cli.up import run_keeper
    from fks.node import boot
    from fks.node.lock import PARENT_LOCK, holder_of
    from fks.process.handle import kill

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
    from fks.cli.store import on_database
    from fks.config.settings import DatabaseSettings as Options
    from fks.store.nodes import NodeStore

    pool = Options(pool_max=1)
    return await on_database(url, lambda db: work(NodeStore(db)), pool, application="node", retry_s=retry_s)
