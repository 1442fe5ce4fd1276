"""Backups: whole, private, and restored all or nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.model.errors import ConfigError, OutageError
from fks.store import migrate
from fks.store.db import Database
from fks.store.partitions import ensure_partitions
from fks.system.servers import backup


async def test_a_restored_backup_is_what_was_kept(database: Database, database_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    await ensure_partitions(database, datetime(2026, 11, 20, tzinfo=UTC))
    await database.sql("INSERT INTO leases (name, epoch) VALUES ('a', 7)")
    file = backup.dump(database_url, paths)
    assert file.stat().st_mode & 0o777 == 0o600
    await database.sql("DELETE FROM leases")
    await database.sql("CREATE TABLE later (n int)")
    await database.close()
    backup.restore(database_url, paths, file)
    again = await Database.connect(database_url)
    assert (await again.sql("SELECT epoch FROM leases"))[0][0] == 7
    assert (await again.sql("SELECT to_regclass('later') IS NULL"))[0][0]
    await again.close()
    assert await migrate.differences(database_url) == []
    assert await migrate.current(database_url) == migrate.head()
    assert list(paths.run.iterdir()) == []


async def test_a_damaged_backup_changes_nothing(database: Database, database_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    await database.sql("INSERT INTO leases (name) VALUES ('a')")
    file = backup.dump(database_url, paths)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(OutageError):
        backup.restore(database_url, paths, file)
    assert (await database.sql("SELECT count(*) FROM leases"))[0][0] == 1
    with pytest.raises(ConfigError, match="no backup"):
        backup.restore(database_url, paths, tmp_path / "nothing")


def test_the_password_is_in_no_argument(database_url: str, tmp_path: Path) -> None:
    with backup.client(database_url, tmp_path) as to:
        password = database_url.split("@")[0].rsplit(":", 1)[1]
        assert password not in " ".join(to.args)
        assert password not in "".join(to.env.values())
        passfile = Path(to.env["PGPASSFILE"])
        assert passfile.stat().st_mode & 0o777 == 0o600
    assert not passfile.exists()


def test_a_failed_dump_leaves_no_file(tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    with pytest.raises(OutageError):
        backup.dump("postgresql://u:p@/x?host=/nonexistent", paths)
    assert list(paths.backups.iterdir()) == []
