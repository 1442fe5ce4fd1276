"""Tapes made for tests: recorded Binance frames through a real recorder."""

from __future__ import annotations

import json
from pathlib import Path

import fks
from fks.clock import FakeClock
from fks.market.exchanges.base.wire import SubscriptionsAnswered, Wire
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.market.exchanges.binance.wire import BinanceWire
from fks.market.tape.recorded_exchange import RecordedWire
from fks.market.tape.recorder import Recorder
from fks.market.tape.records import Header
from fks.market.tape.writer import TapeWriter
from fks.model.market import Channel, MarketEvent, Subscription
from fks.model.ports import Log
from tests.support.ports import CollectingLog
from tests.support.recorded import agg_trades, raw_trades

WANTED = (Subscription(Channel.TRADES, "BTCUSDT"),)
BEGIN_NS = 1_723_161_250_000_000_000


def frames(count: int | None = None) -> list[tuple[int, bytes]]:
    """Return (received_ns, frame) of the recorded trades, after the answer to the subscription."""
    rows = agg_trades(raw_trades())[:count]
    made = [(BEGIN_NS, b'{"result":null,"id":1}')]
    made += [
        (row["E"] * 1_000_000 + 5_000_000, json.dumps({"stream": "btcusdt@aggTrade", "data": row}).encode())
        for row in rows
    ]
    return made


def recorder_into(
    folder: Path,
    log: Log | None = None,
    *,
    file_bytes: int = 64 << 20,
    keep_bytes: int = 1 << 30,
    waiting_max: int = 64 << 20,
    clock: FakeClock | None = None,
) -> Recorder:
    """Return a recorder of Binance into `folder`, on a clock that stands still."""
    clock = clock or FakeClock()
    header = Header("binance", clock.now_ns(), 0, fks.__version__, BinanceExchange.capabilities)
    log = log or CollectingLog()
    writer = TapeWriter(folder, header, log, file_bytes=file_bytes, file_s=3600, keep_bytes=keep_bytes)
    return Recorder(writer, clock, log, waiting_max=waiting_max)


def events_of(wire: Wire, rows: list[tuple[int, bytes]]) -> list[MarketEvent]:
    """Return what a wire reads in frames."""
    return [e for ns, frame in rows for e in wire.receive(frame, ns) if not isinstance(e, SubscriptionsAnswered)]


def make_tape(folder: Path, rows: list[tuple[int, bytes]] | None = None) -> list[MarketEvent]:
    """Record frames; return the events that the wire gave while they were recorded."""
    recorder = recorder_into(folder)
    wire = RecordedWire(BinanceWire(), recorder)
    wire.subscribe_frames(WANTED)
    found = events_of(wire, frames() if rows is None else rows)
    recorder.close()
    return found
