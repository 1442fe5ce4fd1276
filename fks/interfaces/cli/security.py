"""`fks security-setup`: strong secrets in a file only this user can read."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from fks.interfaces.cli.base import paths_of, result


def _show(done: dict[str, Any], **_: Any) -> None:
    made = f"made {', '.join(done['made'])}" if done["made"] else "nothing to make"
    kept = f"; kept {', '.join(done['kept'])}" if done["kept"] else ""
    click.echo(f"{done['file']} (mode 0600): {made}{kept}")
    wrote = f"wrote {', '.join(done['env_written'])}" if done["env_written"] else "nothing to change"
    click.echo(f"{done['env_file']} (mode 0600): {wrote}")


@click.command("security-setup")
@click.option("--rotate", is_flag=True, help="Make new secrets in place of all existing ones (while FKS is down).")
@result("fks.security-setup/1", _show)
def security_setup(ctx: click.Context, rotate: bool) -> Any:
    """Make strong secrets in a 0600 file, and write the embedded servers' passwords into .env as well.

    Safe to repeat: existing secrets are kept unless --rotate. A strong POSTGRES_PASSWORD or REDIS_PASSWORD of a .env
    becomes the embedded server's when it has none yet; afterwards .env says what the server's is. Refused when git
    tracks either file.
    """
    import os

    from fks.config.aliases import EMBEDDED
    from fks.config.load import given_passwords, names_of
    from fks.config.secrets import check_given, ensure_secrets, load_secrets, refuse_tracked, write_passwords
    from fks.interfaces.cli.store import is_running
    from fks.model.errors import ConfigError

    paths = paths_of(ctx)
    if rotate and is_running(paths):
        raise ConfigError("secrets are not rotated under a running system", remedy="run 'fks down' first")
    paths.ensure()
    env_file = paths.env_files[0]
    refuse_tracked(env_file)
    given = {}
    for name, value in given_passwords(paths).items():
        with contextlib.suppress(ConfigError):  # a weak one is replaced: that is what this command is for
            check_given(name, value)
            given[name] = value
    setup = ensure_secrets(paths, rotate=rotate, given=given)
    secrets = load_secrets(paths)
    named, _ = names_of(paths, os.environ, [])
    # only its admin knows the password of an external server, whose host is named
    passwords = {
        name: getattr(secrets, secret).get_secret_value()
        for name, (secret, hosts) in EMBEDDED.items()
        if not any(host in named for host in hosts)
    }
    written = write_passwords(env_file, passwords)
    return {
        "file": str(setup.file),
        "made": list(setup.made),
        "kept": list(setup.kept),
        "env_file": str(env_file),
        "env_written": list(written),
    }
