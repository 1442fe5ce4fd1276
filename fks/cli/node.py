"""`fks node`: this machine as the head or a worker of a cluster; started by systemd and `ray up`."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fks.cli.base import as_json, home_of

if TYPE_CHECKING:
    from fks.config.paths import Paths

GCS_PORT = 6379  # where workers look for the head, unless ray.gcs_port says otherwise
_OUTSIDE = ("192.0.2.1", 9)  # reserved for documentation: nothing is sent, the kernel only picks the way there

_detach = click.option(
    "--detach",
    "-d",
    is_flag=True,
    help="Run in the background; return once it is ready. A node that runs an earlier build is brought to this one.",
)
_env_file = click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Variables of this machine, NAME=VALUE, mode 0600; one that is set already wins.",
)
_at_boot = click.option(
    "--at-boot", is_flag=True, help="With --detach: start it at boot too, by this user's systemd, else by cron."
)
_name = click.option("--name", metavar="NAME", help="This machine's name in the cluster (default: host name).")
_resource = click.option(
    "--resource", "-r", "resources", multiple=True, metavar="NAME=N", help="What this machine offers, e.g. ninja=1."
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
@_resource
@click.option("--autoscaling-config", metavar="FILE", help="What `ray up` left here for Ray's autoscaler.")
@_env_file
@_detach
@_at_boot
@as_json
@click.pass_context
def head(
    ctx: click.Context,
    address: str | None,
    port: int | None,
    name: str | None,
    resources: tuple[str, ...],
    autoscaling_config: str | None,
    env_file: Path | None,
    detach: bool,
    at_boot: bool,
    as_json: bool,
) -> None:
    """Run the head: PostgreSQL and Redis (unless given by URL), Ray's GCS, a raylet, and the tree.

    Runs until it is stopped; started again after a crash it takes over what lives and starts the rest.
    """
    from fks.config.secrets import adopt_delivered_token

    _take_env(env_file)
    found = _sources(ctx)
    bootstrap = Path(autoscaling_config).expanduser() if autoscaling_config else None
    if (paths := _paths(ctx)).ray_token_file.exists():  # `ray up` delivers one to all: it must not be replaced
        adopt_delivered_token(paths, paths.ray_token_file)
    given = {
        "FKS_NODE_ROLE": "head",
        "FKS_NODE_ADDRESS": address or (None if ("node", "address") in found else _head_address(bootstrap)),
        "FKS_RAY_GCS_PORT": str(port) if port else (None if ("ray", "gcs_port") in found else str(GCS_PORT)),
        "FKS_RAY_AUTOSCALING_CONFIG": str(bootstrap) if bootstrap else None,
    }
    options = _options(port=port, autoscaling_config=bootstrap, env_file=env_file)
    _begin(ctx, given, name, resources, options=options, detach=detach, at_boot=at_boot, is_json=as_json)


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
@_resource
@_env_file
@_detach
@_at_boot
@as_json
@click.pass_context
def worker(
    ctx: click.Context,
    address: str | None,
    node_ip: str | None,
    token_file: Path | None,
    name: str | None,
    resources: tuple[str, ...],
    env_file: Path | None,
    detach: bool,
    at_boot: bool,
    as_json: bool,
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
    adopt_delivered_token(_paths(ctx), token_file)
    is_open = ("node", "address") not in found
    given = {
        "FKS_NODE_ROLE": "worker",
        "FKS_RAY_ADDRESS": address,
        "FKS_NODE_ADDRESS": node_ip or (_own_address(head_host) if is_open and head_host else None),
    }
    options = _options(address=address, node_ip=node_ip, token_file=token_file, env_file=env_file)
    _begin(ctx, given, name, resources, options=options, detach=detach, at_boot=at_boot, is_json=as_json)


@node.command()
@click.argument("name")
@as_json
@click.pass_context
def forget(ctx: click.Context, name: str, as_json: bool) -> None:
    """Drop a machine that is gone for good: 'fks node stop' cannot be run there any more."""
    import asyncio

    from fks.cli.base import emit
    from fks.cli.store import opened_store
    from fks.model.errors import InputError
    from fks.store.db import Database
    from fks.store.nodes import NodeStore

    async def work(url: str) -> bool:
        from fks.config.settings import Database as Options

        db = await Database.connect(url, Options(pool_max=1), application="node", retry_s=2.0)
        try:
            return await NodeStore(db).forget(name)
        finally:
            await db.close()

    with opened_store(ctx) as (url, _, _):
        is_found = asyncio.run(work(url))
    if not is_found:
        raise InputError(f"no machine {name!r}", code="NODE_UNKNOWN", remedy="see 'fks cluster check'")
    if as_json:
        emit({"name": name}, as_json=True, schema="fks.node-forget/1")
    else:
        click.echo(f"machine {name} is forgotten")


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
        remove(_paths(ctx))
    stop_home(_paths(ctx), is_all=is_all, is_json=as_json)


@node.command()
@as_json
@click.pass_context
def prepare(ctx: click.Context, as_json: bool) -> None:
    """Prepare this account for `ray up`: a command `ray` by which `ray down` stops FKS in order, on all machines."""
    import sys

    from fks.cli.base import emit
    from fks.node.ray_up import prepare as write

    programs = Path(sys.executable).parent
    account = Path.home()
    file = write(account / "fks" / "bin", programs / "fks", programs / "ray", _paths(ctx).home, account / ".bashrc")
    if as_json:
        emit({"command": str(file)}, as_json=True, schema="fks.node-prepare/1")
    else:
        click.echo(f"{file}: what 'ray down' runs stops FKS in order here")


def _take_env(file: Path | None) -> None:
    from fks.config.env_file import take

    if file is not None:
        take(file.expanduser(), os.environ)


def _options(**given: object) -> tuple[str, ...]:
    """Return the options of the command line that start the same node again."""
    found: list[str] = []
    for name, value in given.items():
        if value is not None:
            text = str(value.expanduser().absolute()) if isinstance(value, Path) else str(value)
            found += [f"--{name.replace('_', '-')}", text]
    return tuple(found)


def _begin(
    ctx: click.Context,
    given: dict[str, str | None],
    name: str | None,
    resources: tuple[str, ...],
    *,
    options: tuple[str, ...],
    detach: bool,
    at_boot: bool,
    is_json: bool,
) -> None:
    from fks.cli.node_upgrade import upgrade
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
    paths = check_host(_paths(ctx).home)
    os.environ["FKS_HOME"] = str(paths.home)
    role = str(given["FKS_NODE_ROLE"])
    unit = False
    if at_boot:
        again = [*options, *(["--name", name] if name else []), *(f"--resource={entry}" for entry in resources)]
        if role == "head":
            again += ["--address", os.environ.get("FKS_NODE_ADDRESS", "")]
        unit = _install_at_boot(paths, role, again, is_json=is_json)
    is_new = run_keeper(
        paths, is_detached=detach, is_quiet=role == "worker" or is_json, is_json=is_json, unit=unit, is_silent=detach
    )
    if not is_new and detach:
        upgrade(ctx, paths, role, is_json=is_json)


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


def _paths(ctx: click.Context) -> Paths:
    from fks.config.paths import Paths

    return Paths.of(Path(home_of(ctx) or ".fks"))


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
