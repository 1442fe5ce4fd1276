"""A PostgreSQL with an asynchronous standby behind one address that a test moves from one to the other."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg

from fks.config.paths import Paths
from fks.config.secrets import load_secrets
from fks.system.process.handle import ProcessHandle
from fks.system.servers import binaries
from fks.system.servers.embedded import PostgresServer, start_and_wait
from tests.support import servers
from tests.support.waiting import until

_HBA = "local all all scram-sha-256\nlocal replication all scram-sha-256\n"


class _Replicating(PostgresServer):
    """The embedded server with settings that let it send and replay WAL."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths, load_secrets(paths), is_durable=False)
        self._hba = paths.home / "replication_hba.conf"
        self._hba.write_text(_HBA)
        self._hba.chmod(0o644)

    def command(self) -> list[str]:
        settings = ("wal_level=replica", "max_wal_senders=4", "hot_standby=on", f"hba_file={self._hba}")
        return [*super().command(), *(part for setting in settings for part in ("-c", setting))]

    def tool(self, name: str, *args: str, password: str) -> None:
        """Run a PostgreSQL program as the server's user."""
        before = super().command()[:-3]
        done = subprocess.run(
            [*before, str(binaries.postgres(name)), *args],
            check=False,
            capture_output=True,
            cwd="/",
            env={**self.env(), "PGPASSWORD": password},
            **binaries.run_as(self.user()),
        )
        assert done.returncode == 0, done.stderr.decode()


class ReplicatedPostgres:
    """Starts with the primary alone. `url` is one address for both: a link that `fail_over` moves."""

    def __init__(self, first: Paths, second: Paths, link: Path) -> None:
        self._paths, self._link = (first, second), link
        self._servers = [_Replicating(first)]
        self._password = load_secrets(first).postgres_password.get_secret_value()
        self._primary = start_and_wait(self._servers[0], log=first.logs / "postgres.log")
        self._standby: ProcessHandle | None = None
        self._point_to(first)

    @property
    def url(self) -> str:
        return self._url(self._link)

    def _url(self, sockets: Path) -> str:
        return f"postgresql://fks:{quote(self._password, safe='')}@/fks?host={quote(str(sockets), safe='')}&port=5432"

    def _point_to(self, paths: Paths) -> None:
        fresh = self._link.with_name(self._link.name + ".new")
        fresh.symlink_to(paths.sockets / "pg")
        fresh.rename(self._link)

    def start_standby(self) -> None:
        """Copy the primary with pg_basebackup, and start the copy as its asynchronous standby."""
        first, second = self._paths
        for name in ("secrets.toml", ".postgres.password-mark"):
            shutil.copy2(first.home / name, second.home / name)
        server = _Replicating(second)
        account = server.user()
        copied = second.home / "basebackup"
        copied.mkdir(mode=0o700)
        if account is not None:
            shutil.chown(copied, account.uid, account.gid)
        server.tool(
            "pg_basebackup",
            "-D",
            str(copied),
            "-X",
            "stream",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
            "-h",
            str(first.sockets / "pg"),
            "-U",
            "fks",
            "-w",
            password=self._password,
        )
        copied.rename(second.pgdata)
        self._servers.append(server)
        self._standby = start_and_wait(server, log=second.logs / "postgres.log")

    async def caught_up(self) -> None:
        """Wait until the standby has replayed what the primary has committed by now."""
        primary = await asyncpg.connect(self._url(self._paths[0].sockets / "pg"))
        standby = await asyncpg.connect(self._url(self._paths[1].sockets / "pg"))
        try:
            lsn = await primary.fetchval("SELECT pg_current_wal_insert_lsn()::text")
            await until(lambda: standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", lsn))
        finally:
            await primary.close()
            await standby.close()

    def stop_standby(self) -> None:
        """Stop the standby: later commits of the primary do not reach it any more."""
        assert self._standby is not None
        self._servers[1].stop(self._standby)

    def fail_over(self) -> None:
        """Kill the primary with kill -9, promote the standby, and move the address to it."""
        assert self._primary.send(signal.SIGKILL)
        assert self._primary.wait(10)
        self._standby = start_and_wait(self._servers[1], log=self._paths[1].logs / "postgres.log")
        self._servers[1].tool("pg_ctl", "promote", "-w", "-D", str(self._paths[1].pgdata), password="")
        self._point_to(self._paths[1])

    def stop(self) -> None:
        """Stop both."""
        for server in self._servers:
            if (pid := server.adopt()) is not None:
                server.stop(pid)


@contextlib.contextmanager
def replicated_postgres() -> Iterator[ReplicatedPostgres]:
    """Give a primary in a home of its own, which may get a standby; both are stopped at the end."""
    with servers.home() as first, servers.home() as second:
        postgres = ReplicatedPostgres(first, second, first.home / "address")
        try:
            yield postgres
        finally:
            postgres.stop()
