"""An exchange whose frames and REST answers are recorded on a tape, behind the same port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import fks
from fks.clock import Clock
from fks.config.paths import Paths
from fks.config.settings import Settings
from fks.market.exchanges.base.exchange import WireExchange
from fks.market.exchanges.base.wire import SubscriptionsAnswered, Wire
from fks.market.tape.recorder import Recorder
from fks.market.tape.records import Header, RecordKind
from fks.market.tape.writer import TapeWriter
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import ConfigError
from fks.model.instrument import Instrument
from fks.model.market import MarketEvent, Subscription
from fks.model.ports import Exchange, Log

FILE_S = 3600.0  # a file is closed after an hour, whatever its size
MB, GB = 1 << 20, 1 << 30


class RecordedWire:
    """A wire that passes each frame to a recorder before it decodes it."""

    def __init__(self, wire: Wire, recorder: Recorder) -> None:
        self._wire, self._recorder = wire, recorder
        self._connection = 0

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the wire's own address."""
        return self._wire.url(wanted)

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the wire's own frames. The tape gets the subscriptions, never the frames, which may carry a key."""
        self._connection = self._recorder.opened(self._wire.url(wanted), wanted)
        return self._wire.subscribe_frames(wanted)

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Record a frame and return the events that the wire decodes."""
        self._recorder.frame(self._connection, received_ns, frame)
        return self._wire.receive(frame, received_ns)

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the wire's own frames."""
        return self._wire.unsubscribe_frames(gone)

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return the frames that the wire has to send."""
        return self._wire.due_frames(now_s)


class RecordedExchange:
    """The port of `exchange`, with every frame and every REST answer recorded. Closing it closes the tape."""

    def __init__(self, exchange: Exchange, recorder: Recorder) -> None:
        if not isinstance(exchange, WireExchange):
            raise ConfigError(
                f"{exchange.name} has no wire that could be recorded", remedy="record one with a websocket"
            )
        self._exchange: Exchange = exchange
        self.source = exchange
        self.recorder = recorder
        self.name, self.capabilities, self.counters = exchange.name, exchange.capabilities, exchange.counters
        exchange.record(lambda wire: RecordedWire(wire, recorder))

    async def open(self) -> None:
        """Open the exchange."""
        await self._exchange.open()

    async def close(self) -> None:
        """Close the exchange, then the tape."""
        await self._exchange.close()
        await asyncio.to_thread(self.recorder.close)  # it waits for the disk

    async def instruments(self) -> list[Instrument]:
        """Return the listed instruments, and record them."""
        found = await self._exchange.instruments()
        self.recorder.answer(RecordKind.INSTRUMENTS, [], found)
        return found

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ns: int | None, limit: int, *, until_ns: int | None = None
    ) -> list[Bar]:
        """Return closed bars; see the port."""
        found = await self._exchange.fetch_bars(symbol, timeframe, since_ns, limit, until_ns=until_ns)
        self.recorder.answer(RecordKind.BARS, [symbol, timeframe, since_ns, limit, until_ns], found)
        return found

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None, since_ns: int | None, limit: int
    ) -> list[PublicTrade]:
        """Return public trades; see the port."""
        found = await self._exchange.fetch_trades(symbol, from_id=from_id, since_ns=since_ns, limit=limit)
        self.recorder.answer(RecordKind.TRADES, [symbol, from_id, since_ns, limit], found)
        return found

    def watch(self, wanted: Sequence[Subscription]) -> AsyncIterator[list[MarketEvent]]:
        """Yield live events; see the port."""
        return self._exchange.watch(wanted)

    async def connect_permit(self) -> None:
        """Return when a connection may be opened; see the port."""
        await self._exchange.connect_permit()

    def unsubscribe(self, gone: Sequence[Subscription]) -> None:
        """Unsubscribe these; see the port."""
        self._exchange.unsubscribe(gone)


def make_recorder(
    exchange: Exchange, folder: Path, clock: Clock, log: Log, *, file_mb: float = 64, keep_gb: float | None = None
) -> Recorder:
    """Return a recorder of `exchange` into `folder`; its thread runs. `keep_gb` None: no older tape is removed."""
    header = Header(exchange.name, clock.now_ns(), 0, fks.__version__, exchange.capabilities)
    keep_bytes = None if keep_gb is None else round(keep_gb * GB)
    writer = TapeWriter(folder, header, log, file_bytes=round(file_mb * MB), file_s=FILE_S, keep_bytes=keep_bytes)
    return Recorder(writer, clock, log)


def taped(exchange: Exchange, settings: Settings, clock: Clock, log: Log) -> Exchange:
    """Return `exchange`, recorded into FKS_HOME/tapes when `data.tape` is set and it has a wire."""
    if not settings.data.tape:
        return exchange
    if not isinstance(exchange, WireExchange):
        log.warning("tape.none", exchange=exchange.name)
        return exchange
    folder = Paths.of(settings.home).tapes / exchange.name
    recorder = make_recorder(
        exchange, folder, clock, log, file_mb=settings.data.tape_file_mb, keep_gb=settings.data.tape_keep_gb
    )
    return RecordedExchange(exchange, recorder)
