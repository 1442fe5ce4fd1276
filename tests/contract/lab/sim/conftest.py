"""Exchanges for the tests of the local exchange: one that most share, and a starter for tests that need their own."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sim_process import Sim, binance


@pytest.fixture
def start_sim(tmp_path: Path) -> Iterator[Callable[..., Sim]]:
    """Start exchanges of one's own; they end with the test."""
    running: list[Sim] = []

    def start(*flags: str, name: str = "sim") -> Sim:
        running.append(Sim(tmp_path / name, *flags))
        return running[-1]

    yield start
    for sim in running:
        if sim.process is not None and sim.process.poll() is None:
            sim.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def shared_sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    folder = tmp_path_factory.mktemp("shared-sim")
    sim = Sim(folder, "--rate-limits", "off", "--balance", "USDT=1000000", "--balance", "BTC=10", "--balance", "ETH=10")
    yield sim
    sim.end(signal.SIGTERM)


@pytest.fixture
def sim(shared_sim: Sim) -> Iterator[Sim]:
    """The exchange that most tests share: generated market, no rate limits; no faults and no open orders between
    tests."""
    yield shared_sim
    shared_sim.call("DELETE", "/sim/faults")
    for order in shared_sim.get("/sim/account")["open_orders"]:
        shared_sim.signed("DELETE", "/api/v3/openOrders", symbol=order["symbol"])


@pytest.fixture
async def client(sim: Sim) -> AsyncIterator[Any]:
    """ccxt.pro with its default settings, markets loaded."""
    client = binance(sim.info)
    await client.load_markets()
    yield client
    await client.close()
