"""Connections of a collector over an exchange in memory, on a clock that stands until it is advanced."""

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
from fks.market.collector.connections import ChannelGroup, Connections, group_of
from fks.model.bar import PublicTrade
from fks.model.errors import OutageError
from fks.model.market import Channel, MarketEvent, Subscription
from fks.model.ports import Exchange
from tests.support.history_exchange import CAPABILITIES
from tests.support.ports import CollectingLog, RecordingMeter


def trade(symbol: str) -> PublicTrade:
    return PublicTrade("x", symbol, 1, 1, Decimal(1), Decimal(1), is_buyer_maker=False)


@dataclass(eq=False)
class Opened:
    """One connection that was opened: its symbols, and the batches that a test puts into `batches`."""

    symbols: list[str]
    at_s: float
    batches: asyncio.Queue[list[MarketEvent] | OutageError] = field(default_factory=asyncio.Queue)
    is_open: bool = True


class MemoryExchange:
    """Records every connection; it stands at once unless `answer` raises, and yields what a test puts into it."""

    name = "x"

    def __init__(self, clock: FakeClock) -> None:
        self.capabilities = replace(CAPABILITIES, streams_max=3)
        self.answer: Callable[[Opened], None] = lambda connection: None
        self.opened: list[Opened] = []
        self.unsubscribed: list[str] = []
        self.permits = asyncio.Semaphore(1_000_000)
        self.standing = asyncio.Event()
        self.standing.set()
        self._clock = clock

    @property
    def open(self) -> list[list[str]]:
        return sorted(connection.symbols for connection in self.opened if connection.is_open)

    async def connect_permit(self) -> None:
        await self.permits.acquire()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        self.unsubscribed += [item.symbol for item in gone]

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        connection = Opened([item.symbol for item in wanted], self._clock.monotonic())
        self.opened.append(connection)
        try:
            self.answer(connection)
            await self.standing.wait()
            yield []
            while True:
                batches = await connection.batches.get()
                if isinstance(batches, OutageError):
                    raise batches
                yield batches
        finally:
            connection.is_open = False


@dataclass
class Rig:
    """Connections over an exchange in memory, and the events out of them. Groups are symbols, or "A quotes"."""

    channels: int
    clock: FakeClock = field(default_factory=FakeClock)
    meter: RecordingMeter = field(default_factory=RecordingMeter)
    events: list[MarketEvent] = field(default_factory=list)
    lost: list[tuple[set[str], str]] = field(default_factory=list)
    stood: list[set[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exchange = MemoryExchange(self.clock)
        steady: Any = SimpleNamespace(uniform=lambda low, high: high)
        self.connections = Connections(
            cast(Exchange, self.exchange), self.clock, CollectingLog(), self.meter, cast(Random, steady), self
        )

    # the subscriber of the connections
    def subscriptions_of(self, group: ChannelGroup) -> Sequence[Subscription]:
        return [Subscription(Channel.TRADES, _named(group))] * self.channels

    def subscribed(self, groups: Iterable[ChannelGroup]) -> None:
        self.stood.append({_named(group) for group in groups})

    def disconnected(self, groups: Iterable[ChannelGroup], cause: str) -> None:
        self.lost.append(({_named(group) for group in groups}, cause))

    def received(self, batch: list[MarketEvent]) -> None:
        self.events += batch

    # a test's own
    def place(self, names: Iterable[str]) -> None:
        self.connections.place(map(_group, names))

    def drop(self, name: str) -> None:
        self.connections.drop(_group(name))

    def move(self, names: Iterable[str]) -> None:
        self.connections.move(map(_group, names))

    def is_subscribed(self, name: str) -> bool:
        return self.connections.is_subscribed(_group(name))

    async def settle(self, seconds: float = 1.0) -> None:
        """Let so much time pass: a quick connect is over then."""
        for _ in range(round(seconds / 0.05)):
            await self.clock.advance(0.05)

    def connection(self, symbol: str) -> Opened:
        """Return the newest connection that was opened with a symbol."""
        return next(connection for connection in reversed(self.exchange.opened) if symbol in connection.symbols)


def _group(name: str) -> ChannelGroup:
    symbol, _, channel = name.partition(" ")
    return group_of(symbol, channel)


def _named(group: ChannelGroup) -> str:
    return group.symbol if group.has_trades else f"{group.symbol} {group.channel}"


@asynccontextmanager
async def rigged(channels: int = 1) -> AsyncIterator[Rig]:
    rig = Rig(channels)
    async with asyncio.TaskGroup() as group:
        rig.connections.run(group)
        try:
            yield rig
        finally:
            await rig.connections.close()
