"""A tape in place of an exchange: the same port, so the same collector, feeds and bars, at any speed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fks.clock import Clock
from fks.market.tape.player import Played, play, wires_of
from fks.market.tape.reader import header_of, read_records, tape_files
from fks.market.tape.records import RecordKind, TapeRecord
from fks.market.tape.rest_answers import RestAnswers
from fks.model.bar import Bar, BarClosed, PublicTrade
from fks.model.errors import FksError, InputError
from fks.model.instrument import Instrument
from fks.model.market import BarSeen, Book, Channel, ConnectionCounters, Discontinuity, MarketEvent, Quote, Subscription
from fks.model.timeframe import NS

BATCH = 256  # events of one batch at full speed
WAITING_MAX = 64  # batches that wait for a slow watcher; then the tape waits


@dataclass(eq=False, slots=True)
class _Watcher:
    wanted: set[tuple[Channel, str]]
    queue: asyncio.Queue[list[MarketEvent] | None] = field(default_factory=lambda: asyncio.Queue(WAITING_MAX))

    def close(self) -> None:
        """Drop the waiting and the current batch, so that a closed watcher delays no other."""
        with contextlib.suppress(ValueError, asyncio.QueueEmpty):
            self.queue.task_done()
        while not self.queue.empty():
            self.queue.get_nowait()
            self.queue.task_done()


class TapeExchange:
    """The port of the exchange that a tape was recorded from.

    `speed` is tape seconds per second; None plays as fast as the watchers read. Guarantees: every event of a wanted
    channel is yielded, in order, however slow the watcher; REST returns nothing later than the present of the replay.
    The tape begins with the first `watch`, after `lead_s` without a REST request (a collector first requests the past).
    It plays once: at its end `ended` is set and the connections stay open without events.
    """

    def __init__(self, path: Path, clock: Clock, *, speed: float | None = None, lead_s: float = 0.0) -> None:
        if speed is not None and not speed > 0:  # also refuses nan
            raise InputError(f"speed {speed:g} is not above 0", remedy="1 is as it was, 10 ten times as fast")
        self._files = tape_files(path)
        header = header_of(self._files)
        self.name, self.capabilities = header.exchange, header.capabilities
        self.counters = ConnectionCounters()
        self.ended = asyncio.Event()
        self.answers = RestAnswers()
        self._clock, self._speed, self._lead_s = clock, speed, lead_s
        self._asked_s = 0.0
        self._watchers: set[_Watcher] = set()
        self._has_watcher = asyncio.Event()
        self._player: asyncio.Task[None] | None = None
        self._error: FksError | None = None
        self._begun_ns, self._begun_s = 0, 0.0

    async def open(self) -> None:
        """Read the recorded REST answers. Errors: InputError TAPE_BROKEN."""
        self.answers.prepare(read_records(self._files))

    async def close(self) -> None:
        """Stop playing."""
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait({self._player})

    async def instruments(self) -> list[Instrument]:
        """Return the instruments that the exchange listed then."""
        return list(self.answers.instruments.values())

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars that are on the tape, up to its present."""
        self._asked_s = self._clock.monotonic()
        return self.answers.bars(symbol, timeframe, since_ns, limit, until_ns)

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return trades that are on the tape, up to its present."""
        self._asked_s = self._clock.monotonic()
        return self.answers.trades(symbol, from_id, since_ns, limit)

    async def connect_permit(self) -> None:
        """Return at once."""

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Stop yielding these to the present watchers."""
        for watcher in self._watchers:
            watcher.wanted.difference_update((item.channel, item.symbol) for item in gone)

    async def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield the events of `wanted` from the present of the replay on; see the port. Errors: InputError of a damaged
        tape."""
        watcher = _Watcher({(item.channel, item.symbol) for item in wanted})
        self._watchers.add(watcher)
        self._has_watcher.set()
        try:
            yield []
            if self._player is None:
                self._player = asyncio.create_task(self._run())
            while (batch := await watcher.queue.get()) is not None:
                yield batch
                watcher.queue.task_done()
            assert self._error is not None
            raise self._error
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._has_watcher.clear()
            watcher.close()

    # ── the player ───────────────────────────────────────────────────────────────────────────────
    async def _run(self) -> None:
        try:
            await self._play()
        except FksError as error:
            self._error = error
            for watcher in list(self._watchers):
                await watcher.queue.put(None)

    async def _play(self) -> None:
        waiting: list[MarketEvent] = []
        self._asked_s = max(self._asked_s, self._clock.monotonic())
        while (left_s := self._asked_s + self._lead_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(left_s)
        self._begun_s = self._clock.monotonic()
        for played in play(self._passing(), wires_of(self.name)):
            wait_s = self._wait_s(played)
            if wait_s > 0.001 or len(waiting) >= BATCH:
                await self._hand(waiting)
                waiting = []
                await self._clock.sleep(max(0.0, wait_s))
            self.answers.now_ns = max(self.answers.now_ns, played.received_ns)
            self.answers.receive(played.events)
            waiting.extend(played.events)
        await self._hand(waiting)
        for watcher in list(self._watchers):
            await watcher.queue.join()
        self.ended.set()

    def _passing(self) -> Iterator[TapeRecord]:
        for record in read_records(self._files):
            self.answers.pass_by(record)
            yield record

    def _wait_s(self, played: Played) -> float:
        """Return the wait until a record is due; 0 at full speed."""
        if self._speed is None or played.kind is not RecordKind.FRAME:
            return 0.0
        self._begun_ns = self._begun_ns or played.received_ns
        return self._begun_s + (played.received_ns - self._begun_ns) / NS / self._speed - self._clock.monotonic()

    async def _hand(self, events: list[MarketEvent]) -> None:
        if not events:
            return
        await self._has_watcher.wait()  # between two connections of a collector the tape waits for a watcher
        for watcher in list(self._watchers):
            mine = [event for event in events if _address(event) in watcher.wanted]
            if mine:
                await watcher.queue.put(mine)


def _address(event: MarketEvent) -> tuple[Channel, str]:
    """Return the channel and symbol of an event, by which watchers receive it."""
    match event:
        case PublicTrade():
            return Channel.TRADES, event.symbol
        case BarClosed():
            return Channel.BARS, event.symbol
        case BarSeen():
            return Channel.BARS, event.bar.symbol
        case Quote():
            return Channel.QUOTES, event.symbol
        case Book():
            return Channel.BOOK, event.symbol
        case Discontinuity():
            return event.channel, event.symbol
    known = event.channel if event.channel in {str(channel) for channel in Channel} else Channel.TRADES
    return Channel(known), event.symbol
