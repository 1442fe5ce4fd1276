"""What came late and what is hard to believe: the exchange's own bar decides, the store tells both, nothing is repaired
in silence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from fks.bars.aggregate import BarBuilder
from fks.clock import Clock, FakeClock, RealClock
from fks.collector import gap_filler as module
from fks.collector import writer as writer_module
from fks.collector.gap_filler import Holes
from fks.collector.writer import Writer, judge
from fks.feed.feed import SymbolFeed
from fks.feed.findings import FeedState, Sealed
from fks.model.bar import Bar, PublicTrade
from fks.model.timeframe import NS
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.quarantine import QuarantineStore, Settled
from tests.support.paper_market import PaperMarket
from tests.support.ports import CollectingLog, RecordingMeter
from tests.support.waiting import until

T0 = 1_767_225_600 * NS
FRAMES = ("1s", "1m")


def trade(number: int, second: float, price: str) -> PublicTrade:
    return PublicTrade("binance", "BTCUSDT", number, T0 + round(second * 1e9), Decimal(price), Decimal(1), False)


class Rig:
    """A live feed on a paper market and a real store."""

    def __init__(
        self, database: Database, bus: Bus, log: CollectingLog, market: PaperMarket, clock: Clock | None = None
    ) -> None:
        store = FeedStore(database, "binance", 1, RealClock())
        self.store = store
        self.writer = Writer(store, bus, clock or RealClock(), RecordingMeter(), log, tell_s=0.5)
        self.quarantine = QuarantineStore(database)
        self.feed = SymbolFeed("BTCUSDT", 0.0, stale_min_s=10, stale_max_s=120, frames=FRAMES)
        self.holes = Holes(
            market,
            store,
            self.quarantine,
            RealClock(),
            log,
            Random(1),
            bars_empty=5,
            trades_keep_h=24.0,
            set_state=self.set_state,
            is_subscribed=lambda symbol: True,
            advance=lambda feed: None,
        )

    @staticmethod
    def set_state(feed: SymbolFeed, state: FeedState, cause: str) -> None:
        feed.state = state

    async def begin(self) -> None:
        self.feed.positions = (await self.store.claim(["BTCUSDT"], FRAMES))["BTCUSDT"]
        self.feed.restart(BarBuilder("binance", "BTCUSDT", FRAMES, T0, previous=Decimal(9)), 0, [])
        self.feed.state = FeedState.LIVE

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            self.holes.run(group)
            yield
            self.holes.cancel("BTCUSDT")


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_NS", NS // 20)


@contextlib.asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[list[dict[str, Any]]]:
    """Give what is told of bars while the block runs, the subscription standing."""
    heard: list[dict[str, Any]] = []

    async def listen() -> None:
        async for _, payload in bus.subscribe(BARS):
            heard.append(payload)

    async def stands() -> bool:
        await bus.publish(BARS, {})
        return bool(heard)

    listener = asyncio.create_task(listen())
    try:
        await until(stands)
        yield heard
    finally:
        listener.cancel()


async def test_a_late_trade_changes_its_sealed_bar_to_the_exchanges_with_a_revision(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    told = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(told, key=lambda t: t.time_ns))  # the exchange counts it where it belongs
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with listening(bus) as heard, rig.running():
        rig.feed.receive(list(told[:3]), T0 + 2 * NS, 2.0)
        rig.feed.advance(T0 + 2 * NS, 2.0)
        await rig.writer.flush_all([rig.feed])
        assert (rig.feed.late, len(rig.feed.late_ns)) == (1, 1)
        rig.holes.revise(rig.feed)
        await until(lambda: rig.feed.revised and not rig.holes.is_repairing("BTCUSDT"))
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("revision") for message in heard))
    seconds = [(m["time"][17:19], m["high"], m["revision"]) for m in heard if m.get("timeframe") == "1s"]
    assert seconds == [("00", "10.0", 0), ("00", "99.0", 1)]  # told when it was sealed, and again when it was corrected
    rows = await database.sql(
        "SELECT high, trades, revision, source FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 1, "revised")
    minute = await database.sql("SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1m'")
    assert tuple(minute[0]) == (99.0, 3, 0)  # it was open, and began anew with what the exchange has
    assert "bar.revised" in log.events("warning")


class ById(PaperMarket):
    """Answers trades in the order of their ids, which need not be that of their times."""

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None = None, since_ns: int | None = None, limit: int = 1000
    ) -> list[PublicTrade]:
        shown = sorted((t for t in self.trades if t.time_ns <= self.now_ns), key=lambda t: t.trade_id)
        if from_id is None and since_ns is None:
            return shown[-limit:]
        return [t for t in shown if t.trade_id >= (from_id or 0) and t.time_ns >= (since_ns or 0)][:limit]


async def test_a_correction_that_died_with_its_collector_is_made_by_the_next(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    told = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 2.2, "12"), trade(5, 61.0, "12")]
    market = ById(sorted(told, key=lambda t: t.time_ns))
    market.now_ns = T0 + 4 * NS
    dead = Rig(database, bus, log, market)
    await dead.begin()
    dead.feed.receive(list(told[:4]), T0 + 4 * NS, 4.0)
    dead.feed.advance(T0 + 4 * NS, 4.0)
    await dead.writer.flush_all([dead.feed])
    assert dead.feed.late_ns, "its correction is in hand"
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    async with rig.running():
        rig.holes.repair(rig.feed, None)
        await until(
            lambda: any(sealed.bar.high == 99.0 and sealed.bar.timeframe == "1s" for sealed in rig.feed.revised)
        )
        await rig.writer.flush_all([rig.feed])
    rows = await database.sql(
        "SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 1)


async def test_a_bar_corrected_before_it_was_stored_is_stored_and_told_once_and_corrected(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    told = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(told, key=lambda t: t.time_ns))
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with listening(bus) as heard, rig.running():
        rig.feed.receive(list(told[:3]), T0 + 2 * NS, 2.0)
        rig.feed.advance(T0 + 2 * NS, 2.0)  # the store is away: nothing is flushed meanwhile
        rig.holes.revise(rig.feed)
        await until(lambda: rig.feed.revised and not rig.holes.is_repairing("BTCUSDT"))
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("timeframe") == "1s" for message in heard))
    seconds = [(m["high"], m["revision"]) for m in heard if m.get("timeframe") == "1s" and m["time"][17:19] == "00"]
    assert seconds == [("99.0", 0)]
    rows = await database.sql(
        "SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 0)
    assert "bar.revised" not in log.events("warning"), "nobody knew another"


async def test_an_exchanges_own_bar_that_cannot_be_true_corrects_nothing(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    told = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(told, key=lambda t: t.time_ns))
    market.now_ns = T0 + 62 * NS
    market.bars("1s")[0] = dataclasses.replace(market.bars("1s")[0], low=0.0)
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with rig.running():
        rig.feed.receive(list(told[:3]), T0 + 2 * NS, 2.0)
        rig.feed.advance(T0 + 2 * NS, 2.0)
        rig.holes.revise(rig.feed)

        async def is_held() -> bool:
            return len(await rig.quarantine.rows("binance")) == 1

        await until(is_held)
        await until(lambda: ("revise", "BTCUSDT") not in rig.holes._tasks and not rig.holes.is_repairing("BTCUSDT"))
        await rig.writer.flush_all([rig.feed])
    (row,) = await rig.quarantine.rows("binance")
    assert (row.held.timeframe, row.held.time_ns, row.held.reason) == ("1s", T0, "not_positive")
    rows = await database.sql(
        "SELECT low, high, revision, source FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (10.0, 10.0, 0, "live")


async def test_a_bar_corrected_twice_before_a_flush_is_what_it_was_last(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    first = Bar("binance", "BTCUSDT", "1m", T0, 10.0, 11.0, 9.0, 10.0, 1.0, 1)
    rig.feed.sealed.append(Sealed(first, 1, "live"))
    async with listening(bus) as heard:
        await rig.writer.flush_all([rig.feed])
        for high in (12.0, 13.0):
            rig.feed.revised.append(Sealed(dataclasses.replace(first, high=high), None, "revised"))
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("revision") for message in heard))
    assert [(m["high"], m["revision"]) for m in heard if m] == [("11.0", 0), ("13.0", 1)]
    assert log.events("warning") == ["bar.revised"]
    rig.feed.revised.append(Sealed(dataclasses.replace(first, high=13.0), None, "revised"))
    await rig.writer.flush_all([rig.feed])
    assert log.events("warning") == ["bar.revised"], "the same again is no news"


async def test_a_correction_from_an_exchange_that_counts_no_trades_leaves_the_count_alone(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    built = [Bar("binance", "BTCUSDT", "1m", T0 + n * 60 * NS, 10.0, 11.0, 9.0, 10.0, 1.0, 5) for n in range(3)]
    told = [dataclasses.replace(bar, trades=0) for bar in built]
    told[1] = dataclasses.replace(told[1], high=12.0)
    rig.feed.sealed.extend(Sealed(bar, 1, "live") for bar in built[:2])
    await rig.writer.flush_all([rig.feed])
    rig.feed.sealed.append(Sealed(built[2], 1, "live"))  # this one is corrected before it is stored
    rig.feed.revised.extend(Sealed(bar, None, "revised") for bar in told)
    await rig.writer.flush_all([rig.feed])
    rows = await database.sql("SELECT high, trades, revision FROM ohlcv_data ORDER BY time")
    assert [tuple(row) for row in rows] == [(11.0, 5, 0), (12.0, 5, 1), (11.0, 5, 0)]
    assert log.events("warning") == ["bar.revised"]


async def test_a_correction_does_not_overtake_the_bar_that_it_corrects(
    database: Database, bus: Bus, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BARS_MAX", 1)
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    bars = [Bar("binance", "BTCUSDT", "1s", T0 + n * NS, 10.0, 11.0, 9.0, 10.0, 1.0, 1) for n in range(3)]
    rig.feed.sealed.extend(Sealed(bar, n, "live") for n, bar in enumerate(bars))
    rig.feed.revised.append(Sealed(dataclasses.replace(bars[2], high=12.0), None, "revised"))
    await rig.writer.flush_all([rig.feed])
    rows = await database.sql("SELECT high, revision FROM ohlcv_data ORDER BY time")
    assert [tuple(row) for row in rows] == [(11.0, 0), (11.0, 0), (12.0, 0)]


async def test_an_unusual_bar_stands_in_the_quarantine_until_the_exchange_says_it_again(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    prices = ["10", "10.01"] * 25 + ["17", "10"]
    market = PaperMarket([trade(n, 60 * n + 1, price) for n, price in enumerate(prices)])
    market.now_ns = T0 + 60 * len(prices) * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    bars = [bar for bar in market.bars("1m") if bar.time_ns < T0 + 60 * 51 * NS]
    judge(rig.feed, bars)
    (doubted, why) = rig.feed.doubted[0]
    assert (doubted.close, "%" in why) == (17.0, True)
    made_up = dataclasses.replace(bars[3], high=55.0)
    rig.feed.doubted.append((made_up, "a print that the exchange takes back"))
    async with rig.running():
        rig.holes.confirm(rig.feed)
        await until(lambda: not rig.feed.doubted)
    rows = {row.held.time_ns: row for row in await rig.quarantine.rows("binance", with_settled=True)}
    assert rows[doubted.time_ns].verdict is Settled.CONFIRMED
    assert rows[made_up.time_ns].verdict is Settled.REFUSED
    assert [item.bar for item in rig.feed.revised] == [bars[3]]
    assert log.events("warning").count("bar.doubted") == 2


def test_only_the_smallest_bars_from_a_minute_on_are_judged() -> None:
    feed = SymbolFeed("X", 0.0, stale_min_s=1, stale_max_s=2, frames=("1s", "5m", "1h"))
    usual = [Bar("b", "X", "5m", T0 + n * 300 * NS, 10, 10.01, 9.99, 10, 1) for n in range(40)]
    judge(feed, [*usual, Bar("b", "X", "1h", T0, 99, 99, 99, 99, 1), Bar("b", "X", "5m", T0, 99, 99, 99, 99, 1)])
    assert [bar.timeframe for bar, _ in feed.doubted] == ["5m"]


async def test_a_live_feed_is_told_again_though_nothing_is_new(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    """Its row says that its collector still knows: what was live when PostgreSQL went away is not when it is back."""
    clock = FakeClock()
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]), clock)
    await rig.begin()

    async def told() -> Any:
        await rig.writer.flush([rig.feed])
        (row,) = await database.sql("SELECT updated_at FROM feeds WHERE timeframe = 'trades'")
        return row["updated_at"]

    first = await told()
    assert await told() == first, "twice at once is once"
    await clock.advance(0.6)
    assert await told() > first
    rig.feed.state = FeedState.STALE
    last = await told()
    await clock.advance(0.6)
    assert await told() == last, "of a feed that is not live nobody needs to know"
