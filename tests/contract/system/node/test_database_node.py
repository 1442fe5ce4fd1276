"""`fks node database`: PostgreSQL and Redis with TLS, from other processes, through kill -9 of each part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from fks.config.env_file import read
from fks.config.paths import Paths
from fks.model.errors import ConfigError
from fks.system.node.database_node import certificate_files, check_certificate, ensure_certificate
from tests.support.free_port import free_port
from tests.support.system import System
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)
ADDRESS = "127.0.0.4"
QUERY = """
import asyncio, os, asyncpg
async def main():
    connection = await asyncpg.connect(os.environ["FKS_DATABASE_URL"])
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    print(await connection.fetchval("SELECT count(*) FROM kept"))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    place = tmp_path_factory.mktemp("db")
    place.chmod(0o755)
    system = System.at(place / "home")
    ports = ["--postgres-port", str(free_port(ADDRESS)), "--redis-port", str(free_port(ADDRESS))]
    try:
        system.fks("node", "database", "--address", ADDRESS, *ports, "--detach", timeout_s=120.0)
        yield system
    finally:
        system.down()


def urls(machine: System) -> dict[str, str]:
    return read(machine.home / "database.env")


def rows_kept(machine: System) -> int:
    """Add a row from another process, with the URL that the other machines are given, and return the number of rows."""
    done = subprocess.run(
        [sys.executable, "-c", QUERY], env=os.environ | urls(machine), capture_output=True, text=True, timeout=30
    )
    return int(done.stdout or 0)


async def connects(url: str, **options: object) -> str:
    """Return "" for a connection to PostgreSQL, else why there is none."""
    try:
        connection = await asyncpg.connect(url, timeout=10, **options)
    except (OSError, asyncpg.PostgresError, ssl.SSLError, ConnectionError) as error:
        return f"{type(error).__name__}: {error}"
    await connection.close()
    return ""


def test_servers_take_tls_and_passwords_only(machine: System) -> None:
    given = urls(machine)
    assert rows_kept(machine) == 1
    url, redis = given["FKS_DATABASE_URL"], given["FKS_REDIS_URL"]

    async def ask() -> list[str]:
        other = ssl.create_default_context()  # the authorities of this machine, which do not know the certificate
        password = url.split(":")[2].split("@")[0]
        return [
            await connects(url),
            await connects(url.split("?")[0], ssl=False),
            await connects(url.replace(password, "wrong")),
            await connects(url.split("?")[0], ssl=other),
        ]

    good, plain, wrong, unpinned = asyncio.run(ask())
    assert good == ""
    assert "with TLS only" in plain
    assert "InvalidPasswordError" in wrong
    assert "certificate verify failed" in unpinned

    async def ping(url: str) -> bool:
        client = Redis.from_url(url, socket_timeout=5)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    password = redis.split(":")[2].split("@")[0]
    tries = (redis, redis.replace("rediss", "redis").split("?")[0], redis.replace(password, "wrong"))
    assert [asyncio.run(ping(each)) for each in tries] == [True, False, False]


def test_no_password_is_on_a_command_line_or_readable_by_others(machine: System) -> None:
    passwords = [url.split(":")[2].split("@")[0] for url in urls(machine).values()]
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if any(password in line for password in passwords)]
    for name in ("database.env", "database.key"):
        assert stat.S_IMODE((machine.home / name).stat().st_mode) == 0o600


def test_certificate_of_another_address_is_refused(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    check_certificate(paths, ADDRESS)  # none yet: one is made
    ensure_certificate(paths, ADDRESS)
    check_certificate(paths, ADDRESS)
    with pytest.raises(ConfigError, match=r"is not for 127\.0\.0\.9, .* but for 127\.0\.0\.4; 'rm .*database.key'"):
        check_certificate(paths, "127.0.0.9")
    certificate_files(paths)[0].write_text("no certificate")
    with pytest.raises(ConfigError, match="but for no address"):
        check_certificate(paths, ADDRESS)


@pytest.mark.parametrize("part", ["tls", "postgres", "redis"])
def test_part_that_is_killed_comes_back_with_what_it_kept(machine: System, part: str) -> None:
    before = rows_kept(machine)
    pid = _parts(machine)[part]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _parts(machine).get(part) not in (None, pid), deadline_s=30.0, every_s=0.2)
    wait_until(lambda: rows_kept(machine) > before, deadline_s=30.0, every_s=0.5)


def test_keeper_runs_without_the_tables_of_a_head(machine: System) -> None:
    status = machine.fks("status", check=False)
    assert "postgres" in status.stdout.lower(), status.stderr
    assert (machine.home / "logs" / "keeper.out").read_text() == ""


def test_keeper_that_is_killed_is_started_again_and_ends_nothing(machine: System) -> None:
    before, kept = _parts(machine), rows_kept(machine)
    os.kill(before["keeper"], signal.SIGKILL)
    wait_until(lambda: _parts(machine).get("keeper") not in (None, before["keeper"]), deadline_s=60.0, every_s=0.2)
    assert rows_kept(machine) == kept + 1
    after = _parts(machine)
    assert {name: after[name] for name in ("tls", "postgres", "redis")} == {
        name: before[name] for name in ("tls", "postgres", "redis")
    }


def _parts(machine: System) -> dict[str, int]:
    """Return the pids of the machine's processes, as its node file has them."""
    file: Path = machine.home / "run" / "node.json"
    try:
        found: dict[str, int] = json.loads(file.read_text())["pids"]
    except (OSError, ValueError):
        return {}
    return {name: pid for name, pid in found.items() if psutil.pid_exists(pid)}
