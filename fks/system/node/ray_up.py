"""Files that `ray up` leaves on a machine: the head's address, and a command `ray` that stops FKS for `ray down`."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import Any

from fks.model.errors import ConfigError
from fks.system.process import ray_names
from fks.system.process.handle import find_by_command, kill

_COMMAND = """#!/bin/sh
# Written by `fks node prepare`. `ray down` runs this with `stop` on the head: it stops FKS in order, on all machines.
# Ray's own would kill the processes, and the keeper would start them again.
if [ "$1" = stop ]; then exec {fks} --home {home} node stop --all; fi
exec {ray} "$@"
"""
_PATH_MARK = "# fks: what `ray down` runs stops FKS in order"


def head_address(bootstrap: Path) -> str | None:
    """Return the head's address that `ray up` uses, from the file it left here; None in a cloud.

    Errors: ConfigError when it is not an address of this machine.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        document = yaml.safe_load(bootstrap.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{bootstrap} cannot be read: {error}", remedy="start the head by 'ray up'") from None
    provider: Any = document.get("provider") if isinstance(document, dict) else None
    head = provider.get("head_ip") if isinstance(provider, dict) and provider.get("type") == "local" else None
    if not head:
        return None
    try:
        found = socket.gethostbyname(str(head))
        with socket.socket() as probe:
            probe.bind((found, 0))
    except OSError:
        raise ConfigError(
            f"provider.head_ip {head} is no address of this machine",
            remedy="give the address that the workers reach as head_ip, and the one that 'ray up' reaches as "
            "external_head_ip; or name it in head_start_ray_commands: fks node head --address IP",
        ) from None
    return found


def prepare(bin: Path, fks: Path, ray: Path, home: Path, bashrc: Path) -> Path:
    """Write a command `ray` into `bin`, and put that folder first in the PATH of the shells that `ray down` starts."""
    bin.mkdir(parents=True, exist_ok=True)
    command = bin / "ray"
    quoted = {"fks": fks, "ray": ray, "home": home}
    command.write_text(_COMMAND.format(**{key: shlex.quote(str(value)) for key, value in quoted.items()}))
    command.chmod(0o755)
    before = bashrc.read_text() if bashrc.exists() else ""
    kept = [line for line in before.splitlines() if _PATH_MARK not in line]
    # the first line: many a .bashrc ends early in a shell without a terminal
    line = f'export PATH={shlex.quote(str(bin))}:"$PATH"  {_PATH_MARK}'
    if (after := "".join(f"{each}\n" for each in (line, *kept))) != before:
        bashrc.write_text(after)
    return command


def restart_autoscaler(ray_temp: Path) -> None:
    """End Ray's autoscaler: its parent starts it again at once. It hashes the files for the workers once in its life,
    and would not notice that `ray up` brought another wheel."""
    found = [
        pid
        for name in ray_names.AUTOSCALERS
        for pid in set(find_by_command(name)) & set(find_by_command(f"{ray_temp}/"))
    ]
    kill(found)
