"""`fks security-setup`: strong secrets in a file only this user can read."""

from __future__ import annotations

import click

from fks.cli.base import as_json, emit, paths_of


@click.command("security-setup")
@click.option("--rotate", is_flag=True, help="Make new secrets in place of all existing ones (while FKS is down).")
@as_json
@click.pass_context
def security_setup(ctx: click.Context, rotate: bool, as_json: bool) -> None:
    """Make strong secrets in a 0600 file. Safe to repeat: existing ones are kept unless --rotate."""
    from fks.cli.store import is_running
    from fks.config.secrets import ensure_secrets
    from fks.model.errors import ConfigError

    paths = paths_of(ctx)
    if rotate and is_running(paths):
        raise ConfigError("secrets are not rotated under a running system", remedy="run 'fks down' first")
    paths.ensure()
    setup = ensure_secrets(paths, rotate=rotate)
    answer = {"file": str(setup.file), "made": list(setup.made), "kept": list(setup.kept)}
    emit(answer, as_json=as_json, schema="fks.security-setup/1")
    if not as_json:
        made = f"made {', '.join(setup.made)}" if setup.made else "nothing to make"
        kept = f"; kept {', '.join(setup.kept)}" if setup.kept else ""
        click.echo(f"{setup.file} (mode 0600): {made}{kept}")
