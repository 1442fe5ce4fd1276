"""Gaps: found when they appear, filled newest first, counted in the quality report; unchanged series are not read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fks.clock import FakeClock
from fks.market.history.gaps import DAY_NS, Gaps, GapWatch
from fks.market.history.prune import prune
from fks.market.history.quality import QualityReport
from fks.market.history.sync import Sync
from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import GapStore, TimeRange
from fks.store.quarantine import QuarantinedRow, QuarantineStore, SettledAs
from fks.store.sync import SyncStore
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog

MINUTE, HOUR = 60 * NS, 3600 * NS
START_NS = 1_767_225_600 * NS


@pytest.fixture
def watch(database: Database, clock: FakeClock) -> GapWatch:
    return GapWatch(database, clock, days=7)


async def collected(db: Database, exchange: HistoryExchange, start_ns: int, end_ns: int, timeframe: str = "1m") -> None:
    """Store bars as a collector would: no sync asked for them."""
    await db.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'BTCUSDT') ON CONFLICT DO NOTHING")
    bars = await exchange.fetch_bars("BTCUSDT", timeframe, start_ns, 1000, until_ns=end_ns)
    await BarStore(db).merge(Bars.of("BTCUSDT", timeframe, bars), exchange="binance", source="live")


async def delete(db: Database, start_ns: int, end_ns: int, timeframe: str = "1m") -> None:
    await db.sql(
        "DELETE FROM ohlcv_data WHERE timeframe = $3 AND time >= $1 AND time < $2",
        to_datetime(start_ns),
        to_datetime(end_ns),
        timeframe,
    )


async def test_gap_of_a_collected_series_is_filled_newest_first(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, log: CollectingLog
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    assert await watch.look() == [], "what came before the first bar is nobody's gap"
    await delete(database, START_NS - 5 * HOUR, START_NS - 4 * HOUR)
    await delete(database, START_NS - 2 * HOUR, START_NS - HOUR)
    found = await watch.look()
    assert [(gap.span, gap.bars) for gap in found] == [
        (TimeRange(START_NS - 2 * HOUR, START_NS - HOUR), 60),
        (TimeRange(START_NS - 5 * HOUR, START_NS - 4 * HOUR), 60),
    ]
    written, absent = await Sync(exchange, database, clock, log).fill(found)
    assert (written, absent) == (120, 0)
    begun = [since for _, since, _ in exchange.asked if since is not None and since < START_NS - HOUR]
    assert begun[-2:] == [START_NS - 2 * HOUR, START_NS - 5 * HOUR]
    assert await watch.look() == []


async def test_refused_gap_does_not_delay_the_others(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, log: CollectingLog
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    await delete(database, START_NS - 2 * HOUR, START_NS - HOUR)
    found = await watch.look()
    lost = [replace(gap, symbol="NOSUCHCOIN") for gap in found]
    with pytest.raises(InputError, match="Invalid symbol"):
        await Sync(exchange, database, clock, log).fill([*lost, *lost, *found])
    assert await watch.look() == []
    assert log.events("warning") == ["gap.refused"]  # and it was asked for once


async def test_series_that_only_grew_is_read_where_it_grew(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    looked: list[tuple[int, int]] = []
    real = GapStore.missing

    async def missing(
        self: GapStore, exchange: str, symbol: str, timeframe: str, start_ns: int, end_ns: int
    ) -> list[TimeRange]:
        looked.append((start_ns, end_ns))
        return await real(self, exchange, symbol, timeframe, start_ns, end_ns)

    monkeypatch.setattr(GapStore, "missing", missing)
    await watch.look()
    await watch.look()
    assert len(looked) == 1
    await clock.advance(600)
    await collected(database, exchange, START_NS + 3 * MINUTE, START_NS + 9 * MINUTE)
    found = await watch.look()
    assert looked[1:] == [(START_NS, START_NS + 9 * MINUTE)]
    assert [gap.span for gap in found] == [TimeRange(START_NS, START_NS + 3 * MINUTE)]


async def test_remaining_gaps_are_reported_less_and_less_often(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    await delete(database, START_NS - 2 * HOUR, START_NS - HOUR)
    reported = []
    for minute in range(130):
        if await watch.look():
            reported.append(minute)
        await clock.advance(60)
    assert reported == [0, 1, 3, 7, 15, 31, 63, 123]


async def test_a_bar_that_was_built_over_a_gap_counts_as_missing(
    database: Database, exchange: HistoryExchange, watch: GapWatch
) -> None:
    await collected(database, exchange, START_NS - 2 * HOUR, START_NS)
    await database.sql("UPDATE ohlcv_data SET is_complete = false WHERE time = $1", to_datetime(START_NS - HOUR))
    assert [gap.span for gap in await watch.look()] == [TimeRange(START_NS - HOUR, START_NS - HOUR + MINUTE)]


async def test_synced_series_is_kept_up_to_the_present(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, log: CollectingLog
) -> None:
    sync = Sync(exchange, database, clock, log)
    await sync.sync("ETHUSDT", "5m", START_NS - 30 * DAY_NS)
    assert await watch.look() == []
    await clock.advance(3600)
    found = await watch.look()
    assert [(gap.symbol, gap.bars) for gap in found] == [("ETHUSDT", 12)]
    await sync.fill(found)
    assert await watch.look() == []
    await delete(database, START_NS - 29 * DAY_NS, START_NS - 28 * DAY_NS, "5m")
    assert [gap.bars for gap in await watch.look()] == [288]


async def test_requested_end_of_a_sync_is_kept(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, log: CollectingLog
) -> None:
    sync = Sync(exchange, database, clock, log)
    await sync.sync("ETHUSDT", "1h", START_NS - 30 * DAY_NS, START_NS - 20 * DAY_NS)
    assert await watch.look() == [], "nobody asked for what came after"
    await delete(database, START_NS - 25 * DAY_NS, START_NS - 24 * DAY_NS, "1h")
    assert [gap.bars for gap in await watch.look()] == [24]
    await sync.sync("ETHUSDT", "1h", START_NS - 30 * DAY_NS)
    await sync.sync("ETHUSDT", "1h", START_NS - 28 * DAY_NS, START_NS - 27 * DAY_NS, is_again=True)
    await clock.advance(7200)
    assert [gap.bars for gap in await watch.look()] == [2]


async def test_report_counts_missing_wrong_and_corrected_bars(
    database: Database, exchange: HistoryExchange, clock: FakeClock, log: CollectingLog
) -> None:
    exchange.missing = [(START_NS - 20 * HOUR, START_NS - 19 * HOUR)]
    sync = Sync(exchange, database, clock, log)
    await sync.sync("BTCUSDT", "1m", START_NS - DAY_NS)
    report = QualityReport(database, clock, days=7)
    one = (await report.series())[0]
    clean = await report.of(one)
    assert (clean.expected, clean.candles, clean.missing, clean.absent, clean.coverage) == (1440, 1380, 0, 60, 1.0)
    assert clean.is_good
    await delete(database, START_NS - 10 * HOUR, START_NS - 10 * HOUR + 5 * MINUTE)
    await delete(database, START_NS - 8 * HOUR, START_NS - 8 * HOUR + MINUTE)
    await database.sql("UPDATE ohlcv_data SET close = NULL WHERE time = $1", to_datetime(START_NS - 7 * HOUR))
    await database.sql("UPDATE ohlcv_data SET high = low - 1 WHERE time = $1", to_datetime(START_NS - 6 * HOUR))
    await database.sql(
        "UPDATE ohlcv_data SET revision = 2, updated_at = '2026-01-01T05:00Z' WHERE time = $1",
        to_datetime(START_NS - HOUR),
    )
    await database.sql(
        "INSERT INTO feed_outages (exchange, symbol, began_at, ended_at, cause) VALUES ('binance', 'BTCUSDT', $1, $2, "
        "'silence')",
        to_datetime(START_NS - 3 * HOUR),
        to_datetime(START_NS - 3 * HOUR + 90 * NS),
    )
    found = await report.of((await report.series())[0])
    assert (found.missing, found.gaps, found.nulls, found.inconsistent, found.duplicates) == (7, 3, 1, 1, 0)
    assert found.longest is not None
    assert (found.longest.span.start_ns, found.longest.bars) == (START_NS - 10 * HOUR, 5)
    assert (found.corrected, found.corrected_ns) == (1, START_NS + 5 * HOUR)
    assert (found.outages, found.outage_ns) == (1, 90 * NS)
    assert found.coverage == int(10_000 * 1373 / 1380) / 10_000
    assert [(o.began_ns, o.ended_ns) for o in await report.outages("binance")] == [
        (START_NS - 3 * HOUR, START_NS - 3 * HOUR + 90 * NS)
    ]
    states = {state for _, state in await report.missing((await report.series())[0], is_all=True)}
    assert states == {"missing", "exchange"}


async def test_dead_feed_is_checked_to_the_present_but_not_a_stopped_one(
    database: Database, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    report = QualityReport(database, clock, days=7)
    await clock.advance(150)
    found = await report.of((await report.series())[0])
    assert (found.missing, found.expected, found.is_good) == (0, 600, True), "the next round brings them"
    await clock.advance(3 * 86400 - 150)
    await database.sql(
        "INSERT INTO feed_outages (exchange, symbol, began_at, cause) VALUES ('binance', 'BTCUSDT', $1, 'silence')",
        to_datetime(START_NS + 2 * MINUTE),
    )
    one = (await report.series())[0]
    found = await report.of(one)
    assert (found.missing, found.gaps, found.expected, found.coverage) == (4320, 1, 4920, 0.1219)
    assert not found.is_good
    assert (found.outages, found.outage_ns) == (1, 3 * DAY_NS - 90 * NS)
    assert [(gap.span, state) for gap, state in await report.missing(one)] == [
        (TimeRange(START_NS, START_NS + 3 * DAY_NS), "missing")
    ]


async def test_series_no_longer_collected_is_checked_to_its_last_bar(
    database: Database, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    await clock.advance(3 * 86400)
    hours = QualityReport(database, clock, days=7, frames=("1h",))
    assert (await hours.of((await hours.series())[0])).is_good
    await database.sql("UPDATE assets SET timeframes = '{1m}'")
    assert not (await hours.of((await hours.series())[0])).is_good
    await database.sql("UPDATE assets SET is_enabled = false")
    assert (await hours.of((await hours.series())[0])).is_good


async def test_left_out_no_trade_bars_are_late_after_an_hour(database: Database, clock: FakeClock) -> None:
    await database.sql("INSERT INTO assets (exchange, symbol) VALUES ('coinbase', 'BTC-USD')")
    made = HistoryExchange(clock, name="coinbase")
    bars = await made.fetch_bars("BTC-USD", "1m", START_NS - HOUR, 1000, until_ns=START_NS)
    await BarStore(database).merge(Bars.of("BTC-USD", "1m", bars), exchange="coinbase", source="live")
    report = QualityReport(database, clock, days=7)
    await clock.advance(3500)
    assert (await report.of((await report.series())[0])).missing == 0
    await clock.advance(600)
    assert (await report.of((await report.series())[0])).missing == 68


async def test_the_quarantine_is_counted_by_series_until_it_is_settled(
    database: Database, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS)
    await collected(database, exchange, START_NS - 10 * HOUR, START_NS, "1h")
    store = QuarantineStore(database)
    await store.add(
        [
            QuarantinedRow.bar(exchange.bar("BTCUSDT", "1m", START_NS - n * HOUR), "odd", "", source="sync")
            for n in (1, 2)
        ]
    )
    report = QualityReport(database, clock, days=7)

    async def counted() -> dict[str, int]:
        return {one.timeframe: (await report.of(one)).quarantined for one in await report.series()}

    assert await counted() == {"1m": 2, "1h": 0}
    await store.settle_bars("binance", "BTCUSDT", "1m", [START_NS - HOUR], SettledAs.REFUSED)
    assert await counted() == {"1m": 1, "1h": 0}


async def test_pruned_bars_are_not_fetched_again(
    database: Database, exchange: HistoryExchange, watch: GapWatch, clock: FakeClock, log: CollectingLog
) -> None:
    exchange.missing = [(START_NS - 60 * DAY_NS, START_NS - 59 * DAY_NS)]
    await Sync(exchange, database, clock, log).sync("BTCUSDT", "1h", START_NS - 90 * DAY_NS)
    before_ns = START_NS - 30 * DAY_NS
    dry = await prune(database, before_ns, lambda one: True, is_dry=True)
    assert [(one.bars, one.kept) for one in dry] == [(59 * 24, 30 * 24)]
    done = await prune(database, before_ns, lambda one: True)
    assert [(one.bars, one.kept) for one in done] == [(59 * 24, 30 * 24)]
    assert (await BarStore(database).edges("BTCUSDT", "1h"))[:2] == (30 * 24, before_ns)
    assert await watch.look() == []
    assert await GapStore(database).known("binance", "BTCUSDT", "1h") == []
    row = await SyncStore(database).get("binance", "BTCUSDT", "1h")
    assert row is not None
    assert row.wanted_from_ns == before_ns
    assert await prune(database, before_ns, lambda one: True) == []


async def test_stocks_are_not_missed_at_night(database: Database, clock: FakeClock) -> None:
    """2025-12-29 to 31, New York: 14:30 to 21:00 UTC each day. A whole session and ten minutes of another are
    missing."""
    open_ns = [to_ns_of(29, 14, 30), to_ns_of(30, 14, 30), to_ns_of(31, 14, 30)]
    made = HistoryExchange(clock, name="polygon")
    bars = [made.bar("AAPL", "1m", at + i * MINUTE) for at in open_ns for i in range(390)]
    kept = [bar for bar in bars if not open_ns[1] <= bar.time_ns < open_ns[2] + 10 * MINUTE]
    await BarStore(database).merge(Bars.of("AAPL", "1m", kept), exchange="polygon", source="import")
    gaps = await Gaps(database, clock).missing("polygon", "AAPL", "1m", open_ns[0], open_ns[2] + 6 * HOUR + 30 * MINUTE)
    assert [(gap.span.start_ns, gap.span.end_ns, gap.bars) for gap in gaps] == [
        (open_ns[1], open_ns[2] + 10 * MINUTE, 400)
    ]


def to_ns_of(day: int, hour: int, minute: int) -> int:
    return START_NS - (32 - day) * DAY_NS + hour * HOUR + minute * MINUTE
