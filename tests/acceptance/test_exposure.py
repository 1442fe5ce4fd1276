"""What a stranger on the network, or another user of the host, finds of a running system: nothing (C10)."""

from __future__ import annotations

import contextlib
import ipaddress
import stat
import tomllib

import psutil

from fks.config.paths import Paths
from tests.support.system import System


def test_nothing_listens_beyond_loopback(system: System) -> None:
    found = []
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            found += [
                (process.name(), *connection.laddr)
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            ]
    assert len(found) > 5
    assert [entry for entry in found if not ipaddress.ip_address(entry[1].removeprefix("::ffff:")).is_loopback] == []


def test_other_users_reach_no_socket_and_no_file_of_ray(system: System) -> None:
    paths = Paths.of(system.home)
    assert stat.S_IMODE(paths.ray_temp.parent.stat().st_mode) == 0o700
    open_to_all = [
        path.name
        for path in paths.sockets.iterdir()
        if path.lstat().st_mode & 0o007 and not path.name.startswith("pg")
    ]
    assert open_to_all == []


def test_no_secret_is_in_an_argument_an_environment_or_a_log(system: System) -> None:
    secrets = {name: value.encode() for name, value in tomllib.loads((system.home / "secrets.toml").read_text()).items()}
    secrets["sim key"] = system.node["sim"]["api_secret"].encode()
    shown: list[tuple[str, str]] = []
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            text = "\0".join([*process.cmdline(), *process.environ().values()]).encode()
            shown += [(name, f"pid {process.pid} {process.name()}") for name, value in secrets.items() if value in text]
    places = [*(system.home / "logs").rglob("*"), *Paths.of(system.home).ray_temp.rglob("logs/**/*")]
    for file in places:
        with contextlib.suppress(OSError):
            data = file.read_bytes() if file.is_file() else b""
            shown += [(name, str(file)) for name, value in secrets.items() if value in data]
    assert shown == []
