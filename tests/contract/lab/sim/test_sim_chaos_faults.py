"""Faults that `fks chaos run` injects, on a real exchange and a real database: each is counted and ends alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.lab.chaos.faults import Injector
from fks.lab.chaos.outside import Outside
from fks.lab.chaos.plan import Injection
from fks.lab.chaos.space import fill_disk, free_disk
from fks.lab.chaos.watch import ObservedState, Watch
from fks.model.errors import OutageError
from tests.support.sim_process import Sim
from tests.support.waiting import until

ORDER = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.001",
    "price": "30000",
}


@pytest.fixture
async def outside(tmp_path: Path, sim: Sim, database_url: str) -> AsyncIterator[Outside]:
    """Reach an exchange and a database as `fks chaos run` does; nothing else of a system runs."""
    paths = Paths.of(tmp_path)
    paths.run.mkdir(parents=True, exist_ok=True)
    save_node(paths, NodeEndpoints(database_url, "redis://127.0.0.1:1", "", {}, sim=dict(sim.info)))
    made = Outside(paths, RealClock())
    yield made
    await made.close()


def injector(outside: Outside) -> Injector:
    """Return an injector for a system that is always well."""
    watch = Watch(outside)
    watch.view = ObservedState(float("inf"), has_feeds=True, has_venues=True, is_database_up=True)
    return Injector(outside, watch, strike_s=2.0)


async def test_a_fault_that_struck_nothing_has_no_recovery(outside: Outside, sim: Sim) -> None:
    found = await injector(outside).perform(Injection(1, 0.0, "order-fault", "http_500", 0.1))
    assert (found.struck, found.is_injected, found.recovered_s, found.error) == (0, False, None, "")
    assert sim.get("/sim/faults") == []


async def test_a_fault_is_held_until_it_struck(outside: Outside, sim: Sim) -> None:
    task = asyncio.create_task(injector(outside).perform(Injection(1, 0.0, "order-fault", "hide_order", 0.0)))
    await until(lambda: len(sim.get("/sim/faults")) == 2)
    with contextlib.suppress(ConnectionError):  # the answer is cut, so that the order is asked about
        await asyncio.to_thread(sim.signed, "POST", "/api/v3/order", **ORDER, newClientOrderId="asked")
    status, _ = await asyncio.to_thread(sim.signed, "GET", "/api/v3/order", symbol="BTCUSDT", origClientOrderId="asked")
    found = await task
    assert (status, found.struck, found.is_injected) == (400, 1, True)
    assert found.recovered_s is not None
    assert sim.get("/sim/faults") == []


async def test_the_end_of_one_injection_leaves_the_others(outside: Outside, sim: Sim) -> None:
    faults = injector(outside)
    long, short = (
        asyncio.create_task(faults.perform(Injection(number, 0.0, "clock", "sim", seconds, amount)))
        for number, seconds, amount in ((1, 600.0, 3.0), (2, 0.2, 2.0))
    )
    await until(lambda: len(sim.get("/sim/faults")) == 2)
    sim.call("GET", "/api/v3/time")
    await short
    assert [row["seconds"] for row in sim.get("/sim/faults")] == [3.0]
    await faults.restore()
    assert sim.get("/sim/faults") == []
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)


async def test_a_cut_of_no_connection_is_no_fault(outside: Outside) -> None:
    with pytest.raises(OutageError, match="no connection"):
        await asyncio.wait_for(_cut(outside), 5)


async def _cut(outside: Outside) -> None:
    from fks.lab.chaos.links import cut_streams
    from fks.lab.chaos.observed_system import ObservedSystem

    await cut_streams(ObservedSystem(outside, Watch(outside)), Injection(1, 0.0, "cut-streams", "sim"))


async def test_the_end_of_one_full_disk_leaves_the_other(outside: Outside) -> None:
    async def is_refused() -> bool:
        try:
            await outside.sql("UPDATE positions SET quantity = 0")
        except OutageError as error:
            return "No space left" in str(error)
        return False

    await fill_disk(outside, 1, 60.0)
    await fill_disk(outside, 12, 60.0)
    await free_disk(outside, 1)
    assert await is_refused()
    await free_disk(outside, 12)
    assert not await is_refused()
    await fill_disk(outside, 3, 60.0)
    await free_disk(outside)
    assert not await is_refused()
