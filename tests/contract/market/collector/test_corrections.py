"""Late trades and suspect bars: the exchange's own bar decides, the store keeps both, every correction is logged."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from fks.clock import Clock, FakeClock, RealClock
from fks.config.settings import Data
from fks.market.collector import gap_filler as module
from fks.market.collector import writer as writer_module
from fks.market.collector.gap_filler import GapFiller
from fks.market.collector.writer import Writer
from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.market.feed.queues import Sealed
from fks.model.bar import Bar, PublicTrade
from fks.model.feed import TRADES, FeedRow
from fks.model.market import TradeIds, TradesFrom
from fks.model.timeframe import NS
from fks.store.bus import BARS, Bus
from fks.store.db import Database
from fks.store.feeds import FeedStore
from fks.store.quarantine import QuarantineStore, SettledAs
from tests.support.feeds import recovered, recovery
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
        self.writer = Writer(store, bus, clock or RealClock(), RecordingMeter(), log, refresh_s=0.5)
        self.quarantine = QuarantineStore(database)
        self.feed = SymbolFeed(FeedSpec("BTCUSDT", 10, 120, FRAMES), 0.0)
        data = Data(backfill_bars=5, trades_keep_h=24.0)
        self.gap_filler = GapFiller(market, store, self.quarantine, RealClock(), log, data, handle=self.handle)

    def handle(self, feed: SymbolFeed, event: m.FeedEvent) -> None:
        for action in feed.handle(event):
            if not isinstance(action, m.CheckSilence):  # our clock is no clock of this market
                self.gap_filler.perform(feed, action)

    async def begin(self) -> None:
        """Make the feed live since T0, with nothing to backfill."""
        self.feed.handle(m.Subscribed(T0, 0.0))
        positions = (await self.store.claim(["BTCUSDT"], FRAMES))["BTCUSDT"]
        self.feed.handle(m.Claimed(T0, 0.0, positions, None))
        recovered(self.feed, recovery(timeframes=FRAMES), T0, 0.0)
        self.feed.handle(m.BackfillFinished(T0, 0.0))
        self.feed.outages.take()

    def received(self, trades: list[PublicTrade], second: float) -> None:
        self.handle(self.feed, m.Received(T0 + round(second * NS), second, list(trades)))

    async def corrected(self) -> None:
        """Have the bars of late trades corrected."""
        self.gap_filler.perform(self.feed, m.CorrectBars())
        await until(lambda: self.feed.unstored.revised and self.gap_filler.is_idle)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            self.gap_filler.run(group)
            yield
            self.gap_filler.cancel("BTCUSDT")


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_NS", NS // 20)


@contextlib.asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the bus messages of bars while the block runs, once the subscription stands."""
    messages: list[dict[str, Any]] = []

    async def listen() -> None:
        async for _, payload in bus.subscribe(BARS):
            messages.append(payload)

    async def stands() -> bool:
        await bus.publish(BARS, {})
        return bool(messages)

    listener = asyncio.create_task(listen())
    try:
        await until(stands)
        yield messages
    finally:
        listener.cancel()


async def test_late_trade_replaces_its_sealed_bar_with_a_revision(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(trades, key=lambda t: t.time_ns))  # the exchange counts it where it belongs
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with listening(bus) as messages, rig.running():
        rig.received(trades[:3], 2.0)
        await rig.writer.flush_all([rig.feed])
        assert (rig.feed.late, rig.feed.late_waiting) == (1, 1)
        await rig.corrected()
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("revision") for message in messages))
    seconds = [(m["time"][17:19], m["high"], m["revision"]) for m in messages if m.get("timeframe") == "1s"]
    assert seconds == [("00", "10.0", 0), ("00", "99.0", 1)]  # at its seal and at its correction
    rows = await database.sql(
        "SELECT high, trades, revision, source FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 1, "revised")
    minute = await database.sql("SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1m'")
    assert tuple(minute[0]) == (99.0, 3, 0)  # it was open, and was rebuilt from the exchange
    assert "bar.revised" in log.events("warning")


class WithoutSeconds(PaperMarket):
    """Has no bars of seconds, and returns trades by time, as Kraken does."""

    capabilities = dataclasses.replace(
        PaperMarket.capabilities,
        timeframes=PaperMarket.capabilities.timeframes - {"1s"},
        trades_from=TradesFrom.TIME,
    )


async def test_late_trade_corrects_a_bar_that_the_exchange_itself_does_not_have(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 3.1, "12")]
    market = WithoutSeconds(sorted(trades, key=lambda t: t.time_ns))
    market.now_ns = T0 + 5 * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with rig.running():
        rig.received(trades[:3], 2.0)
        await rig.writer.flush_all([rig.feed])
        await rig.corrected()
        await rig.writer.flush_all([rig.feed])
    rows = await database.sql(
        "SELECT open, high, close, trades, revision, source FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (10.0, 99.0, 99.0, 2, 1, "revised")


async def test_rest_that_lags_takes_no_trade_from_a_bar_that_is_stored(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 0.7, "99"), trade(3, 1.2, "11")]
    market = WithoutSeconds(trades)
    market.now_ns = T0 + NS // 2  # it shows the first one alone
    dead = Rig(database, bus, log, market)
    await dead.begin()
    dead.received(trades, 2.0)
    await dead.writer.flush_all([dead.feed])
    rig = Rig(database, bus, log, market)
    rig.feed.handle(m.Subscribed(T0 + 2 * NS, 0.0))
    positions = (await rig.store.claim(["BTCUSDT"], FRAMES))["BTCUSDT"]
    rig.feed.handle(m.Claimed(T0 + 2 * NS, 0.0, positions, None))
    async with rig.running():
        rig.gap_filler.perform(rig.feed, m.RecheckBars())
        await until(lambda: "feed.revision" in log.events("warning"), deadline_s=5)
        assert not rig.feed.unstored.revised
        market.now_ns = T0 + 3 * NS
        await until(lambda: rig.feed.unstored.revised, deadline_s=15)
    assert {(bar.bar.high, bar.bar.trades) for bar in rig.feed.unstored.revised if bar.bar.timeframe == "1s"} == {
        (99.0, 2)
    }


class RisingIds(WithoutSeconds):
    """Does not promise that ids have no gaps; REST shows the trades up to `now_ns`."""

    capabilities = dataclasses.replace(WithoutSeconds.capabilities, trade_ids=TradeIds.RISING)


async def test_trades_that_the_store_lacks_are_fetched_by_their_time(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    """Bars filled a gap without them; the exchange itself leaves 5 and 6 out, and is asked for those once."""
    at_ns = time.time_ns() - 60 * NS
    numbers = (1, 2, 3, 4, 7, 8)
    trades = [msgspec.structs.replace(trade(n, 0.0, "10"), time_ns=at_ns + n * NS) for n in numbers]
    market = RisingIds(trades)
    rig = Rig(database, bus, log, market)
    await rig.begin()
    await rig.store.flush([FeedRow("BTCUSDT", TRADES)], [], [trades[0], trades[-1]])

    async def ids() -> list[int]:
        rows = await database.sql("SELECT trade_id FROM market_trades ORDER BY trade_id")
        return [row[0] for row in rows]

    async with rig.running():
        rig.gap_filler.perform(rig.feed, m.RefetchTrades())  # its REST is late
        await until(lambda: "feed.refill" in log.events("warning"))
        assert await ids() == [1, 8]
        rig.gap_filler.cancel("BTCUSDT")
        await until(lambda: rig.gap_filler.is_idle)
        market.now_ns = trades[-1].time_ns
        rig.gap_filler.perform(rig.feed, m.RefetchTrades())
        await until(lambda: rig.gap_filler.is_idle)
        assert await ids() == list(numbers)
        calls = market.calls
        rig.gap_filler.perform(rig.feed, m.RefetchTrades())
        await until(lambda: rig.gap_filler.is_idle)
        assert market.calls == calls


class ById(PaperMarket):
    """Answers trades in the order of their ids, which need not be that of their times."""

    async def fetch_trades(
        self, symbol: str, *, from_id: int | None = None, since_ns: int | None = None, limit: int = 1000
    ) -> list[PublicTrade]:
        shown = sorted((t for t in self.trades if t.time_ns <= self.now_ns), key=lambda t: t.trade_id)
        if from_id is None and since_ns is None:
            return shown[-limit:]
        return [t for t in shown if t.trade_id >= (from_id or 0) and t.time_ns >= (since_ns or 0)][:limit]


async def test_correction_lost_with_its_collector_is_made_by_the_next(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 2.2, "12"), trade(5, 61.0, "12")]
    market = ById(sorted(trades, key=lambda t: t.time_ns))
    market.now_ns = T0 + 4 * NS
    dead = Rig(database, bus, log, market)
    await dead.begin()
    dead.received(trades[:4], 4.0)
    await dead.writer.flush_all([dead.feed])
    assert dead.feed.late_waiting, "its correction is in hand"
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    async with rig.running():
        rig.handle(rig.feed, m.Subscribed(market.now_ns, 0.0))
        await until(
            lambda: any(
                sealed.bar.high == 99.0 and sealed.bar.timeframe == "1s" for sealed in rig.feed.unstored.revised
            )
        )
        await rig.writer.flush_all([rig.feed])
    rows = await database.sql(
        "SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 1)


async def test_bar_corrected_before_it_was_stored_is_published_once(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(trades, key=lambda t: t.time_ns))
    market.now_ns = T0 + 62 * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with listening(bus) as messages, rig.running():
        rig.received(trades[:3], 2.0)  # the store is away: nothing is flushed meanwhile
        await rig.corrected()
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("timeframe") == "1s" for message in messages))
    seconds = [(m["high"], m["revision"]) for m in messages if m.get("timeframe") == "1s" and m["time"][17:19] == "00"]
    assert seconds == [("99.0", 0)]
    rows = await database.sql(
        "SELECT high, trades, revision FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (99.0, 2, 0)
    assert "bar.revised" not in log.events("warning"), "nobody knew another"


async def test_invalid_bar_of_the_exchange_corrects_nothing(database: Database, bus: Bus, log: CollectingLog) -> None:
    trades = [trade(1, 0.1, "10"), trade(2, 1.2, "11"), trade(3, 0.5, "99"), trade(4, 61.0, "12")]
    market = PaperMarket(sorted(trades, key=lambda t: t.time_ns))
    market.now_ns = T0 + 62 * NS
    market.bars("1s")[0] = dataclasses.replace(market.bars("1s")[0], low=0.0)
    rig = Rig(database, bus, log, market)
    await rig.begin()
    async with rig.running():
        rig.received(trades[:3], 2.0)
        rig.gap_filler.perform(rig.feed, m.CorrectBars())

        async def is_held() -> bool:
            return len(await rig.quarantine.rows("binance")) == 1

        await until(is_held)
        await until(lambda: rig.gap_filler.is_idle)
        await rig.writer.flush_all([rig.feed])
    (row,) = await rig.quarantine.rows("binance")
    assert (row.held.timeframe, row.held.time_ns, row.held.reason) == ("1s", T0, "not_positive")
    rows = await database.sql(
        "SELECT low, high, revision, source FROM ohlcv_data WHERE timeframe = '1s' ORDER BY time LIMIT 1"
    )
    assert tuple(rows[0]) == (10.0, 10.0, 0, "live")


async def test_bar_corrected_twice_before_a_flush_has_the_last_values(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    first = Bar("binance", "BTCUSDT", "1m", T0, 10.0, 11.0, 9.0, 10.0, 1.0, 1)
    rig.feed.unstored.sealed.append(Sealed(first, 1, "live"))
    async with listening(bus) as messages:
        await rig.writer.flush_all([rig.feed])
        for high in (12.0, 13.0):
            rig.feed.unstored.revised.append(Sealed(dataclasses.replace(first, high=high), None, "revised"))
        await rig.writer.flush_all([rig.feed])
        await until(lambda: any(message.get("revision") for message in messages))
    assert [(m["high"], m["revision"]) for m in messages if m] == [("11.0", 0), ("13.0", 1)]
    assert log.events("warning") == ["bar.revised"]
    rig.feed.unstored.revised.append(Sealed(dataclasses.replace(first, high=13.0), None, "revised"))
    await rig.writer.flush_all([rig.feed])
    assert log.events("warning") == ["bar.revised"], "the same again is no news"


async def test_correction_without_a_trade_count_keeps_the_count(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    built = [Bar("binance", "BTCUSDT", "1m", T0 + n * 60 * NS, 10.0, 11.0, 9.0, 10.0, 1.0, 5) for n in range(3)]
    trades = [dataclasses.replace(bar, trades=0) for bar in built]
    trades[1] = dataclasses.replace(trades[1], high=12.0)
    rig.feed.unstored.sealed.extend(Sealed(bar, 1, "live") for bar in built[:2])
    await rig.writer.flush_all([rig.feed])
    rig.feed.unstored.sealed.append(Sealed(built[2], 1, "live"))  # this one is corrected before it is stored
    rig.feed.unstored.revised.extend(Sealed(bar, None, "revised") for bar in trades)
    await rig.writer.flush_all([rig.feed])
    rows = await database.sql("SELECT high, trades, revision FROM ohlcv_data ORDER BY time")
    assert [tuple(row) for row in rows] == [(11.0, 5, 0), (12.0, 5, 1), (11.0, 5, 0)]
    assert log.events("warning") == ["bar.revised"]


async def test_correction_does_not_overtake_its_bar(
    database: Database, bus: Bus, log: CollectingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BARS_MAX", 1)
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]))
    await rig.begin()
    bars = [Bar("binance", "BTCUSDT", "1s", T0 + n * NS, 10.0, 11.0, 9.0, 10.0, 1.0, 1) for n in range(3)]
    rig.feed.unstored.sealed.extend(Sealed(bar, n, "live") for n, bar in enumerate(bars))
    rig.feed.unstored.revised.append(Sealed(dataclasses.replace(bars[2], high=12.0), None, "revised"))
    await rig.writer.flush_all([rig.feed])
    rows = await database.sql("SELECT high, revision FROM ohlcv_data ORDER BY time")
    assert [tuple(row) for row in rows] == [(11.0, 0), (11.0, 0), (12.0, 0)]


async def test_outlier_is_in_quarantine_until_the_exchange_confirms_it(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    prices = ["10", "10.01"] * 25 + ["17", "10"]
    market = PaperMarket([trade(n, 60 * n + 1, price) for n, price in enumerate(prices)])
    market.now_ns = T0 + 60 * len(prices) * NS
    rig = Rig(database, bus, log, market)
    await rig.begin()
    bars = [bar for bar in market.bars("1m") if bar.time_ns < T0 + 60 * 51 * NS]
    false = dataclasses.replace(bars[3], high=55.0)  # a print that the exchange takes back
    rig.feed.handle(m.Stored(T0, 0.0, [*bars, false], None))
    assert rig.feed.suspect is not None
    suspect, reason = rig.feed.suspect
    assert (suspect.close, "%" in reason) == (17.0, True)
    async with rig.running():
        rig.gap_filler.perform(rig.feed, m.ConfirmBars())
        await until(lambda: rig.feed.suspect is None)
    rows = {row.held.time_ns: row for row in await rig.quarantine.rows("binance", with_settled=True)}
    assert rows[suspect.time_ns].verdict is SettledAs.CONFIRMED
    assert rows[false.time_ns].verdict is SettledAs.REFUSED
    assert [item.bar for item in rig.feed.unstored.revised] == [bars[3]]
    assert log.events("warning").count("bar.suspect") == 2


def test_only_the_smallest_bars_from_a_minute_on_are_checked() -> None:
    feed = SymbolFeed(FeedSpec("X", 1, 2, ("1s", "5m", "1h")), 0.0)
    steady = [Bar("b", "X", "5m", T0 + n * 300 * NS, 10, 10.01, 9.99, 10, 1) for n in range(40)]
    far = [Bar("b", "X", timeframe, T0, 99, 99, 99, 99, 1) for timeframe in ("1h", "5m")]
    feed.handle(m.Stored(T0, 0.0, [*steady, *far], None))
    assert feed.suspect is not None
    assert feed.suspect[0].timeframe == "5m"
    feed.handle(m.BarsCorrected(T0, 0.0, [], is_suspect=True))
    assert feed.suspect is None


async def test_row_of_a_live_feed_is_written_again_without_news(
    database: Database, bus: Bus, log: CollectingLog
) -> None:
    """Its row shows that its collector still knows: a feed that was live when PostgreSQL went away is not when it is
    back."""
    clock = FakeClock()
    rig = Rig(database, bus, log, PaperMarket([trade(1, 0.5, "9")]), clock)
    await rig.begin()

    async def written() -> Any:
        await rig.writer.flush([rig.feed])
        (row,) = await database.sql("SELECT updated_at FROM feeds WHERE timeframe = 'trades'")
        return row["updated_at"]

    first = await written()
    assert await written() == first, "twice at once is once"
    await clock.advance(0.6)
    assert await written() > first
    rig.feed.handle(m.Disconnected(T0, 1.0))
    last = await written()
    await clock.advance(0.6)
    assert await written() == last, "of a feed that is not live nobody needs to know"
