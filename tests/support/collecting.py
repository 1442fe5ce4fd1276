"""A collector on real parts for tests; `Child(collect, …)` is one in a process of its own, to kill."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, cast

from fks.clock import RealClock
from fks.config.settings import Data, Settings
from fks.market.collector.collector import Collector
from fks.market.exchanges.base import ExchangeAddresses
from fks.market.exchanges.registry import endpoint_of, make_exchange
from fks.market.feed import machine as m
from fks.market.feed.feed import SymbolFeed
from fks.model.bar import Bar
from fks.model.ports import Lease
from fks.model.timeframe import NS, TIMEFRAMES, bar_end, to_datetime, to_ns
from fks.store.bus import Bus
from fks.store.db import Database
from fks.store.leases import HeldLease
from fks.system.runtime import Runtime
from tests.support.feed_histories import MakeFeed, feed_maker
from tests.support.local_exchange import LocalExchange
from tests.support.ports import CollectingLog, RecordingMeter, TestLease
from tests.support.waiting import until

NAME = "collector:binance"
LEASE_S = 3.0


def settings_for(info: dict[str, Any], **data: Any) -> Settings:
    """Return settings that collect from the exchange `info` describes, with the short waits of the test profile."""
    return Settings(data=Data(rest_url=info["rest"], ws_url=info["ws"], **{"stale_min_s": 2.0, **data}))


def make_collector(
    settings: Settings,
    db: Database,
    bus: Bus,
    log: CollectingLog,
    *,
    epoch: int = 1,
    meter: RecordingMeter | None = None,
    lease: Lease | None = None,
    make_feed: MakeFeed = SymbolFeed,
) -> Collector:
    """Return a collector, not started."""
    clock = RealClock()
    name = settings.data.exchange
    assert endpoint_of(settings, None, name) != ExchangeAddresses()
    exchange = make_exchange(name, settings=settings, node=None, clock=clock, log=log)
    runtime = Runtime(
        settings, clock, db, bus, log, meter or RecordingMeter(), lease or TestLease(f"collector:{name}", epoch)
    )
    return Collector(exchange, runtime, make_feed=make_feed)


@contextlib.asynccontextmanager
async def running(collector: Collector, *, is_clean: bool = True) -> AsyncIterator[Collector]:
    """Start and run it; at the end stop it, or leave as kill -9 would (nothing more is written)."""
    await collector.start()
    task = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=8)
        assert task.done(), f"it did not end: {[(t, t.get_stack()) for t in asyncio.all_tasks()]}"
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
        if is_clean:
            await collector.stop()
        else:
            await collector.exchange.close()


async def collect(spec: dict[str, Any]) -> None:
    """Collect until killed: database, redis, info, data, epoch, histories?."""
    db = await Database.connect(spec["database"], application="collecting")
    bus = await Bus.connect(spec["redis"])
    log = CollectingLog(lines=Logged())
    settings = settings_for(spec["info"], **spec["data"])
    name = f"collector:{settings.data.exchange}"
    lease = HeldLease(
        db, RealClock(), name=name, epoch=spec["epoch"], holder="test", ttl_s=LEASE_S, renew_s=LEASE_S / 3
    )
    await lease.renew()
    collector = make_collector(
        settings,
        db,
        bus,
        log,
        epoch=spec["epoch"],
        meter=cast(RecordingMeter, NoMeter()),
        lease=lease,
        make_feed=feed_maker(spec["histories"]) if spec.get("histories") else _logged_feed(log),
    )
    await collector.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(lease.keep())
        group.create_task(collector.run())


class Newest(list[Any]):
    """A log that holds the newest lines only: a test that runs for an hour must not grow by its log."""

    def append(self, line: Any) -> None:
        super().append(line)
        if len(self) > 1000:
            del self[:500]


class Logged(Newest):
    """Lines that are also written to stderr, each with its time: why a feed was live is known afterwards."""

    def append(self, line: Any) -> None:
        super().append(line)
        print(time.time_ns(), *line, file=sys.stderr, flush=True)


def _logged_feed(log: CollectingLog) -> MakeFeed:
    """Return a maker of feeds that log each answer about a silence, too."""

    class LoggedFeed(SymbolFeed):
        def handle(self, event: m.FeedEvent) -> list[m.FeedAction]:
            actions = super().handle(event)
            if isinstance(event, m.SilenceChecked):
                found = {"trades": len(event.trades), "stream": str(self.stream), "state": str(self.state)}
                log.debug("feed.checked", symbol=self.symbol, **found)
            return actions

    return LoggedFeed


class NoMeter:
    """A Meter that remembers nothing."""

    def count(self, name: str, value: float = 1, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...
    def remove(self, name: str, **labels: str) -> None: ...


FEW: dict[str, Any] = {"timeframes": ("1s", "5s", "15s", "1m"), "symbols": ("BTCUSDT", "ETHUSDT"), "backfill_bars": 20}


async def sealed_ns(db: Database, timeframe: str = "1s", symbol: str = "BTCUSDT") -> int:
    rows = await db.sql(
        "SELECT sealed_through FROM feeds WHERE symbol = $1 AND timeframe = $2 AND sealed_through IS NOT NULL",
        symbol,
        timeframe,
    )
    return to_ns(rows[0][0]) if rows else 0


async def state(db: Database, symbol: str = "BTCUSDT") -> str:
    rows = await db.sql("SELECT state FROM feeds WHERE symbol = $1 AND timeframe = 'trades'", symbol)
    return str(rows[0][0]) if rows else ""


async def later(db: Database, seconds: float, *, deadline_s: float = 20.0, symbol: str = "BTCUSDT") -> None:
    """Wait until the feed sealed `seconds` of bars beyond where it stands."""
    since = await sealed_ns(db, symbol=symbol)

    async def moved() -> bool:
        return await sealed_ns(db, symbol=symbol) >= since + seconds * NS

    await until(moved, deadline_s=deadline_s)


async def check_stored(
    db: Database,
    exchange: LocalExchange,
    frames: tuple[str, ...] = FEW["timeframes"],
    symbols: tuple[str, ...] = FEW["symbols"],
) -> None:
    """Every stored bar up to sealed_through is the exchange's own, none is missing, none is from beyond.

    The witness is Binance's wire, which the local exchange speaks beside any other.
    """
    for symbol in symbols:
        trades = await db.sql("SELECT trade_id FROM market_trades WHERE symbol = $1 ORDER BY trade_id", symbol)
        numbers = [row[0] for row in trades]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a public trade is missing"
        for frame in frames:
            rows = await db.sql(
                "SELECT * FROM ohlcv_data WHERE symbol = $1 AND timeframe = $2 ORDER BY time", symbol, frame
            )
            times = [to_ns(row["time"]) for row in rows]
            assert times[-1] == await sealed_ns(db, frame, symbol)
            for before, after in itertools.pairwise(times):
                assert after == bar_end(before, frame), (
                    f"{symbol} {frame}: a bar is missing after {to_datetime(before)}"
                )
            assert all(row["is_complete"] for row in rows)
            stored, wanted = (
                {bar_of(row) for row in rows},
                set(klines(exchange, symbol, frame, times[0], times[-1], rows[0]["exchange"])),
            )
            assert stored == wanted, f"{symbol} {frame}: stored {stored - wanted}, the exchange has {wanted - stored}"


def bar_of(row: Any) -> Bar:
    return Bar(
        row["exchange"],
        row["symbol"],
        row["timeframe"],
        to_ns(row["time"]),
        row["open"],
        row["high"],
        row["low"],
        row["close"],
        row["volume"],
        row["trades"],
    )


def klines(
    exchange: LocalExchange, symbol: str, frame: str, first_ns: int, last_ns: int, name: str = "binance"
) -> list[Bar]:
    """Return the exchange's bars from first to last; those it does not have are grouped here, from its seconds."""
    interval = {"5s": "1s", "15s": "1s"}.get(frame, frame)
    rows: list[list[Any]] = []
    cursor, end = first_ns // 1_000_000, bar_end(last_ns, frame) // 1_000_000 - 1
    while cursor <= end:
        page = exchange.ask(
            "GET",
            "/api/v3/klines",
            symbol=symbol.replace("/", ""),
            interval=interval,
            startTime=cursor,
            endTime=end,
            limit=1000,
        )
        if not page:
            break
        rows += page
        cursor = page[-1][6] + 1
    size = TIMEFRAMES[frame] // TIMEFRAMES[interval] if TIMEFRAMES[frame] else 1
    bars = []
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        spoken = [row for row in group if row[8]] or group[:1]
        bars.append(
            Bar(
                name,
                symbol,
                frame,
                group[0][0] * 1_000_000,
                float(spoken[0][1]),
                max(float(r[2]) for r in spoken),
                min(float(r[3]) for r in spoken),
                float(group[-1][4]),
                sum(round(float(r[5]) * 1e8) for r in group) / 1e8,
                sum(r[8] for r in group),
            )
        )
    return bars
