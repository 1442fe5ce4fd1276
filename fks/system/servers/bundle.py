"""Backups of a node: the database as of one moment, proven by a restore into a scratch database; and, when they are
encrypted, the files of FKS_HOME that cannot be made again: secrets, settings, strategies, keys.

The format is age (https://age-encryption.org/v1) around a tar: `age --decrypt` opens it without FKS. It is encrypted to
a public key, so the node that makes backups cannot read them; the key file belongs outside of FKS_HOME.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final
from urllib.parse import urlsplit, urlunsplit

from fks.clock import Clock
from fks.config.paths import Paths
from fks.config.secrets import write_private
from fks.config.settings import Settings
from fks.model.errors import ConfigError, FksError, OutageError
from fks.model.timeframe import iso, to_datetime
from fks.store.db import Database
from fks.system.servers import backup

DUMP: Final = "database.dump"
MANIFEST: Final = "manifest.json"
ENCRYPTED: Final = ".age"
#: Files of FKS_HOME that a restored node must not take over: they name a machine, a process or a state of its database.
_NOT_KEPT: Final = frozenset(
    {"machine.id", "database.json", "cli.token", "ray.token", ".postgres.password-mark", ".postgres.lock"}
)
#: The key of encrypted rows is kept apart from them (docs/security.md), whatever `venue.credentials_key_file` calls it.
_KEY_MARK: Final = b"# Encrypts the keys of venues in the database."
_FILE_MAX: Final = 1_000_000
_SCRATCH: Final = "fks_check_"
#: A scratch restore needs so many times the size of the database on the disk.
_SPACE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a backup. `rows`: of each table at its moment; `is_verified`: a restore gave the same ones, `why`
    it was not tried or did not."""

    at: str
    fks: str
    revision: str | None
    rows: Mapping[str, int] = field(default_factory=dict)
    is_verified: bool = False
    why: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup."""

    file: Path
    manifest: Manifest


# ── making ───────────────────────────────────────────────────────────────────────────────────────
async def make(url: str, paths: Paths, settings: Settings, *, label: str, clock: Clock) -> Made:
    """Write a backup into the folder of the settings and return it; it appears there only when it is complete.

    Errors: OutageError with the error of PostgreSQL's program; ConfigError for a wrong recipient.
    """
    from fks import __version__

    folder = folder_of(paths, settings)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    recipient = None if settings.backup.recipient is None else recipient_of(settings.backup.recipient)
    now = to_datetime(clock.now_ns())
    name = f"{now:%Y%m%dT%H%M%SZ}-{label}"
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=folder) as private:
        dump = Path(private) / DUMP
        db = await Database.connect(url, settings.database, application="backup", retry_s=5.0)
        try:
            rows, revision = await _dump(db, url, paths, dump)
            is_verified, why = False, "backup.verify is off"
            if settings.backup.verify:
                is_verified, why = await _verify(db, url, paths, dump, rows, is_own=settings.database.url is None)
        finally:
            await db.close()
        kept = dict(_files(paths)) if recipient is not None else {}
        manifest = Manifest(iso(clock.now_ns()), __version__, revision, rows, is_verified, why, tuple(sorted(kept)))
        if recipient is None:
            file, part = folder / f"{name}.dump", dump
        else:
            file, part = folder / f"{name}{ENCRYPTED}", Path(private) / "archive"
            await asyncio.to_thread(_seal, part, dump, manifest, kept, recipient)
        write_private(folder / f"{file.name}.json", json.dumps(asdict(manifest), indent=1) + "\n")
        part.chmod(0o600)
        _sync(part)
        part.rename(file)
    return Made(file, manifest)


def folder_of(paths: Paths, settings: Settings) -> Path:
    """Return where backups are."""
    return paths.backups if settings.backup.folder is None else settings.backup.folder.expanduser()


def prune(folder: Path, *, label: str, keep: int) -> list[str]:
    """Remove the oldest backups of a label beyond `keep` and return their names."""
    found = sorted(file for end in (".dump", ENCRYPTED) for file in folder.glob(f"*-{label}{end}"))
    for old in found[:-keep]:
        old.unlink(missing_ok=True)
        old.with_name(f"{old.name}.json").unlink(missing_ok=True)
    return [old.name for old in found[:-keep]]


async def _dump(db: Database, url: str, paths: Paths, file: Path) -> tuple[dict[str, int], str | None]:
    """Dump the database as of one moment; return the rows of each table and the revision at that moment."""
    async with db.transaction(isolation="repeatable_read", is_readonly=True) as tx:
        await tx.sql("SET LOCAL statement_timeout = 0")
        await tx.sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        snapshot = str((await tx.sql("SELECT pg_export_snapshot() AS id"))[0]["id"])
        rows = await _count(tx)
        revision = None
        if rows.get("alembic_version"):
            revision = str((await tx.sql("SELECT version_num FROM alembic_version"))[0]["version_num"])
        await asyncio.to_thread(backup.dump_to, url, paths, file, snapshot)
    return rows, revision


async def _count(db: Any) -> dict[str, int]:
    """Return the number of rows of each table; a partitioned one counts once."""
    names = await db.sql(
        "SELECT c.relname AS name FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"
    )
    found = {}
    for row in names:
        name = str(row["name"])
        counted = await db.sql(f'SELECT count(*) AS n FROM public."{name}"')  # noqa: S608  a name of the catalogue
        found[name] = int(counted[0]["n"])
    return found


async def _verify(
    db: Database, url: str, paths: Paths, dump: Path, rows: Mapping[str, int], *, is_own: bool
) -> tuple[bool, str]:
    """Restore a dump into a scratch database of the same server and compare the rows. Return whether they are equal,
    and else why not, or why it could not be tried."""
    if await db.sql("SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        return False, "not tried: a scratch restore of hypertables is not supported"
    if is_own and (lacking := await _lacks_space(db, paths)):
        return False, f"not tried: {lacking}"
    name = _SCRATCH + uuid.uuid4().hex[:12]
    try:
        for left in await db.sql("SELECT datname AS name FROM pg_database WHERE starts_with(datname, $1)", _SCRATCH):
            await db.sql(f'DROP DATABASE IF EXISTS "{left["name"]}" WITH (FORCE)')
        await db.sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
    except Exception as error:  # a role without the right to make databases, a pooler in between
        return False, f"not tried: no scratch database could be made ({type(error).__name__}: {error})"[:300]
    scratch = _database(url, name)
    try:
        await asyncio.to_thread(backup.restore, scratch, paths, dump)
        other = await Database.connect(scratch, application="backup check", retry_s=5.0)
        try:
            async with other.transaction(is_readonly=True) as tx:
                await tx.sql("SET LOCAL statement_timeout = 0")
                restored = await _count(tx)
        finally:
            await other.close()
    except FksError as error:
        return False, f"the restore failed: {error}"[:300]
    finally:
        with contextlib.suppress(Exception):  # the next check drops what is left
            await db.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
    if restored != dict(rows):
        wrong = sorted(table for table in {*rows, *restored} if rows.get(table) != restored.get(table))
        return False, f"the restore has other rows in {', '.join(wrong[:5])}"
    return True, ""


async def _lacks_space(db: Database, paths: Paths) -> str:
    """Return why the disk is too small for a scratch restore; empty when it is not."""
    size = int((await db.sql("SELECT pg_database_size(current_database()) AS size"))[0]["size"])
    found = os.statvfs(paths.home)
    free = found.f_bavail * found.f_frsize
    if free >= _SPACE * size + 1e9:
        return ""
    return f"the database has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free under {paths.home}"


def _database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _files(paths: Paths) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of FKS_HOME that a backup holds."""
    tops = [path for path in paths.home.iterdir() if path.name not in _NOT_KEPT] if paths.home.is_dir() else []
    below = [path for path in paths.strategies.rglob("*") if "__pycache__" not in path.parts]
    for path in sorted({*tops, *below}):
        with contextlib.suppress(OSError):
            is_kept = path.is_file() and not path.is_symlink() and path.stat().st_size <= _FILE_MAX
            if is_kept and path != paths.credentials_key and not (content := path.read_bytes()).startswith(_KEY_MARK):
                yield str(path.relative_to(paths.home)), content


def _sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ── encryption ───────────────────────────────────────────────────────────────────────────────────
def make_key(file: Path, paths: Paths, passphrase: str | None = None) -> str:
    """Write a new key file (0600), protected by a passphrase when one is given; return its public key.

    Errors: ConfigError for a place inside FKS_HOME, or where there is a file already.
    """
    from pyrage import passphrase as protected
    from pyrage import x25519

    place = file.expanduser().absolute()
    if place.resolve().is_relative_to(paths.home.resolve()):
        raise ConfigError(
            f"{file} is inside FKS_HOME: whoever has that has the backups as well",
            remedy="choose a place outside, better on another machine",
        )
    if place.exists():
        raise ConfigError(
            f"there is a file {file} already", remedy="choose another name; a lost key cannot be made again"
        )
    identity = x25519.Identity.generate()
    public = str(identity.to_public())
    text = f"# public key: {public}\n{identity}\n".encode()
    data = text if passphrase is None else protected.encrypt(text, passphrase)
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return public


def recipient_of(text: str) -> Any:
    """Return a public key. Errors: ConfigError."""
    from pyrage import RecipientError, x25519

    try:
        return x25519.Recipient.from_str(text.strip())
    except RecipientError as error:
        raise ConfigError(
            f"backup.recipient is no public key of age: {error}", remedy="'fks db backup-key FILE' makes one: age1…"
        ) from error


def is_protected(file: Path) -> bool:
    """Return whether a key file needs a passphrase. Errors: ConfigError when there is none."""
    return _read(file).startswith(b"age-encryption.org/")


def identity_of(file: Path, passphrase: str | None = None) -> Any:
    """Return the key of a key file. Errors: ConfigError when there is none, or the passphrase is wrong or missing."""
    from pyrage import DecryptError, IdentityError, x25519
    from pyrage import passphrase as protected

    data = _read(file)
    try:
        if data.startswith(b"age-encryption.org/"):
            if passphrase is None:
                raise ConfigError(f"{file} needs its passphrase", remedy="give it when asked, or by --passphrase-file")
            data = protected.decrypt(data, passphrase)
        lines = [line.strip() for line in data.decode().splitlines()]
        return x25519.Identity.from_str(next(line for line in lines if line.startswith("AGE-SECRET-KEY-")))
    except (DecryptError, IdentityError, UnicodeDecodeError, StopIteration) as error:
        raise ConfigError(
            f"{file} is no key of age, or the passphrase is wrong", remedy="use the file that 'fks db backup-key' wrote"
        ) from error


def _read(file: Path) -> bytes:
    try:
        return file.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"the key file {file} cannot be read: {error}", remedy="name it with --key") from error


def _seal(target: Path, dump: Path, manifest: Manifest, files: Mapping[str, bytes], recipient: Any) -> None:
    """Write the encrypted tar of a dump and the files of a home, without holding them in memory."""
    from pyrage import encrypt_io

    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, target.open("wb") as sealed:
        packer = _Packer(writing, dump, manifest, files)
        packer.start()
        encrypt_io(source, sealed, [recipient])
        packer.join()
    if packer.error is not None:
        raise OutageError(f"the backup could not be packed: {packer.error}", remedy="see the free space of the disk")


class _Packer(threading.Thread):
    """Writes the tar into a pipe, beside the encryption that reads it."""

    def __init__(self, pipe: int, dump: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._dump, self._manifest, self._files = pipe, dump, manifest, files
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with os.fdopen(self._pipe, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
                _add(tar, MANIFEST, json.dumps(asdict(self._manifest)).encode())
                for name, data in self._files.items():
                    _add(tar, f"home/{name}", data)
                tar.add(self._dump, DUMP, filter=_anonymous)
        except Exception as error:
            self.error = error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    item = tarfile.TarInfo(name)
    item.size, item.mode = len(data), 0o600
    tar.addfile(item, io.BytesIO(data))


def _anonymous(item: tarfile.TarInfo) -> tarfile.TarInfo:
    item.uid = item.gid = 0
    item.uname = item.gname = ""
    return item


# ── restoring ────────────────────────────────────────────────────────────────────────────────────
@contextlib.contextmanager
def opened(file: Path, paths: Paths, identity: Any = None) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Yield the dump of a backup and the files of its home by their relative path; both are removed afterwards.

    Errors: ConfigError for a file that is no backup, or is encrypted to another key.
    """
    if not file.is_file():
        raise ConfigError(f"no backup {file}", remedy=f"see {paths.backups}")
    if file.suffix != ENCRYPTED:
        yield file, {}
        return
    if identity is None:
        raise ConfigError(f"{file} is encrypted", remedy="name the key file with --key")
    from pyrage import DecryptError, decrypt_file

    paths.ensure()
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=paths.run) as private:
        archive, dump = Path(private) / "archive", Path(private) / DUMP
        try:
            decrypt_file(str(file), str(archive), [identity])
        except (DecryptError, OSError) as error:
            raise ConfigError(
                f"{file} cannot be decrypted: {error}", remedy="use the key that it was made for; it may be damaged"
            ) from error
        try:
            files = _unpacked(archive, dump)
        except tarfile.TarError as error:
            raise ConfigError(f"{file} is damaged: {error}", remedy="use another backup") from error
        archive.unlink()
        if not dump.is_file():
            raise ConfigError(f"{file} holds no database", remedy="use another backup")
        yield dump, files


def _unpacked(archive: Path, dump: Path) -> dict[str, bytes]:
    """Write the dump of a tar to its place, and return the home's files."""
    files = {}
    with tarfile.open(archive, mode="r:") as tar:
        for item in tar:
            stream: IO[bytes] | None = tar.extractfile(item) if item.isreg() else None
            if stream is None:
                continue
            if item.name == DUMP:
                dump.touch(mode=0o600)
                with dump.open("wb") as target:
                    shutil.copyfileobj(stream, target)
            elif item.name.startswith("home/"):
                files[item.name.removeprefix("home/")] = stream.read()
    return files


def put_files(files: Mapping[str, bytes], paths: Paths, *, replace: bool = False) -> tuple[list[str], list[str]]:
    """Write the files of a backup into FKS_HOME (0600); return those written and those that were kept because others of
    that name are there (`replace` writes them too)."""
    written, kept = [], []
    paths.ensure()
    for name, data in sorted(files.items()):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise ConfigError(f"the backup names a file outside of FKS_HOME: {name}", remedy="do not trust this backup")
        place = paths.home / parts
        if place.exists() and place.read_bytes() == data:
            continue
        if place.exists() and not replace:
            kept.append(name)
            continue
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        place.chmod(0o600)
        written.append(name)
    return written, kept
