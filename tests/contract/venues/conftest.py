"""A local exchange for the module, and ccxt venues on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.ports import VenueEvent
from fks.venues.ccxt import CcxtConfig, CcxtVenue
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog

Open = Callable[..., Awaitable[CcxtVenue]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    arguments = ["--rate-limits", "off", "--balance", "USDT=1000000", "--balance", "BTC=10", "--seed", "5"]
    exchange = LocalExchange(tmp_path_factory.mktemp("exchange"), arguments).start()
    yield exchange
    exchange.stop()


@pytest.fixture
def exchange(running: LocalExchange) -> LocalExchange:
    """The module's exchange, without faults."""
    running.clear()
    return running


@pytest.fixture
async def open_venue(exchange: LocalExchange) -> AsyncIterator[Open]:
    """Make opened venues on the exchange; they are closed at the end."""
    made: list[CcxtVenue] = []

    async def make(**changes: Any) -> CcxtVenue:
        settings = {"order_timeout_s": 2.0, "read_timeout_s": 2.0, "account_id": 1, **changes}
        config = CcxtConfig(
            exchange.info["api_key"], exchange.info["api_secret"], rest_url=exchange.info["rest"],
            ws_url=exchange.info["ws"], ws_api_url=exchange.info["ws_api"], **settings,
        )  # fmt: skip
        venue = CcxtVenue(config, RealClock(), CollectingLog())
        await venue.open()
        made.append(venue)
        return venue

    yield make
    for venue in made:
        await venue.close()


@dataclass
class Listener:
    """Collects a venue's events."""

    events: list[VenueEvent] = field(default_factory=list)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[CcxtVenue], Listener]]:
    """Start reading a venue's events."""
    tasks: list[asyncio.Task[None]] = []

    def start(venue: CcxtVenue) -> Listener:
        listener = Listener()

        async def read() -> None:
            async for event in venue.events():
                listener.events.append(event)

        tasks.append(asyncio.create_task(read()))
        return listener

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
