"""Connects of a collector: never more than the rate limit of the exchange allows, however many connections it has."""

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
from fks.market.collector.connections import CONNECTIONS_MAX, ChannelGroup, Connections
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.model.market import Allowance, Channel, RateLimits, Subscription
from fks.store.bus import Bus
from fks.system.rate_limits.budgets import CONNECTS_SHARE, budget_of
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


class Deaf:
    """A subscriber that does nothing with the events of its connections."""

    def subscriptions_of(self, group: ChannelGroup) -> list[Subscription]:
        return [Subscription(Channel.TRADES, group.symbol)]

    def subscribed(self, groups: object) -> None: ...
    def disconnected(self, groups: object, cause: str) -> None: ...
    def received(self, batch: object) -> None: ...


async def test_many_refused_connections_keep_to_the_limit_of_connects(
    bus: Bus, log: CollectingLog, refusing: Refusing
) -> None:
    clock = RealClock()
    budget = budget_of(bus, clock, "binance", uuid.uuid4().hex, limits=RateLimits(connects=ALLOWED))
    exchange = BinanceExchange(ExchangeAddresses(f"http://{refusing.url}", f"ws://{refusing.url}"), clock, log, budget)
    connections = Connections(exchange, clock, log, RecordingMeter(), Random(1), Deaf())
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        connections.run(group)
        for number in range(CONNECTIONS_MAX):
            connections.place([ChannelGroup(f"COIN{number}USDT")])
        await until(lambda: refusing.connects > 2 * OURS, deadline_s=60.0)
        windows = (
            time.monotonic() - began_s
        ) / ALLOWED.window_s + 2  # what is left of the first one, and the last one whole
        assert refusing.connects <= OURS * windows
        await connections.close()
    await exchange.close()
    assert len(connections) == CONNECTIONS_MAX
    assert refusing.connects <= exchange.counters.connects  # those that wait are none
