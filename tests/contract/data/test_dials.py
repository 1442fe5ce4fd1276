"""However many sockets a collector has, it dials an exchange no oftener than that allows."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random

import pytest
from aiohttp import web

from fks.clock import RealClock
from fks.collector.connections import SOCKETS_MAX, Shards
from fks.exchanges.base import Endpoint
from fks.exchanges.binance.exchange import BinanceExchange
from fks.model.market import Allowance, Channel, RateLimits, Subscription
from fks.rate_limits.budgets import CONNECTS_SHARE, budget_of
from fks.store.bus import Bus
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

ALLOWED = Allowance(10, 1.5)
OURS = int(10 * CONNECTS_SHARE)


@dataclass
class Refusing:
    """An exchange that refuses every dial, and counts them."""

    connects: int = 0
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.connects += 1
        return web.Response(status=503)


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    made = Refusing()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_many_sockets_and_an_exchange_that_refuses_keep_to_its_allowance(
    bus: Bus, log: CollectingLog, refusing: Refusing
) -> None:
    clock = RealClock()
    budget = budget_of(bus, clock, "binance", uuid.uuid4().hex, limits=RateLimits(connects=ALLOWED))
    exchange = BinanceExchange(Endpoint(f"http://{refusing.url}", f"ws://{refusing.url}"), clock, log, budget)
    shards = Shards(
        exchange,
        clock,
        log,
        RecordingMeter(),
        Random(1),
        wants=lambda symbol: [Subscription(Channel.TRADES, symbol)],
        heard=lambda batch: None,
        subscribed=lambda symbols: None,
        lost=lambda symbols, cause: None,
    )
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        shards.run(group)
        for number in range(SOCKETS_MAX):
            shards.place([f"COIN{number}USDT"])
        await until(lambda: refusing.connects > 2 * OURS, deadline_s=60.0)
        windows = (
            time.monotonic() - began_s
        ) / ALLOWED.window_s + 2  # what is left of the first one, and the last one whole
        assert refusing.connects <= OURS * windows
        await shards.hang_up()
    await exchange.close()
    assert len(shards) == SOCKETS_MAX
    assert refusing.connects <= exchange.counters.connects  # those that wait are none
