"""Subscriptions spread over sockets, each dialled again by itself, so that one symbol's trouble is not every symbol's.

A symbol that is new gets a socket of its own, and nobody else's is touched; a symbol that went silent alone is taken to
another socket; a socket most of whose symbols are silent is dialled again. Beyond SOCKETS_MAX a socket with room takes
the symbol and is dialled again with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from fks.clock import Clock
from fks.model.errors import InputError, OutageError, PeerError
from fks.model.market import MarketEvent, Subscription
from fks.model.ports import Exchange, Log, Meter

SOCKETS_MAX = 24
DIAL_S = 15.0  # a connection that has no subscription by then never will
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
STEADY_S = 30.0  # a connection that stood for so long was a good one: the next one is dialled at once
_EXPECTED = (OutageError, PeerError, InputError)


@dataclass(slots=True, eq=False)
class Shard:
    """One socket and the symbols on it."""

    number: int
    symbols: set[str] = field(default_factory=set)
    redial: asyncio.Event = field(default_factory=asyncio.Event)
    is_subscribed: bool = False
    task: asyncio.Task[None] | None = None
    heard: bool = False
    is_silent: bool = False  # it is dialled anew because of that, and not for a new symbol


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

    def __len__(self) -> int:
        return len(self._shards)

    def run(self, group: asyncio.TaskGroup) -> None:
        """Let sockets live in `group` from here on."""
        self._group = group

    def is_subscribed(self, symbol: str) -> bool:
        """Return whether the subscriptions of a symbol stand."""
        shard = self._of.get(symbol)
        return shard is not None and shard.is_subscribed

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
                if taken and self._load(shard) + size + cost > self._exchange.traits.streams_max:
                    break
                size, taken = size + cost, taken + 1
            for symbol in waiting[:taken]:
                self._of[symbol] = shard
            shard.symbols.update(waiting[:taken])
            waiting = waiting[taken:]
            self._wake(shard)

    def drop(self, symbol: str) -> None:
        """Let go of a symbol: what still comes of it is for the collector to ignore until the socket is dialled again."""
        shard = self._of.pop(symbol, None)
        if shard is None:
            return
        shard.symbols.discard(symbol)
        if not shard.symbols:
            self._end(shard)

    def move(self, silent: Sequence[str]) -> None:
        """Give symbols that went silent another connection, disturbing the others as little as can be."""
        by_shard: dict[Shard, list[str]] = {}
        for symbol in silent:
            if (shard := self._of.get(symbol)) is not None:
                by_shard.setdefault(shard, []).append(symbol)
        for shard, symbols in by_shard.items():
            if len(symbols) * 2 >= len(shard.symbols) or len(self._shards) >= SOCKETS_MAX:
                shard.is_silent = True
                shard.redial.set()
                continue
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

    def _room_for(self, symbol: str) -> Shard:
        if len(self._shards) >= SOCKETS_MAX:
            roomy = min(self._shards, key=self._load)
            if self._load(roomy) + self._cost(symbol) <= self._exchange.traits.streams_max:
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
        tries = 0
        while True:
            shard.redial.clear()
            began_s = self._clock.monotonic()
            shard.heard = shard.is_silent = False
            cause = await self._one_connection(shard)
            shard.is_subscribed = False
            self._lost(shard.symbols, cause)
            self._meter.count("fks_feed_reconnects_total", exchange=self._exchange.name)
            was_good = shard.heard and (tries == 0 or self._clock.monotonic() - began_s > STEADY_S)
            tries = 0 if was_good else tries + 1
            wait_s = min(RETRY_FIRST_S * 2 ** min(tries, 8), RETRY_MAX_S)
            await self._clock.sleep(wait_s * self._rng.uniform(0.5, 1.0))

    async def _one_connection(self, shard: Shard) -> str:
        """Listen until the connection ends or has to; return why it did."""
        listening = asyncio.create_task(self._listen(shard))
        redialling = asyncio.create_task(shard.redial.wait())
        try:
            await asyncio.wait({listening, redialling}, timeout=DIAL_S, return_when=asyncio.FIRST_COMPLETED)
            if shard.is_subscribed:
                await asyncio.wait({listening, redialling}, return_when=asyncio.FIRST_COMPLETED)
            cause = "silent" if redialling.done() and shard.is_silent else "disconnected"
        finally:
            redialling.cancel()
            listening.cancel()
            ended = (await asyncio.gather(listening, return_exceptions=True))[0]
        if isinstance(ended, _EXPECTED):
            self._log.warning("feed.disconnected", exchange=self._exchange.name, socket=shard.number, error=str(ended))
        elif isinstance(ended, Exception):
            raise ended
        return cause

    async def _listen(self, shard: Shard) -> None:
        wanted = [item for symbol in sorted(shard.symbols) for item in self._wants(symbol)]
        async with contextlib.aclosing(self._exchange.watch(wanted)) as stream:  # type: ignore[type-var]
            async for batch in stream:
                if not shard.is_subscribed:
                    shard.is_subscribed = True
                    self._subscribed(frozenset(shard.symbols))
                if batch:
                    shard.heard = True
                    self._heard(batch)
