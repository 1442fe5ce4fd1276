"""Subscriptions spread over sockets, each dialled again by itself, so that one symbol's trouble is not every symbol's.

A symbol that is new gets a socket of its own, and nobody else's is touched; a symbol that went silent alone is taken to
another socket; a socket most of whose symbols are silent is dialled again. Beyond SOCKETS_MAX, or the connections that
the exchange lets us have, a socket with room takes the symbol and is dialled again with it.

A symbol that leaves is unsubscribed, and nobody else on its socket is touched. What still comes of it, or goes on
coming where the exchange does not listen, is let go here, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from fks.clock import Clock
from fks.collector.channel_groups import told_on, whose
from fks.collector.connect_queue import Turns
from fks.collector.reconnect_backoff import RETRY_FIRST_S, Redials
from fks.collector.refusals import EXPECTED, REFUSED_S, is_refusal
from fks.model.errors import OutageError
from fks.model.market import MarketEvent, Subscription
from fks.model.ports import Exchange, Log, Meter

SOCKETS_MAX = 24


@dataclass(slots=True, eq=False)
class Shard:
    """One socket and the symbols on it."""

    number: int
    symbols: set[str] = field(default_factory=set)
    redial: asyncio.Event = field(default_factory=asyncio.Event)
    is_subscribed: bool = False
    asked: frozenset[str] = frozenset()  # symbols it was dialled with: those that came since wait for the next dial
    task: asyncio.Task[None] | None = None
    heard: bool = False
    has_leave: bool = False  # to dial
    refusal: str = ""  # what the exchange said when it refused us here, until it no longer does
    is_silent: bool = False  # it is dialled anew because of that, and not for a new symbol
    left: set[str] = field(default_factory=set)  # symbols dropped since it was dialled: they still come


class Shards:
    """All sockets of one collector. Its tasks live in the group given to `run`; one loop drives it.

    `wants` says what to subscribe for a symbol; `subscribed` is told the symbols of a socket whose subscriptions stand,
    `lost` those of one that ended, `heard` every batch.
    """

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        log: Log,
        meter: Meter,
        rng: Random,
        *,
        wants: Callable[[str], Sequence[Subscription]],
        heard: Callable[[list[MarketEvent]], None],
        subscribed: Callable[[Iterable[str]], None],
        lost: Callable[[Iterable[str], str], None],
    ) -> None:
        self._exchange, self._clock, self._log, self._meter, self._rng = exchange, clock, log, meter, rng
        self._wants, self._heard, self._subscribed, self._lost = wants, heard, subscribed, lost
        self._shards: list[Shard] = []
        self._of: dict[str, Shard] = {}
        self._numbers = 0
        self._group: asyncio.TaskGroup | None = None
        self._refused_until_s = 0.0  # the exchange said how long to dial no more; it says so to all sockets
        self._turns = Turns(exchange.connect_permit, clock.monotonic)

    def __len__(self) -> int:
        return len(self._shards)

    def run(self, group: asyncio.TaskGroup) -> None:
        """Let sockets live in `group` from here on."""
        self._group = group

    @property
    def refusal(self) -> str:
        """Return why a socket has no subscriptions, where the exchange refuses them (a key it does not take); else
        ""."""
        return next((shard.refusal for shard in self._shards if shard.refusal), "")

    def is_subscribed(self, symbol: str) -> bool:
        """Return whether the subscriptions of a symbol stand."""
        shard = self._of.get(symbol)
        return shard is not None and shard.is_subscribed and symbol in shard.asked and symbol not in shard.left

    def beside(self, symbol: str) -> frozenset[str]:
        """Return what shares its socket with a symbol, itself among it."""
        shard = self._of.get(symbol)
        return frozenset() if shard is None else frozenset(shard.symbols)

    def place(self, symbols: Iterable[str]) -> None:
        """Subscribe symbols that are new, on sockets of their own as far as there may be more."""
        waiting = sorted(symbols)
        while waiting:
            shard, size, taken = self._room_for(waiting[0]), 0, 0
            for symbol in waiting:
                cost = self._cost(symbol)
                if taken and self._load(shard) + size + cost > self._exchange.capabilities.streams_max:
                    break
                size, taken = size + cost, taken + 1
            for symbol in waiting[:taken]:
                self._of[symbol] = shard
            shard.symbols.update(waiting[:taken])
            waiting = waiting[taken:]
            self._wake(shard)

    def drop(self, symbol: str) -> None:
        """Let go of a symbol: nothing of it is handed on from here. A socket that all left is closed."""
        shard = self._of.pop(symbol, None)
        if shard is None:
            return
        shard.symbols.discard(symbol)
        shard.left.add(symbol)
        if shard.symbols:
            self._exchange.unsubscribe(self._wants(symbol))
        else:
            self._end(shard)

    def move(self, silent: Sequence[str]) -> None:
        """Give symbols that went silent another connection, disturbing the others as little as can be."""
        by_shard: dict[Shard, list[str]] = {}
        for symbol in silent:
            if (shard := self._of.get(symbol)) is not None:
                by_shard.setdefault(shard, []).append(symbol)
        for shard, symbols in by_shard.items():
            is_most = len(symbols) * 2 >= len(shard.symbols)
            if is_most or len(self._shards) >= self._sockets_max:
                shard.is_silent = is_most  # else the others are only disturbed: they need not prove that they are heard
                shard.redial.set()
                continue
            self._lost(symbols, "disconnected")  # until they are subscribed elsewhere, which may take its time
            for symbol in symbols:
                self.drop(symbol)
            self.place(symbols)

    async def hang_up(self) -> None:
        """End every socket and wait for that."""
        tasks = [shard.task for shard in self._shards if shard.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _cost(self, symbol: str) -> int:
        return len(self._wants(symbol))

    def _load(self, shard: Shard) -> int:
        return sum(self._cost(symbol) for symbol in shard.symbols)

    @property
    def _sockets_max(self) -> int:
        return min(SOCKETS_MAX, self._exchange.capabilities.connections_max or SOCKETS_MAX)

    def _room_for(self, symbol: str) -> Shard:
        if len(self._shards) >= self._sockets_max:
            roomy = min(self._shards, key=self._load)
            is_last = len(self._shards) == self._exchange.capabilities.connections_max  # theirs: one more ends them all
            if is_last or self._load(roomy) + self._cost(symbol) <= self._exchange.capabilities.streams_max:
                return roomy
        self._numbers += 1
        self._shards.append(Shard(self._numbers))
        return self._shards[-1]

    def _wake(self, shard: Shard) -> None:
        shard.redial.set()
        if shard.task is None and self._group is not None:
            shard.task = self._group.create_task(self._keep(shard))

    def _end(self, shard: Shard) -> None:
        if shard in self._shards:
            self._shards.remove(shard)
        if shard.task is not None:
            shard.task.cancel()

    async def _keep(self, shard: Shard) -> None:
        """Keep one socket open until it is ended: dial, listen, dial again with back-off and jitter."""
        redials, wait_s = Redials(), 0.0
        while True:
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            await self._take_leave(shard)
            shard.redial.clear()
            began_s = self._clock.monotonic()
            shard.heard = shard.is_silent = shard.has_leave = False
            cause = await self._one_connection(shard)
            shard.is_subscribed = False
            self._lost(shard.symbols, cause)
            self._meter.count("fks_feed_reconnects_total", exchange=self._exchange.name)
            wait_s = RETRY_FIRST_S
            if not shard.redial.is_set() or shard.is_silent:  # else we ended it, to dial with other symbols
                wait_s = redials.wait_s(began_s=began_s, now_s=self._clock.monotonic(), has_heard=shard.heard)
            if shard.refusal:
                wait_s = REFUSED_S
            wait_s *= self._rng.uniform(0.5, 1.0)

    async def _take_leave(self, shard: Shard) -> None:
        """Return when a socket may be dialled; the exchange may tell another meanwhile to wait."""
        while not shard.has_leave or self._clock.monotonic() < self._refused_until_s:
            if (wait_s := self._refused_until_s - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait_s)
            await self._turns.take(lambda: all(whose(strand)[1] is not None for strand in shard.symbols))
            shard.has_leave = True

    async def _one_connection(self, shard: Shard) -> str:
        """Listen until the connection ends or has to; return why it did. It is not ended by us before the next may be
        dialled."""
        listening = asyncio.create_task(self._listen(shard))
        tasks = [listening, asyncio.create_task(shard.redial.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                tasks.append(leaving := asyncio.create_task(self._take_leave(shard)))
                await asyncio.wait({listening, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if leaving.done():
                    leaving.result()
            cause = "silent" if shard.redial.is_set() and shard.is_silent else "disconnected"
        finally:
            for task in tasks:
                task.cancel()
            ended = (await asyncio.gather(*tasks, return_exceptions=True))[0]
        if isinstance(ended, OutageError):
            self._refused_until_s = max(self._refused_until_s, self._clock.monotonic() + ended.wait_s)
        if isinstance(ended, EXPECTED):
            shard.refusal = str(ended) if is_refusal(ended) else ""
            self._log.warning("feed.disconnected", exchange=self._exchange.name, socket=shard.number, error=str(ended))
        elif isinstance(ended, Exception):
            raise ended
        return cause

    async def _listen(self, shard: Shard) -> None:
        shard.left.clear()
        shard.asked = frozenset(shard.symbols)
        wanted = [item for symbol in sorted(shard.symbols) for item in self._wants(symbol)]
        async with contextlib.aclosing(self._exchange.watch(wanted)) as stream:  # type: ignore[type-var]
            async for batch in stream:
                if not shard.is_subscribed:
                    shard.is_subscribed, shard.refusal = True, ""
                    self._subscribed(shard.asked & shard.symbols)
                if shard.left:
                    batch = self._without(batch, shard.left)
                if batch:
                    shard.heard = True
                    self._heard(batch)

    def _without(self, batch: list[MarketEvent], left: set[str]) -> list[MarketEvent]:
        kept = [event for event in batch if told_on(event) not in left]
        if len(kept) < len(batch):
            self._meter.count("fks_market_dropped_total", len(batch) - len(kept), channel="left")
        return kept
