"""A bar of an exchange's REST that cannot be true goes to the quarantine, alone: its page is stored, its sync ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fks.clock import FakeClock
from fks.market.bars.aggregate import BarBuilder
from fks.market.collector.gap_filler import Backfill
from fks.market.exchanges.binance.exchange import BinanceExchange
from fks.market.history.confirmation import BarFilter
from fks.market.history.sync import Sync
from fks.model.errors import PeerError
from fks.model.feed import SealedPosition
from fks.model.timeframe import NS, TIMEFRAMES
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.quarantine import QuarantineStore, SettledAs
from tests.support.ports import CollectingLog
from tests.support.recorded_peer import Agreeing, RecordedPeer, serving

MINUTE, HOUR = 60 * NS, 3600 * NS
T0 = 1_767_225_600 * NS
BROKEN = T0 - 5 * HOUR + 7 * MINUTE
MS = 1_000_000


class Klines:
    """Answers as Binance's REST: bars until T0 + 30 s, the one at `broken_ns` with other numbers, and one trade."""

    def __init__(self) -> None:
        self.broken: dict[int, dict[int, str]] = {BROKEN: {3: "0.0"}}
        self.interval = "1m"
        self.traded_ns = T0 + 20 * NS

    def __call__(self, path: str, query: dict[str, str]) -> Any:
        if "aggTrades" in path:
            at = self.traded_ns // MS
            return [{"a": 5, "p": "100.0", "q": "1", "f": 5, "l": 5, "T": at, "m": False, "M": True}]
        step = TIMEFRAMES[query["interval"]] * 1000
        end, limit = int(query.get("endTime", (T0 + 30 * NS) // MS)), int(query["limit"])
        start = int(query["startTime"]) if "startTime" in query else (end // step - limit) * step
        rows = [self.row(at, step) for at in range(-(-start // step) * step, end - step + 2, step)][:limit]
        for row in rows if query["interval"] == self.interval else ():
            for place, text in self.broken.get(row[0] * MS, {}).items():
                row[place] = text
        return rows

    @staticmethod
    def row(at: int, step: int) -> list[Any]:
        return [at, "100.0", "101.0", "99.0", "100.5", "1.0", at + step - 1, "1", 5, "1", "1", "0"]


@pytest.fixture
def klines() -> Klines:
    return Klines()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(T0 + 30 * NS)


@pytest.fixture
async def binance(klines: Klines, clock: FakeClock, log: CollectingLog) -> AsyncIterator[BinanceExchange]:
    async with serving(RecordedPeer(rest=klines)) as peer:
        exchange = BinanceExchange(peer.endpoint, clock, log, Agreeing())
        await exchange.open()
        yield exchange
        await exchange.close()


async def test_bad_row_costs_a_sync_one_bar(
    database: Database, clock: FakeClock, log: CollectingLog, binance: BinanceExchange
) -> None:
    sync = Sync(binance, database, clock, log)
    done = await sync.sync("BTCUSDT", "1m", T0 - 10 * HOUR)
    assert done.candles == 599
    stored = await BarStore(database).read("BTCUSDT", "1m")
    assert BROKEN not in stored.time_ns
    store = QuarantineStore(database)
    (row,) = await store.rows()
    assert (row.held.time_ns, row.held.reason, row.held.source) == (BROKEN, "not_positive", "sync")
    assert (row.held.payload["low"], row.held.payload["open"]) == ("0.0", "100.0")
    assert (await database.sql("SELECT sync_status FROM sync_status"))[0][0] == "done"
    await store.settle([row.id], SettledAs.CONFIRMED)  # a person says that it is true
    done = await sync.sync("BTCUSDT", "1m", T0 - 10 * HOUR, is_again=True)
    assert (done.candles, len(await store.rows(with_settled=True))) == (600, 1)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [({2: "98.0"}, "inconsistent"), ({5: "-1"}, "negative_volume"), ({1: "-1", 3: "-2"}, "not_positive")],
)
async def test_no_larger_bar_is_built_from_a_bad_row(
    database: Database,
    clock: FakeClock,
    log: CollectingLog,
    binance: BinanceExchange,
    klines: Klines,
    numbers: dict[int, str],
    reason: str,
) -> None:
    klines.interval, klines.broken = "1s", {T0 - 600 * NS: numbers}
    done = await Sync(binance, database, clock, log).sync("BTCUSDT", "15s", T0 - HOUR)
    assert done.candles == 4 * 60  # and one of the present hour, but for that one
    assert T0 - 600 * NS not in (await BarStore(database).read("BTCUSDT", "15s")).time_ns
    (row,) = await QuarantineStore(database).rows()
    assert (row.held.timeframe, row.held.reason) == ("1s", reason)


async def test_unreadable_answer_is_an_error(
    database: Database, clock: FakeClock, log: CollectingLog, binance: BinanceExchange, klines: Klines
) -> None:
    klines.broken = {BROKEN: {3: "cheap"}}
    with pytest.raises(PeerError, match="cheap"):
        await Sync(binance, database, clock, log).sync("BTCUSDT", "1m", T0 - 10 * HOUR)


async def test_collector_recovers_around_a_bad_row(
    database: Database, binance: BinanceExchange, klines: Klines
) -> None:
    store, broken = QuarantineStore(database), T0 + 14 * NS  # the trade is in the 15 s after it
    klines.interval, klines.broken = "1s", {broken: {3: "0.0"}}
    back = Backfill(binance, ("15s", "1m"), 10, BarFilter(store, source="klines").filtered)
    positions = {"15s": SealedPosition(T0 - 60 * NS, 1), "1m": SealedPosition(T0 - 120 * NS, 1)}
    made = await back.recover("BTCUSDT", positions, by_bars=True)
    assert made.start.start_ns == T0 + 15 * NS
    sealed = [(item.bar.timeframe, item.bar.time_ns, item.last_trade_id) for item in made.sealed]
    quarters = [("15s", T0 - second * NS, None) for second in (45, 30, 15)]  # none reaches to where the builder begins
    assert sealed == [*quarters, ("1m", T0 - 60 * NS, None)]
    (row,) = await store.rows()
    assert (row.held.time_ns, row.held.reason, row.held.source) == (broken, "not_positive", "klines")
    (*_, minute) = BarBuilder(made.start).seal_through(T0 + 60 * NS)
    assert (minute.timeframe, minute.is_complete) == ("1m", False)


async def test_an_open_bar_that_lacks_a_bad_row_is_incomplete(
    database: Database, binance: BinanceExchange, klines: Klines
) -> None:
    klines.broken, klines.traded_ns = {T0 - 2 * MINUTE: {3: "0.0"}}, T0 - 40 * NS
    back = Backfill(binance, ("1m", "5m", "15m"), 1, BarFilter(QuarantineStore(database), source="klines").filtered)
    start = (await back.recover("BTCUSDT", {}, by_bars=True)).start
    seeds, previous = start.seeds, start.previous
    assert start.start_ns == T0 - MINUTE
    assert {frame: seed.is_complete for frame, seed in seeds.items()} == {"5m": False, "15m": False}
    assert (seeds["15m"].trades, str(seeds["15m"].low)) == (13 * 5, "99.0"), "what is known is counted"
    assert str(previous) == "100.5"
