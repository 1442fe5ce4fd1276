"""A local exchange for the module, and ccxt venues on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fks.clock import RealClock
from fks.model.errors import OutageError
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.binance.venue import SpotVenue
from tests.support.fast_clock import FastWaits
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog
from tests.support.venue_sessions import SESSIONS, Listener, Open


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


@pytest.fixture(params=list(SESSIONS))
def session(request: pytest.FixtureRequest) -> str:
    """Each way to the exchange in turn: the port's promises are the same."""
    return str(request.param)


@pytest.fixture
def fast_waits(monkeypatch: pytest.MonkeyPatch) -> FastWaits:
    """Have commands in this process wait a fifth as long: the stand-in that they ask has the same clock, so that what
    comes late there still comes before what is then taken for absent."""
    clock = FastWaits(5.0)
    monkeypatch.setattr("fks.clock.RealClock", lambda: clock)
    return clock


@pytest.fixture
async def open_venue(exchange: LocalExchange, session: str) -> AsyncIterator[Open]:
    """Make opened venues on the exchange; they are closed at the end."""
    made: list[SpotVenue] = []

    async def make(*, is_admitted: bool = True, **changes: Any) -> SpotVenue:
        info, may_send = exchange.info, changes.pop("may_send", None)
        settings = {
            "order_timeout_s": 2.0,
            "read_timeout_s": 2.0,
            "account_id": 1,
            "rest_url": info["rest"],
            "ws_url": info["ws"],
            "ws_api_url": info["ws_api"],
            **changes,
        }
        config = SessionConfig(info["api_key"], info["api_secret"], **settings)
        venue = SESSIONS[session](config, RealClock(), CollectingLog(), may_send)
        await venue.open()
        if is_admitted:
            with contextlib.suppress(OutageError):
                venue.admit(await venue.identity())
        made.append(venue)
        return venue

    yield make
    for venue in made:
        await venue.close()


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[SpotVenue], Listener]]:
    """Start reading a venue's events."""
    tasks: list[asyncio.Task[None]] = []

    def start(venue: SpotVenue) -> Listener:
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
