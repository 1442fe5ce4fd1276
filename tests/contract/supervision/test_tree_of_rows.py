"""The tree that rows ask for: a collector for each exchange that has something to collect, NinjaTrader's included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from actors.tree import want
from fks.config.settings import Ninja, Settings, Strategies
from fks.store.assets import Asset, AssetStore
from fks.store.db import Database
from fks.store.strategies import NewInstance, StrategyStore
from fks.supervision import SupervisorSpec
from tests.support.ports import CollectingLog
from tests.support.strategies import add_account, add_instance

ES = "ES 12-26"


def wanted_by(database: Database, settings: Settings | None = None) -> Callable[[], Awaitable[SupervisorSpec]]:
    component: Any = SimpleNamespace(
        db=database, settings=settings or Settings(ninja=Ninja(enabled=True)), log=CollectingLog()
    )
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


async def test_a_worker_that_joins_or_leaves_moves_as_few_instances_as_possible(database: Database) -> None:
    await add_account(database)
    store = StrategyStore(database)
    for name in "abcde":
        await add_instance(database, name, "sma_cross", {"fast": 2, "slow": 3})

    async def workers(count: int) -> dict[str, int]:
        tree = await wanted_by(database, Settings(strategies=Strategies(workers=count)))()
        assert [child.args for child in tree.workers() if child.role == "strategy"] == [(str(n),) for n in range(count)]
        return await store.workers()

    assert await workers(1) == dict.fromkeys("abcde", 0)
    two = await workers(2)
    assert two == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
    three = await workers(3)
    assert three == two | {"c": 2}
    assert await workers(3) == three
    assert await workers(2) == two
    assert await workers(1) == dict.fromkeys("abcde", 0)


async def test_a_new_instance_goes_to_the_worker_with_the_fewest(database: Database) -> None:
    await add_account(database)
    store = StrategyStore(database)
    for name in "abc":
        await add_instance(database, name, "sma_cross", {"fast": 2, "slow": 3})
    await store.assign({"b": 1, "c": 1})
    added = NewInstance("d", "sma_cross", {}, "binance", "BTC/USDT", "1m", "demo")
    async with database.transaction() as tx:
        assert await StrategyStore(tx).add(added, by="test")
    assert (await store.workers())["d"] == 0
