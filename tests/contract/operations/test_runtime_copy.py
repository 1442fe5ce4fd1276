"""A process starts with the newest version, whether or not the database is there to tell."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fks.config.paths import Paths
from fks.config.settings import Database as DatabaseSettings
from fks.config.settings import Settings
from fks.model.errors import ConfigError
from fks.store.db import Database
from fks.store.runtime_config import RuntimeConfigStore, copy_file, overlaid, propose

CHANGES = {"venue.sweep_s": {"from": None, "to": 7.0}}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path).ensure()


async def nowhere() -> Database:
    return await Database.lazy("postgresql://u:p@127.0.0.1:1/none", DatabaseSettings(retry_s=5.0))


async def test_the_database_says_and_the_copy_says_it_again_when_it_is_away(database: Database, paths: Paths) -> None:
    files = Settings(home=paths.home)
    assert (await overlaid(files, paths, database)).version == 0
    version, _ = await propose(database, {"venue.sweep_s": 7.0}, CHANGES, base_version=0, changed_by="a", reason="r")
    found = await overlaid(files, paths, database)
    assert (found.version, found.source, found.settings.venue.sweep_s) == (version.version, "database", 7.0)
    assert stat.S_IMODE(copy_file(paths).stat().st_mode) == 0o600
    away = await nowhere()
    try:
        copied = await overlaid(files, paths, away)
    finally:
        await away.close()
    assert (copied.version, copied.source, copied.settings) == (version.version, "copy", found.settings)


async def test_a_version_that_failed_is_nobodys(database: Database, paths: Paths) -> None:
    version, _ = await propose(database, {"venue.sweep_s": 7.0}, CHANGES, base_version=0, changed_by="a", reason="r")
    await overlaid(Settings(home=paths.home), paths, database)
    await RuntimeConfigStore(database).fail(version.version, "no")
    found = await overlaid(Settings(home=paths.home), paths, database)
    assert (found.version, found.settings) == (0, Settings(home=paths.home))


async def test_a_damaged_copy_costs_the_copy_and_not_the_start(paths: Paths) -> None:
    copy_file(paths).write_text("{")
    copy_file(paths).chmod(0o600)
    away = await nowhere()
    try:
        assert (await overlaid(Settings(home=paths.home), paths, away)).version == 0
    finally:
        await away.close()


async def test_a_version_that_does_not_fit_the_nodes_own_files_refuses_the_start(database: Database, paths: Paths) -> None:
    await propose(database, {"data.stale_min_s": 60.0}, CHANGES, base_version=0, changed_by="a", reason="r")
    files = Settings(home=paths.home, data={"stale_max_s": 20.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="runtime version 1 does not fit"):
        await overlaid(files, paths, database)
