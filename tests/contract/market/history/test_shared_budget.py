"""Every process that requests from an exchange takes from its shared budget, whose size the settings can set."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.config.settings import Data, Settings
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, run
from fks.market.history.gaps import DAY_NS
from fks.market.history.limited_exchange import budget_for
from fks.market.history.request import fetch_history
from fks.store.bus import Bus
from fks.store.db import Database
from fks.system.rate_limits.budgets import bucket_of
from tests.support.budgets import Impatient, at_once, connect_at_once
from tests.support.collecting import settings_for
from tests.support.local_exchange import LocalExchange


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    made = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "9", "--rate-limits", "off"]).start()
    yield made
    made.stop()


@pytest.fixture
def home(tmp_path: Path, database_url: str, redis_url: str) -> Paths:
    """The home of a node that runs, as far as its database and its Redis."""
    paths = Paths.of(tmp_path)
    save_node(paths, NodeEndpoints(database_url, redis_url, "", {}))
    return paths


async def spent(bus: Bus, address: str) -> bool:
    """Return whether anything was ever taken from the budget of an address; it is empty afterwards."""
    bucket = bucket_of("binance", address)
    is_spent = bool(await bus.fields(bucket))
    await bus.delete(bucket)
    return is_spent


async def test_notebook_takes_from_the_shared_budget(
    database: Database, bus: Bus, home: Paths, exchange: LocalExchange
) -> None:
    rest = exchange.info["rest"]
    assert not await spent(bus, rest)
    start_ns = RealClock().now_ns() - DAY_NS
    done = await fetch_history(database, settings_for(exchange.info), home, "BTCUSDT", "1h", start_ns=start_ns)
    assert done["fetched"] > 0
    assert await spent(bus, rest)


async def test_recording_takes_from_the_shared_budget(
    bus: Bus, home: Paths, exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FKS_DATA_REST_URL", exchange.info["rest"])
    monkeypatch.setenv("FKS_DATA_WS_URL", exchange.info["ws"])
    arguments = [
        "--home",
        str(home.home),
        "data",
        "record",
        "BTCUSDT",
        "--seconds",
        "2",
        "--to",
        str(tmp_path / "tape"),
    ]
    assert await asyncio.to_thread(run, cli, arguments) == OK
    assert await spent(bus, exchange.info["rest"])


async def at_once_at_most(bus: Bus, data: Data, most: int) -> int:
    """Return how many requests to polygon get leave before one has to wait."""
    budget, count = budget_for(bus, Impatient(), Settings(data=data), None, "polygon"), 0
    while count < most and await at_once(budget):
        count += 1
    return count


async def test_paid_plan_is_not_held_to_the_free_plans_limit(bus: Bus) -> None:
    assert await at_once_at_most(bus, Data(polygon_api_key="one"), 30) == 30


async def test_settings_set_the_requests_per_minute(bus: Bus) -> None:
    data = Data(polygon_api_key="two", requests_per_minute="polygon=5, kraken=600")
    assert data.requests_per_minute == {"polygon": 5, "kraken": 600}
    assert 3 <= await at_once_at_most(bus, data, 20) <= 6  # a new minute may begin meanwhile


async def test_connects_are_limited_at_a_real_exchange_and_not_at_the_local(bus: Bus, tmp_path: Path) -> None:
    where = "http://127.0.0.1:9/" + tmp_path.name
    node = NodeEndpoints("", "", "", {}, sim={"rest": where, "ws": "ws://127.0.0.1:9"})
    kraken = Settings(data=Data(endpoints=(f"kraken {where} ws://127.0.0.1:9",)))
    real, local = (
        budget_for(bus, Impatient(), kraken, None, "kraken"),
        budget_for(bus, Impatient(), Settings(), node, "binance"),
    )
    count = 0
    while count < 30 and await connect_at_once(real):
        count += 1
    assert 12 <= count <= 24  # a new minute may begin meanwhile
    assert all([await connect_at_once(local) for _ in range(500)])
