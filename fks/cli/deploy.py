"""`fks deploy`: rolling deployment of the installed build, and its rollback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.cli.base import as_json, emit, paths_of
from fks.model.errors import FksError, InputError

if TYPE_CHECKING:
    from fks.cli.client import GatewaySession
    from fks.config.paths import Paths


@click.command()
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Install this wheel of FKS first.",
)
@click.option("--only", metavar="PART", help="This child, gateway or supervisor alone.")
@click.option("--rollback", is_flag=True, help="Install the wheel that the last deployment replaced.")
@click.option("--install-only", is_flag=True, help="Install and restart nothing: for the other nodes of a cluster.")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the operation.")
@as_json
@click.pass_context
def deploy(
    ctx: click.Context,
    wheel: Path | None,
    only: str | None,
    rollback: bool,
    install_only: bool,
    why: str,
    as_json: bool,
) -> None:
    """Bring every part to the build that is installed, one at a time, while the others trade on.

    Each child is drained, started again and must be as well as before, under the new version, before the next. Then
    the supervisor starts itself again and adopts its children, and the gateway's replicas are replaced while others
    answer. The first part that does not come back ends it: those after it go on as they are. The keeper and its
    services are left alone. A build that renames columns of the database is refused: stop, install it, start.

    \b
    fks deploy                              # after a git pull in a checkout
    fks deploy --wheel fks-0.2.0-py3-none-any.whl --why "the new order types"
    fks deploy --rollback
    fks deploy --only strategy:0
    """
    from fks.cli.client import gateway_of, new_key
    from fks.cli.operation import follow
    from fks.config.version import installed_version

    paths = paths_of(ctx)
    if rollback and wheel is not None:
        raise InputError("--rollback installs the wheel of before: it goes without --wheel", remedy="give one of them")
    if install_only:
        if wheel is None or rollback:
            raise InputError("--install-only needs --wheel FILE", remedy="name the wheel")
        check_schema(paths, wheel)
        emit(_install(paths, wheel, is_quiet=as_json), as_json=as_json, schema="fks.install/1")
        return
    with gateway_of(ctx) as gateway:
        if rollback:
            wheel = _previous(gateway, paths)
        check_schema(paths, wheel)
        args = _install(paths, wheel, is_quiet=as_json) if wheel is not None else {}
        args["build"] = installed_version()
        body = {"kind": "deploy", "only": only, "reason": why, **args}
        if not as_json:
            click.echo(f"deploying {args['build']}")
        try:
            done = follow(gateway, gateway.post("/operations", body, key=new_key()), is_quiet=as_json)
        except FksError as error:
            if "previous_wheel" in args:
                # by its file: where the operation was not recorded, --rollback knows only the deployment before
                back = paths.home / "wheels" / args["previous_wheel"]
                error.remedy = f"{error.remedy}; 'fks deploy --wheel {back}' goes back"
            raise
    if as_json:
        emit({"build": args["build"], "operation": done}, as_json=True, schema="fks.deploy/1")
    else:
        click.echo(f"everything runs {args['build']}" if only is None else f"{only} runs {args['build']}")


def check_schema(paths: Paths, wheel: Path | None) -> None:
    """Refuse a build that cannot run beside the one that runs. On every node: a child may start again on any of them.

    Errors: InputError DEPLOY_SCHEMA; OutageError when FKS does not run here, or PostgreSQL is away.
    """
    from fks.cli.wheel import migrations_of
    from fks.config.endpoints import load_node
    from fks.store import migrate

    at = asyncio.run(migrate.current(load_node(paths).database_url))
    name = "this checkout" if wheel is None else wheel.name
    migrate.check_rolling(at, migrations_of(wheel), build=name)


def _previous(gateway: GatewaySession, paths: Paths) -> Path:
    """Return the wheel that the last deployment replaced. Errors: InputError when there is none."""
    name = gateway.get("/operations/last-wheel")["previous_wheel"]
    if not name:
        raise InputError("no deployment has installed a wheel", code="NO_WHEEL", remedy="use --wheel FILE")
    wheel = paths.home / "wheels" / str(name)
    if wheel.name != name:  # write access to the row must not choose a file elsewhere
        raise InputError(f"{name!r} is no wheel of ours", code="WHEEL_WRONG", remedy="use --wheel FILE")
    if not wheel.is_file():
        raise InputError(f"{wheel} is gone", code="NO_WHEEL", remedy="use --wheel FILE")
    return wheel


def _install(paths: Paths, wheel: Path, *, is_quiet: bool) -> dict[str, Any]:
    """Install a wheel here; return the members of the operation's row. Errors: InputError, FksError."""
    from fks.cli.wheel import check_place, check_wheel, install, keep, repack

    found = check_wheel(wheel)
    folder = paths.home / "wheels"
    previous = repack(check_place(), folder)
    kept = keep(found, folder)
    install(kept)
    if not is_quiet:
        click.echo(f"installed {kept.name}; {previous.name} leads back")
    return {"wheel": kept.name, "previous_wheel": previous.name}
