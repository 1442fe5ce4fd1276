"""PostgreSQL's own programs on our database: psql, pg_dump, pg_restore. The password goes through a 0600 file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from fks.clock import RealClock
from fks.config.paths import Paths
from fks.config.secrets import write_private
from fks.model.errors import ConfigError, OutageError
from fks.model.timeframe import to_datetime
from fks.system.servers import binaries

#: pgvector holds no data of ours, and a server that a backup is restored on may lack it: an upgrade installs it again
_DUMP = ("--format=custom", "--no-owner", "--no-privileges", "--exclude-extension=vector")


@dataclass(frozen=True, slots=True)
class ProgramArguments:
    """Arguments and environment for a program of PostgreSQL: `args` go after its name."""

    args: tuple[str, ...]
    env: Mapping[str, str]


@contextlib.contextmanager
def client(url: str, folder: Path) -> Iterator[ProgramArguments]:
    """Yield the arguments and environment that reach the database of `url`; the password file is removed afterwards.

    Errors: ConfigError when `url` names no database.
    """
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host = query.get("host") or parts.hostname or "localhost"
    port = query.get("port") or str(parts.port or 5432)
    database, user = unquote(parts.path.lstrip("/")), unquote(parts.username or "")
    if not database:
        raise ConfigError("the database URL names no database", remedy="end database.url with /NAME")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pg-", dir=folder) as private:
        passfile = Path(private) / "pass"
        fields = (host, port, database, user, unquote(parts.password or ""))
        write_private(passfile, ":".join(field.replace("\\", "\\\\").replace(":", "\\:") for field in fields) + "\n")
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env |= {"PGPASSFILE": str(passfile), "PGAPPNAME": "fks db", "PGCONNECT_TIMEOUT": "10"}
        if "sslmode" in query:
            env["PGSSLMODE"] = query["sslmode"]
        if "sslrootcert" in query:
            env["PGSSLROOTCERT"] = query["sslrootcert"]
        yield ProgramArguments(("-h", host, "-p", port, *(("-U", user) if user else ()), "-d", database, "-w"), env)


def psql(url: str, folder: Path, extra: Sequence[str] = ()) -> int:
    """Run psql on this terminal and return its exit status."""
    with client(url, folder) as to:
        return subprocess.run(
            [str(binaries.postgres("psql")), *to.args, *extra], env=dict(to.env), check=False
        ).returncode


def dump(url: str, paths: Paths, *, label: str = "backup") -> Path:
    """Write the whole database to a file in FKS_HOME/backups (0600, pg_dump's custom format) and return it.

    The file appears under its name only when it is complete. Errors: OutageError with pg_dump's error.
    """
    paths.backups.mkdir(parents=True, exist_ok=True)
    target = paths.backups / f"{to_datetime(RealClock().now_ns()):%Y%m%dT%H%M%SZ}-{label}.dump"
    partial = target.with_suffix(".part")
    try:
        partial.touch(mode=0o600)
        _run(url, paths, "pg_dump", *_DUMP, f"--file={partial}")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def dump_to(url: str, paths: Paths, file: Path, snapshot: str) -> None:
    """Write the database as of an exported snapshot to a file. Errors: OutageError with pg_dump's error."""
    file.touch(mode=0o600)
    _run(url, paths, "pg_dump", *_DUMP, f"--snapshot={snapshot}", f"--file={file}")


def restore(url: str, paths: Paths, file: Path, *, without: Collection[str] = ()) -> None:
    """Replace the database's content by that of `file`, all or nothing; the tables `without` are left empty.

    Errors: ConfigError, OutageError.
    """
    if not file.is_file():
        raise ConfigError(f"no backup {file}", remedy=f"see {paths.backups}")
    from fks.store.routines import DROP_INFORMATION

    paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=paths.run) as folder:
        script, contents = Path(folder) / "restore.sql", Path(folder) / "contents"
        # an index of vectors needs pgvector, which a restored database has after its next upgrade; it is made again
        _program("pg_restore", "--list", f"--file={contents}", str(file))
        left_out = (" ix_ai_embeddings_hnsw_", *(f" TABLE DATA public {table} " for table in without))
        listed = contents.read_text().splitlines()
        contents.write_text("\n".join(line for line in listed if not any(part in line for part in left_out)) + "\n")
        # not `pg_restore --clean`: it cannot drop partitions; and not into a pipe: half a script would be committed
        _program("pg_restore", "--no-owner", "--no-privileges", f"--use-list={contents}", f"--file={script}", str(file))
        _run(
            url,
            paths,
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            "--command=DROP SCHEMA public CASCADE",
            "--command=CREATE SCHEMA public",
            f"--command={DROP_INFORMATION}",
            f"--file={script}",
        )


def _run(url: str, paths: Paths, program: str, *args: str) -> None:
    with client(url, paths.run) as to:
        _program(program, *to.args, *args, env=to.env)


def _program(program: str, *args: str, env: Mapping[str, str] | None = None) -> None:
    """Run one of PostgreSQL's programs. Errors: OutageError with its error."""
    done = subprocess.run(
        [str(binaries.postgres(program)), *args],
        env=None if env is None else dict(env),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no output")
        raise OutageError(f"{program} failed: {reason}", remedy="see 'fks db status'")
