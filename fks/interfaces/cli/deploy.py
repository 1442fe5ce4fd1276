"""`fks deploy`: rolling deployment of the installed build."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from fks.interfaces.cli.base import as_json, emit, paths_of

if TYPE_CHECKING:
    from fks.config.paths import Paths


@click.command()
@click.option("--only", metavar="PART", help="This child, gateway or supervisor alone.")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the operation.")
@as_json
@click.pass_context
def deploy(ctx: click.Context, only: str | None, why: str, as_json: bool) -> None:
    """Bring every part to the build that is installed, one at a time, while the others trade on.

    Each child is drained, started again and must be as well as before, under the new version, before the next. Then
    the supervisor starts itself again and adopts its children, and the gateway's replicas are replaced while others
    answer. The first part that does not come back ends it: those after it go on as they are. The keeper and its
    services are left alone. A build that renames columns of the database is refused: stop, install it, start.

    \b
    fks deploy --why "the new order types"  # after a git pull in a checkout
    fks deploy --only strategy:0
    """
    from fks.config.version import installed_version
    from fks.interfaces.cli.client import gateway_of, new_key
    from fks.interfaces.cli.operation import follow

    with gateway_of(ctx) as gateway:
        check_schema(paths_of(ctx))
        build = installed_version()
        body = {"kind": "deploy", "only": only, "reason": why, "build": build}
        if not as_json:
            click.echo(f"deploying {build}")
        done = follow(gateway, gateway.post("/operations", body, key=new_key()), is_quiet=as_json)
    if as_json:
        emit({"build": build, "operation": done}, as_json=True, schema="fks.deploy/1")
    else:
        click.echo(f"everything runs {build}" if only is None else f"{only} runs {build}")


def check_schema(paths: Paths) -> None:
    """Refuse the installed build where it cannot run beside the one that runs; grant its statements to the database's
    roles, with which its processes connect.

    Errors: InputError DEPLOY_SCHEMA; OutageError when FKS does not run here, or PostgreSQL is away.
    """
    from fks.config.endpoints import load_node
    from fks.store import migrate

    url = load_node(paths).database_url
    migrate.check_rolling(asyncio.run(migrate.current(url)), migrate.own_sources(), build="the installed build")
    asyncio.run(migrate.grant(url))
