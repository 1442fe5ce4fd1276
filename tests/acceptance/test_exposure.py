"""Exposure of a running system to the network and to other users of the host: nothing is reachable."""

from __future__ import annotations

import contextlib
import ipaddress
import stat
import tomllib

import httpx
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


def test_ray_job_without_the_token_is_refused(system: System) -> None:
    """Ray's job API runs any command: on the dashboard and on its agent it asks for the token."""
    asked = 0
    for process in system.processes():
        with contextlib.suppress(psutil.Error):
            ports = [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            for port in ports if "ashboard" in " ".join(process.cmdline()) else []:
                for path in ("/api/jobs/", "/api/job_agent/jobs/"):
                    with contextlib.suppress(httpx.HTTPError):  # gRPC and others do not speak HTTP/1.1
                        answer = httpx.post(f"http://127.0.0.1:{port}{path}", json={"entrypoint": "true"}, timeout=3.0)
                        assert answer.status_code in (401, 403, 404, 405), (port, path, answer.text)
                        asked += answer.status_code in (401, 403)
    assert asked >= 2


def test_other_users_reach_no_socket_and_no_file_of_ray(system: System) -> None:
    paths = Paths.of(system.home)
    assert stat.S_IMODE(paths.ray_temp.parent.stat().st_mode) == 0o700
    open_to_all = [
        path.name for path in paths.sockets.iterdir() if path.lstat().st_mode & 0o007 and not path.name.startswith("pg")
    ]
    assert open_to_all == []


def test_no_secret_is_in_an_argument_an_environment_or_a_log(system: System) -> None:
    secrets = {
        name: value.encode() for name, value in tomllib.loads((system.home / "secrets.toml").read_text()).items()
    }
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
