"""The tree that rows ask for: a collector for each exchange that has something to collect, NinjaTrader's included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from actors.tree import want
from fks.config.settings import Ninja, Settings
from fks.store.assets import Asset, AssetStore
from fks.store.db import Database
from fks.supervision import SupervisorSpec

ES = "ES 12-26"


def wanted_by(database: Database) -> Callable[[], Awaitable[SupervisorSpec]]:
    component: Any = SimpleNamespace(db=database, settings=Settings(ninja=Ninja(enabled=True)))
    return want(component)


async def ids(wanted: Callable[[], Awaitable[SupervisorSpec]]) -> list[str]:
    return [worker.id for worker in (await wanted()).workers()]


async def test_the_first_contract_that_is_enabled_starts_the_collector_of_ninjatrader(database: Database) -> None:
    wanted = wanted_by(database)
    assert "ninja:sim" in await ids(wanted)
    assert "collector:ninja" not in await ids(wanted)
    async with database.transaction() as tx:
        await AssetStore(tx).enable(Asset("ninja", ES, ("1m",), channels=("trades", "quotes")), [], 0)
    assert "collector:ninja" in await ids(wanted)
    async with database.transaction() as tx:
        await AssetStore(tx).disable(Asset("ninja", ES, ("1m",), channels=("trades", "quotes")))
    assert "collector:ninja" not in await ids(wanted)
