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

_detach = click.option("--detach", "-d", is_flag=True, help="Run in the background; return once it is ready.")
_name = click.option("--name", metavar="NAME", help="This machine's name in the cluster (default: host name).")
_resource = click.option(
    "--resource", "-r", "resources", multiple=True, metavar="NAME=N", help="What this machine offers, e.g. ninja=1."
)


@click.group()
def node() -> None:
    """Run this machine as the head or a worker of a cluster."""


@node.command()
@click.option("--address", metavar="IP", help="Address at which the workers reach this machine (default: found out).")
@click.option("--port", type=int, help=f"Port of the cluster (default {GCS_PORT}).")
@_name
@_resource
@click.option("--autoscaling-config", metavar="FILE", help="What `ray up` left here for Ray's autoscaler.")
@_detach
@as_json
@click.pass_context
def head(
    ctx: click.Context,
    address: str | None,
    port: int | None,
    name: str | None,
    resources: tuple[str, ...],
    autoscaling_config: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Run the head: PostgreSQL and Redis (unless given by URL), Ray's GCS, a raylet, and the tree.

    Runs until it is stopped; started again after a crash it takes over what lives and starts the rest.
    """
    from fks.config.secrets import adopt_delivered_token

    found = _sources(ctx)
    if (paths := _paths(ctx)).ray_token_file.exists():  # `ray up` delivers one to all: it must not be replaced
        adopt_delivered_token(paths, paths.ray_token_file)
    given = {
        "FKS_NODE_ROLE": "head",
        "FKS_NODE_ADDRESS": address or (None if ("node", "address") in found else _own_address(_OUTSIDE[0])),
        "FKS_RAY_GCS_PORT": str(port) if port else (None if ("ray", "gcs_port") in found else str(GCS_PORT)),
        "FKS_RAY_AUTOSCALING_CONFIG": os.path.expanduser(autoscaling_config) if autoscaling_config else None,
    }
    _begin(ctx, given, name, resources, detach=detach, is_json=as_json)


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
@_detach
@as_json
@click.pass_context
def worker(
    ctx: click.Context,
    address: str | None,
    node_ip: str | None,
    token_file: Path | None,
    name: str | None,
    resources: tuple[str, ...],
    detach: bool,
    as_json: bool,
) -> None:
    """Run a worker: a raylet that joins the head, waits for it as long as it takes, and comes back by itself.

    Needs FKS_DATABASE_URL, FKS_REDIS_URL and the head's token.
    """
    from fks.config.secrets import adopt_delivered_token
    from fks.model.errors import ConfigError

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
    _begin(ctx, given, name, resources, detach=detach, is_json=as_json)


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
@as_json
@click.pass_context
def stop(ctx: click.Context, as_json: bool) -> None:
    """Stop this machine's part of the cluster in order (the same as `fks down`)."""
    from fks.cli.up import down

    ctx.invoke(down, as_json=as_json)


def _begin(
    ctx: click.Context,
    given: dict[str, str | None],
    name: str | None,
    resources: tuple[str, ...],
    *,
    detach: bool,
    is_json: bool,
) -> None:
    from fks.cli.up import run_keeper
    from fks.node.build import check_host
    from fks.node.preflight import check_interpreter

    check_interpreter()
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
    run_keeper(paths, is_detached=detach, is_quiet=given["FKS_NODE_ROLE"] == "worker" or is_json, is_json=is_json)


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
