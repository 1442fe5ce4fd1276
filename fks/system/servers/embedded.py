"""The embedded PostgreSQL and Redis: plain children of the keeper, on unix sockets only, each with a password.

Nothing listens on TCP. PostgreSQL refuses to run as root, so under root it runs as an unprivileged system user that
owns nothing but its data and socket directories. Passwords reach the servers through files (0600) and stdin, never
argv or the environment. Both classes are idempotent: `prepare` may be called before every start, and a server that
outlived its keeper is found by `adopt`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psutil

from fks.config.paths import Paths, make_home
from fks.config.secrets import Secrets, write_private
from fks.model.errors import ConfigError, OutageError
from fks.system.process.handle import Launch, ProcessHandle, runs_in
from fks.system.servers import binaries
from fks.system.servers.binaries import SystemUser
from fks.system.servers.directories import FREE_MIN_MB, check_free, check_socket, own_directory

LEFTOVERS_S = 5.0  # the backends of a killed postmaster leave by themselves within this
_UPGRADED = "fks-upgraded"  # in a cluster that is complete and waits to be put into its place; holds the old major
_PORT = 5432  # only a part of the socket's file name: no TCP
_CONF = """\
# Written by fks before every start; changes here are lost.
listen_addresses = ''
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 150
shared_buffers = 64MB
work_mem = 8MB
maintenance_work_mem = 64MB
huge_pages = off
jit = off
io_method = sync
fsync = {fsync}
synchronous_commit = {fsync}
full_page_writes = {fsync}
wal_level = minimal
max_wal_senders = 0
max_wal_size = 512MB
min_wal_size = 64MB
wal_compression = on
checkpoint_timeout = 15min
autovacuum_max_workers = 1
autovacuum_worker_slots = 2
max_logical_replication_workers = 0
max_worker_processes = 4
max_parallel_workers = 2
max_parallel_workers_per_gather = 1
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, ymd'
lc_messages = 'C'
log_min_messages = warning
log_line_prefix = '%m [%p] %a '
log_checkpoints = off
log_min_duration_statement = 1s
log_parameter_max_length = 0
log_statement = none
"""
REDIS_CONF = """\
# Written by fks before every start; changes here are lost.
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass "{password}"
dir "{directory}"
pidfile "{pidfile}"
daemonize no
save ""
appendonly no
maxmemory 64mb
maxmemory-policy volatile-lru
client-output-buffer-limit pubsub 8mb 2mb 60
databases 1
loglevel warning
logfile ""
"""


class PostgresServer:
    """The node's own PostgreSQL: database and superuser `fks`, data in paths.pgdata, socket in paths.sockets/pg."""

    name = "postgres"
    database = "fks"

    def __init__(self, paths: Paths, secrets: Secrets, *, is_durable: bool = True) -> None:
        """`is_durable=False` (tests only) trades crash safety for speed."""
        self._paths = paths
        self._password = secrets.postgres_password.get_secret_value()
        self._is_durable = is_durable
        self._sockets = paths.sockets / "pg"
        self.socket = self._sockets / f".s.PGSQL.{_PORT}"
        self._account: SystemUser | None = None

    def url(self, database: str = "fks") -> str:
        """Return the URL with the password in it: for node_file and connect, never for logs."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://fks:{quote(self._password, safe='')}@/{database}?host={host}&port={_PORT}"

    @staticmethod
    def has_data(paths: Paths) -> bool:
        """Return whether this home has a cluster, running or not."""
        return (paths.pgdata / "PG_VERSION").exists()

    def prepare(self) -> None:
        """Create the cluster and the database `fks` once, the configuration each time; clear what a kill -9 left.

        A cluster of an older PostgreSQL is upgraded if its programs are installed (`_upgrade`). A crash in the middle
        does no harm: a cluster is created aside and renamed. Errors: ConfigError.
        """
        if self.adopt() is not None:
            return
        if not self.has_data(self._paths):  # with data PostgreSQL itself knows what it needs
            check_free(self._paths.home)
        account = self._prepare_account()
        own_directory(self._paths.sockets, mode=0o711)
        own_directory(self._sockets, mode=0o700, account=account)
        check_socket(self.socket)
        with open(self._paths.home / ".postgres.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a command and the keeper may start the server at once
            if self.adopt() is None:
                self._prepare_data(account)

    def _prepare_data(self, account: SystemUser | None) -> None:
        data = self._paths.pgdata
        self._end_upgrade()
        if not self.has_data(self._paths):
            self._initialise(data, account)
        _clear_leftovers(data)
        version = (data / "PG_VERSION").read_text().strip()
        if version != binaries.POSTGRES_VERSION:
            self._upgrade(data, account, version)
        self._write_conf(data, account)
        self._ensure_password(data, account)

    def command(self) -> list[str]:
        """Return the argument list of the server process (no secrets in it)."""
        return [*self._command_prefix(), str(binaries.postgres("postgres")), "-D", str(self._paths.pgdata)]

    def env(self) -> dict[str, str]:
        """Return the whole environment of the server process."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGDATA": str(self._paths.pgdata),
        }

    def user(self) -> SystemUser | None:
        """Return the system user to start it as (Popen's user and group); None for our own, or when `command` changes
        it."""
        return None if self._command_prefix() else self._runs_as()

    def launch(self, log: Path | None = None) -> Launch:
        """Return how to start the server (after `prepare`), its output appended to `log`."""
        popen = {"cwd": self._paths.pgdata.parent, **binaries.run_as(self.user())}
        return Launch(self.command(), self.env(), err=log, popen=popen)

    def is_ready(self) -> bool:
        """Return whether the server takes connections, in a few milliseconds and without a password."""
        found = subprocess.run(
            [str(binaries.postgres("pg_isready")), "-q", "-h", str(self._sockets), "-p", str(_PORT), "-t", "1"],
            check=False,
            env=self.env(),
        )
        return found.returncode == 0

    def adopt(self) -> int | None:
        """Return the pid of a living postmaster on our data, also one that a dead keeper left; None without one."""
        return postgres_pid(self._paths)

    def stop(self, process: ProcessHandle | int, *, timeout_s: float = 10.0) -> None:
        """Stop a started or adopted server: fast shutdown, then immediate, then kill. Data is safe in each case."""
        _stop(process, (signal.SIGINT, signal.SIGQUIT), timeout_s)

    def _prepare_account(self) -> SystemUser | None:
        make_home(self._paths.home)
        account = self._runs_as()
        self._command_prefix()
        return account

    def _runs_as(self) -> SystemUser | None:
        """Return the system user the server runs as."""
        if self._account is None and os.geteuid() == 0:
            self._account = binaries.postgres_account(self._paths.pgdata)
        return self._account

    def _command_prefix(self) -> list[str]:
        account = self._runs_as()
        if account is None:
            return []
        return binaries.command_prefix(account, binaries.postgres("postgres"), self._paths.home / "postgres")

    def _initialise(self, data: Path, account: SystemUser | None) -> None:
        if data.exists() and any(data.iterdir()):
            raise ConfigError(f"{data} holds files but no PostgreSQL cluster", remedy="move it away")
        fresh = self._make_cluster(account)
        self._write_conf(fresh, account)
        self._single(fresh, "CREATE DATABASE fks;", database="postgres")
        if data.exists():
            data.rmdir()
        fresh.rename(data)
        self._write_password_mark(account)

    def _make_cluster(self, account: SystemUser | None, *options: str) -> Path:
        """Make an empty cluster beside the one in use, in place of any that a crash left, and return its folder."""
        fresh = self._fresh()
        shutil.rmtree(fresh, ignore_errors=True)
        own_directory(fresh, mode=0o700, account=account)
        with self._private(fresh.with_name(f".{self._paths.pgdata.name}.pw"), self._password + "\n", account) as file:
            self._tool(
                "initdb",
                "-D",
                str(fresh),
                "-U",
                "fks",
                f"--pwfile={file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-instructions",
                *options,
                *(() if self._is_durable else ("--no-sync",)),
            )
        return fresh

    def _upgrade(self, data: Path, account: SystemUser | None, version: str) -> None:
        """Copy the cluster of PostgreSQL `version` into one of ours by pg_upgrade, and put that in its place.

        The old cluster is only recovered and shut down, and stays as it is, as `postgres.<version>`, until a person
        deletes it. Errors: ConfigError, with the old cluster in its place.
        """
        kept = data.with_name(f"{data.name}.{version}")
        refused = f"{data} was made by PostgreSQL {version}, this FKS brings {binaries.POSTGRES_VERSION}"
        if not binaries.has_postgres(version):
            raise ConfigError(
                f"{refused}, and no programs of {version} to upgrade it with; nothing was changed",
                remedy="install the build of FKS that ran here, make a backup (fks db backup), and restore it with "
                "this build into a new FKS_HOME (fks db restore)",
            )
        if kept.exists():
            raise ConfigError(f"{refused}; {kept} is in the way of an upgrade", remedy="move it away")
        size_mb = sum(file.lstat().st_size for file in data.rglob("*") if file.is_file()) // 2**20
        check_free(self._paths.home, free_min_mb=size_mb + FREE_MIN_MB)
        # PostgreSQL's single-user mode recovers what a crash left, and shuts down cleanly, which pg_upgrade asks for
        escaped = self._password.replace("'", "''")
        self._single(data, f"ALTER ROLE fks WITH PASSWORD '{escaped}';", database="postgres", version=version)
        has_checksums = not re.search(
            r"checksum version:\s+0$", self._tool("pg_controldata", str(data), version=version), re.MULTILINE
        )
        fresh = self._fresh()
        work = self._sockets / "upgrade"  # pg_upgrade writes into the folder it runs in, and its sockets are there
        try:
            self._make_cluster(account, "--data-checksums" if has_checksums else "--no-data-checksums")
            shutil.rmtree(work, ignore_errors=True)
            own_directory(work, mode=0o700, account=account)
            check_socket(work / ".s.PGSQL.50432")
            with self._private(work / "pgpass", f"*:*:*:fks:{_pgpass(self._password)}\n", account) as file:
                self._tool(
                    "pg_upgrade",
                    "--username=fks",
                    f"--old-bindir={binaries.postgres('postgres', version).parent}",
                    f"--new-bindir={binaries.postgres('postgres').parent}",
                    f"--old-datadir={data}",
                    f"--new-datadir={fresh}",
                    f"--socketdir={work}",
                    *(() if self._is_durable else ("--no-sync",)),
                    cwd=work,
                    env={"PGPASSFILE": str(file)},
                )
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)  # half a copy would fill the disk
            raise
        shutil.rmtree(work, ignore_errors=True)
        write_private(fresh / _UPGRADED, version)
        self._end_upgrade()

    def _end_upgrade(self) -> None:
        """Put an upgraded cluster into the place of the old one; a crash between the two renames is made good."""
        data, fresh = self._paths.pgdata, self._fresh()
        mark = fresh / _UPGRADED
        if not mark.exists():
            return
        if data.exists():
            data.rename(data.with_name(f"{data.name}.{mark.read_text()}"))
        fresh.rename(data)
        (data / _UPGRADED).unlink()

    def _fresh(self) -> Path:
        return self._paths.pgdata.with_name(f".{self._paths.pgdata.name}.new")

    @contextlib.contextmanager
    def _private(self, file: Path, text: str, account: SystemUser | None) -> Iterator[Path]:
        """Give a file with a password in it, which the server's user alone can read, and remove it."""
        write_private(file, text)
        try:
            if account is not None:
                os.chown(file, account.uid, account.gid)
            yield file
        finally:
            file.unlink(missing_ok=True)

    def _write_conf(self, data: Path, account: SystemUser | None) -> None:
        fsync = "on" if self._is_durable else "off"
        conf = _CONF.format(port=_PORT, sockets=str(self._sockets).replace("'", "''"), fsync=fsync)
        for name, text in (("postgresql.conf", conf), ("pg_hba.conf", "local all all scram-sha-256\n")):
            file = data / name
            if not file.exists() or file.read_text() != text:
                write_private(file, text)
            if account is not None:
                os.chown(file, account.uid, account.gid)

    def _ensure_password(self, data: Path, account: SystemUser | None) -> None:
        """Give the role the password of the secrets file when that was rotated while the server was down."""
        mark = self._password_mark()
        if mark.exists() and mark.read_text() == binaries.fingerprint(self._password):
            return
        escaped = self._password.replace("'", "''")
        self._single(data, f"ALTER ROLE fks WITH PASSWORD '{escaped}';", database="postgres")
        self._write_password_mark(account)

    def _password_mark(self) -> Path:
        return self._paths.home / ".postgres.password-mark"

    def _write_password_mark(self, account: SystemUser | None) -> None:
        write_private(self._password_mark(), binaries.fingerprint(self._password))

    def _single(self, data: Path, statement: str, *, database: str, version: str = binaries.POSTGRES_VERSION) -> None:
        """Run one statement in PostgreSQL's single-user mode: no socket, no password, the text on stdin."""
        self._tool("postgres", "--single", "-D", str(data), "-j", database, text=statement + "\n\n", version=version)

    def _tool(
        self,
        name: str,
        *args: str,
        text: str = "",
        version: str = binaries.POSTGRES_VERSION,
        cwd: Path = Path("/"),
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program of PostgreSQL `version` and return its output. Errors: ConfigError with its last message."""
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [*self._command_prefix(), str(binaries.postgres(name, version)), *args],
            input=text.encode(),
            capture_output=True,
            check=False,
            env={**self.env(), **(env or {})},
            cwd=cwd,
            **binaries.run_as(self.user()),
        )
        output = done.stderr.decode(errors="replace")
        if done.returncode != 0 or "ERROR:" in output or "FATAL:" in output:
            lines = (output or done.stdout.decode(errors="replace")).splitlines()
            last = next((line for line in reversed(lines) if ":" in line), "no output").replace(self._password, "***")
            raise ConfigError(f"PostgreSQL's {name} failed: {last.strip()}", remedy="run 'fks doctor'")
        return done.stdout.decode(errors="replace")


class RedisServer:
    """The node's own Redis: cache and fan-out, nothing on disk, socket in paths.sockets."""

    name = "redis"

    def __init__(self, paths: Paths, secrets: Secrets) -> None:
        self._paths = paths
        self._password = secrets.redis_password.get_secret_value()
        self.socket = paths.sockets / "redis.sock"
        self._conf = paths.redis_dir / "redis.conf"
        self._pidfile = _redis_pidfile(paths)

    def url(self) -> str:
        """Return the URL with the password in it: for node_file and connect, never for logs."""
        return f"unix://:{quote(self._password, safe='')}@{self.socket}?db=0"

    def prepare(self) -> None:
        """Write the configuration (0600, it holds the password). Errors: ConfigError."""
        if self.adopt() is not None:
            return
        own_directory(self._paths.sockets, mode=0o711)
        check_socket(self.socket)
        binaries.redis_server()
        write_private(
            self._conf,
            REDIS_CONF.format(
                socket=self.socket, password=self._password, directory=self._paths.redis_dir, pidfile=self._pidfile
            ),
        )
        self.socket.unlink(missing_ok=True)
        self._pidfile.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """Return the argument list of the server process (no secrets in it)."""
        return [str(binaries.redis_server()), str(self._conf)]

    def env(self) -> dict[str, str]:
        """Return the whole environment of the server process."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}

    def user(self) -> SystemUser | None:
        """Return None: Redis runs as ourselves."""
        return None

    def launch(self, log: Path | None = None) -> Launch:
        """Return how to start the server (after `prepare`), its output appended to `log`."""
        return Launch(self.command(), self.env(), err=log, popen={"cwd": self._paths.redis_dir})

    def is_ready(self) -> bool:
        """Return whether the server answers a PING with our password."""
        return binaries.redis_answers(self.socket, self._password)

    def adopt(self) -> int | None:
        """Return the pid of a living server of ours, also one that a dead keeper left; None without one."""
        return redis_pid(self._paths)

    def stop(self, process: ProcessHandle | int, *, timeout_s: float = 5.0) -> None:
        """Stop a started or adopted server."""
        _stop(process, (signal.SIGTERM,), timeout_s)


def postgres_pid(paths: Paths) -> int | None:
    """Return the pid of a living postmaster on this node's data; needs no secrets."""
    try:
        pid = int((paths.pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if runs_in(pid, "postgres", paths.pgdata) else None


def redis_pid(paths: Paths) -> int | None:
    """Return the pid of this node's living Redis; needs no secrets."""
    try:
        pid = int(_redis_pidfile(paths).read_text())
    except (OSError, ValueError):
        return None
    # one that an earlier build started is adopted, too, and replaced at its next start
    programs = (binaries.VALKEY_SERVER, binaries.REDIS_SERVER)
    return pid if any(runs_in(pid, program, paths.redis_dir) for program in programs) else None


def _redis_pidfile(paths: Paths) -> Path:
    return paths.redis_dir / "redis.pid"


def start_and_wait(
    server: PostgresServer | RedisServer, *, log: Path | None = None, timeout_s: float = 20.0
) -> ProcessHandle:
    """Prepare, start (or adopt) and wait until ready; for tests and commands that need the store while FKS is down.

    Errors: ConfigError when it cannot start, OutageError when it is not ready within `timeout_s`.
    """
    server.prepare()
    adopted = server.adopt()
    process = ProcessHandle.of(adopted) if adopted is not None else None
    is_ours = process is None
    if process is None:
        process = ProcessHandle.spawn(server.launch(log))
    end = time.monotonic() + timeout_s
    while not server.is_ready():
        if not process.is_alive():
            raise ConfigError(f"{server.name} ended at once with status {process.returncode}", remedy=_last_line(log))
        if time.monotonic() > end:
            if is_ours:
                server.stop(process)
            raise OutageError(f"{server.name} is not ready after {timeout_s:g} s", remedy=_last_line(log))
        time.sleep(0.02)
    return process


#: waits for the end of a pipe that only the starter holds, then stops the server $1: unless it ended, or the lock $2
#: says that a keeper uses it
_WATCH = """\
ticks() { cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null; }
started=$(ticks "$1")
read -r _
[ -n "$started" ] && [ "$(ticks "$1")" = "$started" ] || exit 0
if command -v flock >/dev/null && [ -e "$2" ]; then flock -n -s "$2" true || exit 0; fi
kill -INT "$1"
"""


class StoppedWithUs:
    """Stops a server that was started for a command or a notebook when this process dies, however: kill -9 included.

    A shell does it, so it works while this process cannot. `close` ends that shell and leaves the server as it is.
    """

    def __init__(self, process: ProcessHandle, paths: Paths) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "fks-watch", str(process.pid), str(paths.run / "keeper.lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """End the shell. Idempotent."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()


def _stop(process: ProcessHandle | int, signals: tuple[signal.Signals, ...], timeout_s: float) -> None:
    """Send `signals` one after the other until the process ends, giving each `timeout_s`; then kill it."""
    handle = ProcessHandle.of(process) if isinstance(process, int) else process
    if handle is not None:
        handle.stop_blocking([(number, timeout_s) for number in signals])


def _clear_leftovers(data: Path) -> None:
    """Wait for the backends of a postmaster killed with -9 (they notice and leave), kill those that hang, remove the
    pid file.

    PostgreSQL itself refuses to start while one runs, or when the pid was given to another process.
    """
    end = time.monotonic() + LEFTOVERS_S
    while leftovers := [
        p for p in psutil.process_iter(["name"]) if p.info["name"] == "postgres" and runs_in(p.pid, "postgres", data)
    ]:
        if time.monotonic() > end:
            for process in leftovers:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.05)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _pgpass(password: str) -> str:
    """Return `password` as a field of a password file."""
    return password.replace("\\", "\\\\").replace(":", "\\:")


def _last_line(log: Path | None) -> str:
    """Return the last line a failed server wrote, as a remedy."""
    try:
        lines = log.read_text(errors="replace").splitlines() if log is not None else []
    except OSError:
        lines = []
    return f"its last output: {lines[-1].strip()}" if lines else "run 'fks doctor'"
