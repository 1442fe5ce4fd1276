"""Sockets of a collector over an exchange that dials nothing, on a clock that stands until it is moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from fks.clock import FakeClock
from fks.collector.connections import Shards
from fks.model.bar import PublicTrade
from fks.model.errors import OutageError
from fks.model.market import Channel, MarketEvent, Subscription
from fks.model.ports import Exchange
from tests.support.history_exchange import CAPABILITIES
from tests.support.ports import CollectingLog, RecordingMeter


def trade(symbol: str) -> PublicTrade:
    return PublicTrade("x", symbol, 1, 1, Decimal(1), Decimal(1), is_buyer_maker=False)


@dataclass(eq=False)
class Connection:
    """One dial: what was wanted, and what `say` puts into it."""

    symbols: list[str]
    at_s: float
    said: asyncio.Queue[list[MarketEvent] | OutageError] = field(default_factory=asyncio.Queue)
    is_open: bool = True


class DiallingExchange:
    """Notes every dial; a connection stands at once unless `answer` raises, and says what a test makes it say."""

    name = "x"

    def __init__(self, clock: FakeClock) -> None:
        self.capabilities = replace(CAPABILITIES, streams_max=3)
        self.answer: Callable[[Connection], None] = lambda connection: None
        self.dials: list[Connection] = []
        self.left: list[str] = []
        self.leaves = asyncio.Semaphore(1_000_000)
        self.standing = asyncio.Event()
        self.standing.set()
        self._clock = clock

    @property
    def open(self) -> list[list[str]]:
        return sorted(connection.symbols for connection in self.dials if connection.is_open)

    async def connect_permit(self) -> None:
        await self.leaves.acquire()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        self.left += [item.symbol for item in gone]

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        connection = Connection([item.symbol for item in wanted], self._clock.monotonic())
        self.dials.append(connection)
        try:
            self.answer(connection)
            await self.standing.wait()
            yield []
            while True:
                said = await connection.said.get()
                if isinstance(said, OutageError):
                    raise said
                yield said
        finally:
            connection.is_open = False


@dataclass
class Rig:
    """Shards over an exchange that dials nothing, and what they said."""

    clock: FakeClock
    exchange: DiallingExchange
    meter: RecordingMeter
    shards: Shards
    heard: list[MarketEvent]
    lost: list[tuple[set[str], str]]
    told: list[set[str]]  # as subscribed

    async def settle(self, seconds: float = 1.0) -> None:
        """Let so much time pass: a quick dial is over then."""
        for _ in range(round(seconds / 0.05)):
            await self.clock.advance(0.05)

    def connection(self, symbol: str) -> Connection:
        """Return the newest connection that was dialled with a symbol."""
        return next(connection for connection in reversed(self.exchange.dials) if symbol in connection.symbols)


@asynccontextmanager
async def rigged(channels: int = 1) -> AsyncIterator[Rig]:
    clock, meter, heard = FakeClock(), RecordingMeter(), cast(list[MarketEvent], [])
    lost: list[tuple[set[str], str]] = []
    told: list[set[str]] = []
    exchange = DiallingExchange(clock)
    steady: Any = SimpleNamespace(uniform=lambda low, high: high)

    def note(symbols: Iterable[str], cause: str) -> None:
        lost.append((set(symbols), cause))

    shards = Shards(
        cast(Exchange, exchange),
        clock,
        CollectingLog(),
        meter,
        cast(Random, steady),
        wants=lambda s: [Subscription(Channel.TRADES, s)] * channels,
        heard=heard.extend,
        subscribed=lambda symbols: told.append(set(symbols)),
        lost=note,
    )
    async with asyncio.TaskGroup() as group:
        shards.run(group)
        try:
            yield Rig(clock, exchange, meter, shards, heard, lost, told)
        finally:
            await shards.hang_up()
