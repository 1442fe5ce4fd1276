"""Connections of one collector: the channel groups that each carries, and when each is opened, closed and retried.

A *channel group* is subscribed as one: trades and the exchange's bars of a symbol together; its quotes and its book
each alone, so that trouble with quotes never disturbs trades.

| Event | What follows |
|---|---|
| a new group | a connection of its own; beyond the maximum a connection with capacity takes it and reconnects |
| a group ends | it is unsubscribed; the others on its connection are not disturbed; an empty connection is closed |
| one group is silent | it moves to another connection, unless it shares one with trades and is none itself |
| most groups of a connection are silent | the connection is reconnected |
| a connection ends | it reconnects after `ReconnectBackoff`, and never before its connect permit |

Connect permits come from the rate limit that all processes share (`Exchange.connect_permit`). One connection at a time
waits for one, in the order of `ConnectQueue`. Events of a group that ended, which may still arrive, are dropped and
counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from fks.clock import Clock
from fks.model.backoff import Backoff
from fks.model.errors import ConfigError, InputError, OutageError, PeerError
from fks.model.market import (
    BarSeen,
    Book,
    Channel,
    ConnectionCounters,
    Discontinuity,
    MarketEvent,
    Quote,
    Subscription,
    Suspect,
)
from fks.model.ports import Exchange, Log, Meter

CONNECTIONS_MAX = 24
RETRY_FIRST_S, RETRY_MAX_S, RETRY_LONG_S = 0.2, 5.0, 30.0
PATIENCE = 12  # failures, about three quarters of a minute: an exchange that restarts is back by then
STEADY_S = 30.0
YIELD_S = 60.0  # connections without trades wait so much longer for a permit, and still get one
REFUSED_S = 60.0  # before a refused request is repeated: it needs another key or plan, so a person
KINDS_MAX = 50  # unknown kinds and fields with a metric series of their own
OTHER_KINDS = "other"
SEPARATE = (Channel.QUOTES, Channel.BOOK)

#: errors of an exchange that never end a collector: it tries again and reports them meanwhile
EXPECTED = (OutageError, PeerError, InputError, ConfigError)


def is_refusal(error: BaseException) -> bool:
    """Return whether the exchange refused the key (ConfigError), or something that its plan lacks (403)."""
    return isinstance(error, ConfigError) or (isinstance(error, InputError) and error.status == 403)


# ── channel groups ───────────────────────────────────────────────────────────────────────────────
class ChannelGroup(NamedTuple):
    """Channels of one symbol that are subscribed together, named by `channel`: TRADES (with bars), QUOTES or BOOK."""

    symbol: str
    channel: Channel = Channel.TRADES

    @property
    def has_trades(self) -> bool:
        """Return whether it is the group of trades and bars."""
        return self.channel is Channel.TRADES


def group_of(symbol: str, channel: str) -> ChannelGroup:
    """Return the group that a channel of a symbol belongs to."""
    return ChannelGroup(symbol, Channel(channel) if channel in SEPARATE else Channel.TRADES)


def groups_of(wanted: Iterable[Subscription]) -> list[ChannelGroup]:
    """Return the groups of subscriptions."""
    return sorted({group_of(item.symbol, item.channel) for item in wanted})


def group_of_event(event: MarketEvent) -> ChannelGroup:
    """Return the group that an event belongs to."""
    if isinstance(event, BarSeen):
        return ChannelGroup(event.bar.symbol)
    if isinstance(event, Discontinuity | Suspect):
        return group_of(event.symbol, event.channel)
    if isinstance(event, Quote):
        return ChannelGroup(event.symbol, Channel.QUOTES)
    return ChannelGroup(event.symbol, Channel.BOOK if isinstance(event, Book) else Channel.TRADES)


# ── permits and backoff ──────────────────────────────────────────────────────────────────────────
@dataclass(eq=False, slots=True)
class _Waiter:
    since_s: float
    has_trades: Callable[[], bool]

    @property
    def rank_s(self) -> float:
        return self.since_s + (0.0 if self.has_trades() else YIELD_S)


class ConnectQueue:
    """Queue for connect permits: the longest waiting first; connections without trades rank YIELD_S later.

    One waiter at a time asks for a permit, so a more urgent one waits for one permit at most. A cancelled waiter
    leaves.
    """

    def __init__(self, connect_permit: Callable[[], Awaitable[None]], monotonic: Callable[[], float]) -> None:
        self._connect_permit, self._monotonic = connect_permit, monotonic
        self._waiters: dict[_Waiter, None] = {}
        self._asking: _Waiter | None = None
        self._changed = asyncio.Event()

    async def permit(self, has_trades: Callable[[], bool]) -> None:
        """Return when a connection may be opened. `has_trades` is asked as often as needed: its groups may change."""
        mine = _Waiter(self._monotonic(), has_trades)
        self._waiters[mine] = None
        try:
            while self._asking is not None or min(self._waiters, key=lambda waiter: waiter.rank_s) is not mine:
                await self._changed.wait()
            self._asking = mine
            await self._connect_permit()
        finally:
            del self._waiters[mine]
            if self._asking is mine:
                self._asking = None
            self._changed.set()
            self._changed = asyncio.Event()


@dataclass(slots=True)
class ReconnectBackoff:
    """Waits of one connection between its connects. Pure: times are arguments.

    | The connection | The next connect |
    |---|---|
    | gave data, once in STEADY_S | at once |
    | gave data for RETRY_MAX_S or longer | as far from this connect as the last failure set; it is no failure itself |
    | any other: refused, or ended soon | twice as far from this connect as the last one, RETRY_MAX_S at most |
    | more than PATIENCE of these in a row | twice as far again, RETRY_LONG_S at most |

    A connection that gave data for STEADY_S ends the row. The time that a connection stood counts as waited.
    """

    failures: int = 0
    _free_s: float = -math.inf  # when an immediate reconnect was last granted

    def wait_s(self, *, began_s: float, now_s: float, has_data: bool) -> float:
        """Record the end of the connection opened at `began_s`; return the seconds until the next, without jitter."""
        stood_s = now_s - began_s
        if has_data and stood_s >= STEADY_S:
            self.failures = 0
        if has_data and now_s - self._free_s >= STEADY_S:
            self._free_s = now_s
            return RETRY_FIRST_S
        if not has_data or stood_s < RETRY_MAX_S:
            self.failures += 1
        return max(RETRY_FIRST_S, _apart_s(self.failures) - stood_s)


def _apart_s(failures: int) -> float:
    patient_s = Backoff(RETRY_FIRST_S, RETRY_MAX_S).wait_s(min(failures, PATIENCE) + 1)
    return Backoff(patient_s, RETRY_LONG_S).wait_s(max(0, failures - PATIENCE) + 1)


# ── connections ──────────────────────────────────────────────────────────────────────────────────
class Subscriber(Protocol):
    """The owner of the groups, which receives what their connections bring."""

    def subscriptions_of(self, group: ChannelGroup) -> Sequence[Subscription]:
        """Return the subscriptions of a group."""
        ...

    def subscribed(self, groups: Iterable[ChannelGroup]) -> None:
        """Take note that the subscriptions of groups stand."""
        ...

    def disconnected(self, groups: Iterable[ChannelGroup], cause: str) -> None:
        """Take note that they ended: "silent" when most of their connection was silent, else "disconnected"."""
        ...

    def received(self, batch: list[MarketEvent]) -> None:
        """Take a batch of events."""
        ...


@dataclass(slots=True, eq=False)
class Connection:
    """One connection and the groups on it."""

    number: int
    groups: set[ChannelGroup] = field(default_factory=set)
    reconnect: asyncio.Event = field(default_factory=asyncio.Event)
    is_subscribed: bool = False
    requested: frozenset[ChannelGroup] = frozenset()  # groups of the last connect; later ones wait for the next
    ended: set[ChannelGroup] = field(default_factory=set)  # groups that ended since: events of them may still arrive
    task: asyncio.Task[None] | None = None
    has_data: bool = False
    has_permit: bool = False
    refusal: str = ""  # the exchange's refusal, until it ends
    is_silent: bool = False  # the reason of the reconnect; otherwise it is for a new group

    @property
    def has_trades(self) -> bool:
        """Return whether a group of trades is on it."""
        return any(group.has_trades for group in self.groups)


class Connections:
    """All connections of one collector. Its tasks live in the group given to `run`; one loop drives it."""

    def __init__(
        self, exchange: Exchange, clock: Clock, log: Log, meter: Meter, rng: Random, subscriber: Subscriber
    ) -> None:
        self._exchange, self._clock, self._log, self._meter, self._rng = exchange, clock, log, meter, rng
        self._subscriber = subscriber
        self._connections: list[Connection] = []
        self._of: dict[ChannelGroup, Connection] = {}
        self._numbers = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._paused_until_s = 0.0  # the exchange demanded a pause; it holds for all connections
        self._queue = ConnectQueue(exchange.connect_permit, clock.monotonic)

    def __len__(self) -> int:
        return len(self._connections)

    def run(self, tasks: asyncio.TaskGroup) -> None:
        """Start connections in `tasks` from here on."""
        self._tasks = tasks

    @property
    def refusal(self) -> str:
        """Return why a connection has no subscriptions, where the exchange refuses them; else ""."""
        return next((connection.refusal for connection in self._connections if connection.refusal), "")

    def is_subscribed(self, group: ChannelGroup) -> bool:
        """Return whether the subscriptions of a group stand."""
        connection = self._of.get(group)
        return (
            connection is not None
            and connection.is_subscribed
            and group in connection.requested
            and group not in connection.ended
        )

    def place(self, groups: Iterable[ChannelGroup]) -> None:
        """Subscribe new groups, on connections of their own while there may be more."""
        waiting = sorted(groups)
        while waiting:
            connection, size, taken = self._connection_for(waiting[0]), 0, 0
            for group in waiting:
                cost = self._cost(group)
                if taken and self._load(connection) + size + cost > self._exchange.capabilities.streams_max:
                    break
                size, taken = size + cost, taken + 1
            for group in waiting[:taken]:
                self._of[group] = connection
            connection.groups.update(waiting[:taken])
            waiting = waiting[taken:]
            self._open(connection)

    def drop(self, group: ChannelGroup) -> None:
        """Unsubscribe a group: its events are dropped from here on. An empty connection is closed."""
        connection = self._of.pop(group, None)
        if connection is None:
            return
        connection.groups.discard(group)
        connection.ended.add(group)
        if connection.groups:
            self._exchange.unsubscribe(self._subscriber.subscriptions_of(group))
        else:
            self._close(connection)

    def move(self, silent: Iterable[ChannelGroup]) -> None:
        """Subscribe silent groups again on other connections, disturbing the other groups as little as possible.

        Silent quotes and books stay where their connection carries trades, because there may be no more connections.
        """
        by_connection: dict[Connection, list[ChannelGroup]] = {}
        for group in silent:
            connection = self._of.get(group)
            if connection is not None and (group.has_trades or not connection.has_trades):
                by_connection.setdefault(connection, []).append(group)
        for connection, groups in by_connection.items():
            is_most = len(groups) * 2 >= len(connection.groups)
            if is_most or len(self._connections) >= self._connections_max:
                connection.is_silent = is_most  # otherwise the rest is disturbed, and its trust in the stream stays
                connection.reconnect.set()
                continue
            self._subscriber.disconnected(groups, "disconnected")  # until they are subscribed elsewhere
            for group in groups:
                self.drop(group)
            self.place(groups)

    async def close(self) -> None:
        """End every connection and wait for that."""
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _cost(self, group: ChannelGroup) -> int:
        return len(self._subscriber.subscriptions_of(group))

    def _load(self, connection: Connection) -> int:
        return sum(self._cost(group) for group in connection.groups)

    @property
    def _connections_max(self) -> int:
        return min(CONNECTIONS_MAX, self._exchange.capabilities.connections_max or CONNECTIONS_MAX)

    def _connection_for(self, group: ChannelGroup) -> Connection:
        capabilities = self._exchange.capabilities
        if len(self._connections) >= self._connections_max:
            least = min(self._connections, key=self._load)
            is_last = len(self._connections) == capabilities.connections_max  # one more would end all of them
            if is_last or self._load(least) + self._cost(group) <= capabilities.streams_max:
                return least
        self._numbers += 1
        self._connections.append(Connection(self._numbers))
        return self._connections[-1]

    def _open(self, connection: Connection) -> None:
        connection.reconnect.set()
        if connection.task is None and self._tasks is not None:
            connection.task = self._tasks.create_task(self._keep(connection))

    def _close(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if connection.task is not None:
            connection.task.cancel()

    async def _keep(self, connection: Connection) -> None:
        """Keep one connection open until it is closed, reconnecting with backoff and jitter."""
        backoff, wait_s = ReconnectBackoff(), 0.0
        while True:
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            await self._permit(connection)
            connection.reconnect.clear()
            began_s = self._clock.monotonic()
            connection.has_data = connection.is_silent = connection.has_permit = False
            cause = await self._connect_once(connection)
            connection.is_subscribed = False
            self._subscriber.disconnected(connection.groups, cause)
            self._meter.count("fks_feed_reconnects_total", exchange=self._exchange.name)
            wait_s = RETRY_FIRST_S
            if not connection.reconnect.is_set() or connection.is_silent:  # else it ended for a new group
                wait_s = backoff.wait_s(began_s=began_s, now_s=self._clock.monotonic(), has_data=connection.has_data)
            if connection.refusal:
                wait_s = REFUSED_S
            wait_s *= self._rng.uniform(0.5, 1.0)

    async def _permit(self, connection: Connection) -> None:
        """Return when a connection may be opened; the exchange may demand a pause meanwhile."""
        while not connection.has_permit or self._clock.monotonic() < self._paused_until_s:
            if (wait_s := self._paused_until_s - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait_s)
            await self._queue.permit(lambda: connection.has_trades)
            connection.has_permit = True

    async def _connect_once(self, connection: Connection) -> str:
        """Listen until the connection ends or has to; return the cause. It is not closed before the next permit."""
        listening = asyncio.create_task(self._listen(connection))
        tasks = [listening, asyncio.create_task(connection.reconnect.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                tasks.append(permitted := asyncio.create_task(self._permit(connection)))
                await asyncio.wait({listening, permitted}, return_when=asyncio.FIRST_COMPLETED)
                if permitted.done():
                    permitted.result()
            cause = "silent" if connection.reconnect.is_set() and connection.is_silent else "disconnected"
        finally:
            for task in tasks:
                task.cancel()
            ended = (await asyncio.gather(*tasks, return_exceptions=True))[0]
        if isinstance(ended, OutageError):
            self._paused_until_s = max(self._paused_until_s, self._clock.monotonic() + ended.wait_s)
        if isinstance(ended, EXPECTED):
            connection.refusal = str(ended) if is_refusal(ended) else ""
            self._log.warning(
                "feed.disconnected", exchange=self._exchange.name, socket=connection.number, error=str(ended)
            )
        elif isinstance(ended, Exception):
            raise ended
        return cause

    async def _listen(self, connection: Connection) -> None:
        connection.ended.clear()
        connection.requested = frozenset(connection.groups)
        wanted = [item for group in sorted(connection.groups) for item in self._subscriber.subscriptions_of(group)]
        async with contextlib.aclosing(self._exchange.watch(wanted)) as stream:  # type: ignore[type-var]
            async for batch in stream:
                if not connection.is_subscribed:
                    connection.is_subscribed, connection.refusal = True, ""
                    self._subscriber.subscribed(connection.requested & connection.groups)
                if connection.ended:
                    batch = self._without(batch, connection.ended)
                if batch:
                    connection.has_data = True
                    self._subscriber.received(batch)

    def _without(self, batch: list[MarketEvent], ended: set[ChannelGroup]) -> list[MarketEvent]:
        kept = [event for event in batch if group_of_event(event) not in ended]
        if len(kept) < len(batch):
            self._meter.count("fks_market_dropped_total", len(batch) - len(kept), channel="left")
        return kept


# ── counters ─────────────────────────────────────────────────────────────────────────────────────
class CounterMetrics:
    """Exports ConnectionCounters to the meter, each increase once. One loop drives it."""

    def __init__(self, counters: ConnectionCounters, meter: Meter) -> None:
        self._counters, self._meter = counters, meter
        self._exported: dict[str, Counter[str]] = {}

    def export(self) -> None:
        """Count the increases since the last call."""
        counters = self._counters
        self._export(
            "fks_market_dropped_total", "channel", Counter({c.value: n for c, n in counters.overflowed.items()})
        )
        self._export(
            "fks_market_conflated_total", "channel", Counter({c.value: n for c, n in counters.conflated.items()})
        )
        self._export("fks_market_unknown_total", "kind", counters.unknown)

    def _export(self, metric: str, label: str, now: Counter[str]) -> None:
        exported = self._exported.setdefault(metric, Counter())
        for place, (name, count) in enumerate(list(now.items())):  # a Counter keeps the order in which names came
            if count > exported[name]:
                shown = name if place < KINDS_MAX else OTHER_KINDS
                self._meter.count(metric, count - exported[name], **{label: shown})
                exported[name] = count
