"""A process starts with the newest version, with or without the database."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import tree
from actors.shell import Shell
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import DatabaseSettings, Settings
from fks.model.errors import ConfigError, OutageError
from fks.store.db import Database
from fks.store.runtime_config import RuntimeConfigStore, copy_file, overlaid, propose
from fks.system.runtime import Component
from tests.support import servers
from tests.support.waiting import until

CHANGES = {"venue.sweep_s": {"from": None, "to": 7.0}}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path).ensure()


async def nowhere() -> Database:
    return await Database.lazy("postgresql://u:p@127.0.0.1:1/none", DatabaseSettings(retry_s=5.0))


async def test_settings_come_from_the_copy_while_the_database_is_away(database: Database, paths: Paths) -> None:
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


async def test_a_version_that_does_not_fit_the_nodes_own_files_refuses_the_start(
    database: Database, paths: Paths
) -> None:
    await propose(database, {"data.stale_min_s": 60.0}, CHANGES, base_version=0, changed_by="a", reason="r")
    files = Settings(home=paths.home, data={"stale_max_s": 20.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="runtime version 1 does not fit"):
        await overlaid(files, paths, database)


async def test_leased_child_does_not_start_with_settings_from_before_an_outage(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[Component] = []

    class Child:
        is_ready = True

        def __init__(self, component: Component, args: tuple[str, ...]) -> None:
            began.append(component)

        async def start(self) -> None: ...

        async def run(self) -> None:
            await asyncio.Event().wait()

        async def stop(self) -> None: ...

        def detail(self) -> dict[str, object]:
            return {}

    async def renew() -> None: ...

    async def keep() -> None:
        await asyncio.Event().wait()

    with servers.home() as home:
        save_node(
            home.ensure(), NodeEndpoints("postgresql://fks@127.0.0.1:1/fks", "redis://127.0.0.1:1/0", "127.0.0.1:1", {})
        )
        opened = await Component.open("child:late", home=str(home.home))  # PostgreSQL is away, and there is no copy
        assert (opened.config_version, opened.is_config_current) == (0, False)
        with pytest.raises(OutageError):
            await opened.with_current_config()
        version, _ = await propose(
            database, {"venue.sweep_s": 7.0}, CHANGES, base_version=0, changed_by="a", reason="r"
        )
        lease: Any = SimpleNamespace(renew=renew, keep=keep, holds=lambda: True)
        back = replace(opened, db=database, lease=lease)

        async def open_(name: str, **options: object) -> Component:
            return back

        monkeypatch.setenv("FKS_HOME", str(home.home))
        monkeypatch.setattr(Component, "open", staticmethod(open_))
        monkeypatch.setattr(Database, "close", lambda self: asyncio.sleep(0))
        monkeypatch.setitem(tree.CLASSES, "late", Child)
        shell = Shell("late", "child:late", (), 1, True, 0.0, lambda role, component: {})
        await until(lambda: len(began) == 1)
        assert (began[0].config_version, began[0].settings.venue.sweep_s) == (version.version, 7.0)
        assert (await shell.health())["config_version"] == version.version
        await shell.stop()
        assert await shell.join() == "normal"
        monkeypatch.undo()
