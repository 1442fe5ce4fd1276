"""Syncs against an exchange with gaps, listings, outages and small pages, on a real store."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fks.clock import FakeClock
from fks.market.history.fetch import SILENT_RUNS_MAX
from fks.market.history.gaps import DAY_NS, GapWatch
from fks.market.history.quality import QualityReport
from fks.market.history.sync import Sync, SyncStopped
from fks.model.bar import Bar
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import NS, bar_end, bar_start, to_datetime
from fks.store.bars import BarStore
from fks.store.db import Database
from fks.store.gaps import GapStore, TimeRange
from fks.store.quarantine import QuarantineStore, SettledAs
from fks.store.sync import SyncStore
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog
from tests.support.waiting import until

MINUTE, HOUR = 60 * NS, 3600 * NS


def now_of(clock: FakeClock) -> int:
    return bar_start(clock.now_ns(), "1d")


async def test_large_pages_are_requested_in_large_windows(
    database: Database, clock: FakeClock, log: CollectingLog
) -> None:
    exchange = HistoryExchange(clock, page=50_000)
    exchange.capabilities = replace(exchange.capabilities, bars_page_max=50_000, timeframes=frozenset({"1m"}))
    done = await Sync(exchange, database, clock, log).sync("BTCUSDT", "1m", clock.now_ns() - 30 * DAY_NS)
    assert done.candles in (43_199, 43_200)
    assert len(exchange.asked) <= 3


async def test_stored_bars_equal_the_exchanges_at_any_page_size(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    exchange.page = 300
    progress: list[tuple[int, int]] = []
    done = await sync.sync(
        "BTCUSDT", "1m", clock.now_ns() - 2 * DAY_NS, progress=lambda at, of: progress.append((at, of))
    )
    bars = await BarStore(database).read("BTCUSDT", "1m")
    assert (done.fetched, done.changed, done.absent, done.candles) == (len(bars), len(bars), 0, len(bars))
    assert len(bars) in (2879, 2880)
    assert set(np.diff(bars.time_ns).tolist()) == {MINUTE}
    assert [bars.bar(i, "binance").close for i in (0, 999, -1)] == [
        exchange.bar("BTCUSDT", "1m", int(bars.time_ns[i])).close for i in (0, 999, -1)
    ]
    assert progress[-1][0] == progress[-1][1] == len(bars)
    assert [at for at, _ in progress] == sorted({at for at, _ in progress})


async def test_newest_come_first_and_a_repeat_fetches_only_new_bars(
    sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await sync.sync("BTCUSDT", "1m", clock.now_ns() - 3 * DAY_NS)
    begun = [since for frame, since, _ in exchange.asked if frame == "1m" and since is not None]
    assert begun == sorted(begun, reverse=True)
    exchange.asked.clear()
    again = await sync.sync("BTCUSDT", "1m", clock.now_ns() - 3 * DAY_NS)
    assert (again.fetched, again.changed, exchange.asked) == (0, 0, [])


async def test_unfinished_bar_is_never_stored(database: Database, sync: Sync, clock: FakeClock) -> None:
    await clock.advance(30)
    await sync.sync("BTCUSDT", "1h", clock.now_ns() - DAY_NS)
    newest = (await BarStore(database).read("BTCUSDT", "1h")).time_ns[-1]
    assert bar_end(int(newest), "1h") <= clock.now_ns()


async def test_unavailable_bars_are_known_and_requested_once(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.missing = [(now - 30 * HOUR, now - 29 * HOUR), (now - 20 * DAY_NS, now - 20 * DAY_NS + 7 * MINUTE)]
    done = await sync.sync("BTCUSDT", "1m", now - 21 * DAY_NS)
    assert done.absent == 67
    known = await GapStore(database).known("binance", "BTCUSDT", "1m")
    assert [(gap.span, gap.cause) for gap in known] == [
        (TimeRange(now - 20 * DAY_NS, now - 20 * DAY_NS + 7 * MINUTE), "exchange"),
        (TimeRange(now - 30 * HOUR, now - 29 * HOUR), "exchange"),
    ]
    exchange.asked.clear()
    assert (await sync.sync("BTCUSDT", "1m", now - 21 * DAY_NS)).fetched == 0
    assert exchange.asked == []
    await clock.advance(86400 + 60)  # young ones once more, a day later: the exchange may have completed its history
    exchange.missing = []
    again = await sync.sync("BTCUSDT", "1m", now - 21 * DAY_NS)
    assert again.fetched == 60 + 1441
    assert again.candles == 21 * 1440 + 1441 - 7


async def test_gap_longer_than_a_window_is_one_known_gap(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.missing = [(now - 12 * DAY_NS, now - 6 * DAY_NS)]
    exchange.page = 300
    done = await sync.sync("BTCUSDT", "1m", now - 14 * DAY_NS)
    assert (done.fetched, done.absent) == (8 * 1440, 6 * 1440)
    known = await GapStore(database).known("binance", "BTCUSDT", "1m")
    assert [gap.span for gap in known] == [TimeRange(now - 12 * DAY_NS, now - 6 * DAY_NS)]


async def test_years_before_a_listing_are_not_requested_page_by_page(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.listed_ns = now - 3 * DAY_NS
    done = await sync.init("BTCUSDT", "1m")
    assert done.candles == 3 * 1440
    assert len(exchange.asked) < 12
    known = await GapStore(database).known("binance", "BTCUSDT", "1m")
    assert [(gap.cause, gap.span.end_ns) for gap in known] == [("unlisted", now - 3 * DAY_NS)]
    exchange.asked.clear()
    await sync.init("BTCUSDT", "1m")
    assert exchange.asked == []


async def test_exchange_without_old_minutes_is_asked_a_few_times(
    sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.missing = [(0, now - 720 * MINUTE)]
    done = await sync.init("BTCUSDT", "1m", days=365)
    assert done.candles == 720
    assert len(exchange.asked) < 30


async def test_left_out_no_trade_bars_are_known_run_by_run(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.capabilities = replace(exchange.capabilities, has_empty_bars=False)
    exchange.missing = [(at, at + MINUTE) for at in range(now - DAY_NS, now - HOUR, 17 * MINUTE)]
    done = await sync.sync("BTCUSDT", "1m", now - DAY_NS)
    assert done.absent == len(exchange.missing)
    known = await GapStore(database).known("binance", "BTCUSDT", "1m")
    assert [(gap.span.start_ns, gap.span.end_ns, gap.cause) for gap in known] == [
        (*span, "silent") for span in exchange.missing
    ]
    assert len(exchange.asked) < 10


async def test_known_gaps_of_an_idle_market_are_joined(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.capabilities = replace(exchange.capabilities, has_empty_bars=False)
    exchange.missing = [(at, at + MINUTE) for at in range(now - DAY_NS, now - HOUR, 2 * MINUTE)]
    done = await sync.sync("BTCUSDT", "1m", now - DAY_NS)
    assert done.absent == len(exchange.missing)
    assert len(await GapStore(database).known("binance", "BTCUSDT", "1m")) <= 2 * SILENT_RUNS_MAX
    assert (await sync.sync("BTCUSDT", "1m", now - DAY_NS)).fetched == 0


async def test_lost_bar_is_a_gap_where_no_trade_bars_are_left_out(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    now = now_of(clock)
    exchange.name, exchange.capabilities = "coinbase", replace(exchange.capabilities, has_empty_bars=False)
    exchange.missing = [(now - 9 * HOUR, now - 9 * HOUR + MINUTE)]
    await sync.sync("BTC-USD", "1m", now - 10 * HOUR)
    await database.sql(
        "DELETE FROM ohlcv_data WHERE time >= $1 AND time < $2",
        to_datetime(now - 6 * HOUR),
        to_datetime(now - 3 * HOUR),
    )
    await database.sql(
        "UPDATE ohlcv_data SET close = NULL WHERE time >= $1 AND time < $2",
        to_datetime(now - 2 * HOUR),
        to_datetime(now - HOUR),
    )
    report = QualityReport(database, clock, days=7)
    found = await report.of((await report.series())[0])
    assert (found.missing, found.absent, found.is_good) == (240, 1, False)
    assert sum(gap.bars for gap in await GapWatch(database, clock, days=7).look()) == 240
    assert (await sync.sync("BTC-USD", "1m", now - 10 * HOUR)).candles == 599


async def test_bars_that_appear_later_are_no_longer_known_gaps(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    now, store = now_of(clock), GapStore(database)
    exchange.missing = [(now - 20 * HOUR, now - 16 * HOUR)]
    await sync.sync("BTCUSDT", "1m", now - DAY_NS)
    exchange.missing = [(now - 20 * HOUR, now - 19 * HOUR)]
    await sync.sync("BTCUSDT", "1m", now - 19 * HOUR, now - 17 * HOUR, is_again=True)
    assert [(gap.span, gap.cause) for gap in await store.known("binance", "BTCUSDT", "1m")] == [
        (TimeRange(now - 20 * HOUR, now - 19 * HOUR), "exchange"),
        (TimeRange(now - 17 * HOUR, now - 16 * HOUR), "exchange"),
    ]


async def test_refused_bar_is_not_counted_as_absent(
    database: Database, exchange: HistoryExchange, clock: FakeClock, log: CollectingLog
) -> None:
    bad_ns = now_of(clock) - 5 * HOUR

    class Wrong(HistoryExchange):
        def bar(self, symbol: str, timeframe: str, time_ns: int) -> Bar:
            made = super().bar(symbol, timeframe, time_ns)
            return replace(made, high=made.low - 1) if (timeframe, time_ns) == ("1m", bad_ns) else made

    wrong = Wrong(clock, missing=[(bad_ns + MINUTE, bad_ns + 3 * MINUTE)])
    sync = Sync(wrong, database, clock, log)
    done = await sync.sync("BTCUSDT", "1m", bad_ns - HOUR)
    assert (done.absent, done.candles) == (3, 357)
    report = QualityReport(database, clock, days=7)
    one = (await report.series())[0]
    found = await report.of(one)
    assert (found.missing, found.refused, found.absent, found.quarantined, found.coverage) == (0, 1, 2, 1, 0.9972)
    assert not found.is_good
    assert {(gap.bars, state) for gap, state in await report.missing(one, is_all=True)} == {
        (1, "refused"),
        (2, "exchange"),
    }
    wrong.asked.clear()
    await sync.sync("BTCUSDT", "1m", bad_ns - HOUR)
    assert wrong.asked == [], "it is not asked for at each turn"
    await clock.advance(86400)
    await Sync(exchange, database, clock, log).fill(await GapWatch(database, clock, days=7).look())
    found = await report.of((await report.series())[0])
    assert (found.missing, found.refused, found.is_good) == (0, 0, True), "the exchange has completed it"


async def test_present_of_a_replayed_tape_is_no_gap(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    exchange.present_ns = now_of(clock) - 400 * DAY_NS
    done = await sync.init("BTCUSDT", "1h", days=410)
    assert done.candles == 240
    assert await GapStore(database).known("binance", "BTCUSDT", "1h") == []
    assert len(exchange.asked) < 6


async def test_larger_bars_are_folded_from_the_exchanges_bars(database: Database, sync: Sync, clock: FakeClock) -> None:
    done = await sync.sync("BTCUSDT", "15m", now_of(clock) - 2 * DAY_NS)
    assert done.candles == 192
    bars = await BarStore(database).read("BTCUSDT", "15m")
    fives = await sync.sync("BTCUSDT", "5m", now_of(clock) - 2 * DAY_NS)
    assert fives.candles == 576
    small = await BarStore(database).read("BTCUSDT", "5m")
    assert np.array_equal(bars.open, small.open[::3])
    assert np.array_equal(bars.high, small.high.reshape(-1, 3).max(1))
    assert np.array_equal(bars.close, small.close[2::3])
    months = await sync.sync("BTCUSDT", "1M", now_of(clock) - 100 * DAY_NS)
    assert months.candles in (3, 4)


async def test_fetching_again_corrects_changed_bars(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    start = now_of(clock) - DAY_NS
    await sync.sync("BTCUSDT", "1h", start)
    exchange.shift = 0.5
    assert (await sync.sync("BTCUSDT", "1h", start)).changed == 0
    again = await sync.sync("BTCUSDT", "1h", start, is_again=True)
    assert (again.fetched, again.changed, again.candles) == (24, 24, 24)


async def test_stopped_sync_resumes_where_it_was(
    database: Database, exchange: HistoryExchange, clock: FakeClock, log: CollectingLog
) -> None:
    start, windows = now_of(clock) - 5 * DAY_NS, iter([False, False, True])
    with pytest.raises(SyncStopped):
        await Sync(exchange, database, clock, log, should_stop=lambda: next(windows)).sync("BTCUSDT", "1m", start)
    row = await SyncStore(database).get("binance", "BTCUSDT", "1m")
    assert row is not None
    assert (row.status, row.cursor_ns) == ("failed", now_of(clock) - 3000 * MINUTE)
    rest = await Sync(exchange, database, clock, log).sync("BTCUSDT", "1m", start)
    assert (rest.fetched, rest.candles) == (5 * 1440 - 3000, 5 * 1440)


async def test_sync_ended_by_ctrl_c_resumes_when_repeated(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock
) -> None:
    start, store = now_of(clock) - 5 * DAY_NS, SyncStore(database)
    exchange.before = lambda: running.cancel() if len(exchange.asked) > 3 else None
    running = asyncio.create_task(sync.sync("BTCUSDT", "1m", start))
    with pytest.raises(asyncio.CancelledError):
        await running
    row = await store.get("binance", "BTCUSDT", "1m")
    assert row is not None
    assert (row.status, str(row.error).split(";")[0]) == ("failed", "stopped")
    exchange.before = None
    assert (await sync.sync("BTCUSDT", "1m", start)).candles == 5 * 1440


async def test_outage_is_retried_after_a_first_answer(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    exchange.fails = 1
    with pytest.raises(OutageError):
        await sync.sync("BTCUSDT", "1h", now_of(clock) - DAY_NS)
    row = await SyncStore(database).get("binance", "BTCUSDT", "1h")
    assert row is not None
    assert (row.status, row.error) == ("pending", "the exchange does not answer")
    await sync.sync("BTCUSDT", "1h", now_of(clock) - DAY_NS)
    exchange.fails = 3
    running = asyncio.create_task(sync.sync("ETHUSDT", "1h", now_of(clock) - DAY_NS))
    while not running.done():
        await clock.advance(1)
        await asyncio.wait({running}, timeout=0.02)
    assert running.result().candles == 24


async def test_waiting_sync_is_run_once_by_its_claimer(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock, log: CollectingLog
) -> None:
    store = SyncStore(database)
    await database.sql(
        "INSERT INTO sync_status (symbol, timeframe, sync_status) SELECT 'NEWCOINUSDT', tf, 'pending'"
        " FROM unnest(ARRAY['1h','4h','1d']) AS tf ON CONFLICT DO NOTHING"
    )
    await store.want("binance", "NOSUCHCOIN", ["1h"], now_of(clock) - DAY_NS)
    await store.want("kraken", "BTCUSD", ["1h"])
    assert await store.waiting() == ["binance", "kraken"]
    assert await sync.run_pending(at_once=2) == 3
    rows = {(row["symbol"], row["timeframe"]): row for row in await store.all()}
    assert [rows["NEWCOINUSDT", frame]["sync_status"] for frame in ("1h", "4h", "1d")] == ["done"] * 3
    assert rows["NEWCOINUSDT", "1d"]["candles"] in (730, 731)
    assert rows["NOSUCHCOIN", "1h"]["sync_status"] == "failed"
    assert await store.waiting() == ["kraken"]
    await store.want("binance", "NEWCOINUSDT", ["1h"], now_of(clock) - 10 * DAY_NS)
    row = await store.get("binance", "NEWCOINUSDT", "1h")
    assert row is not None
    assert row.wanted_from_ns is not None
    assert row.wanted_from_ns <= now_of(clock) - 700 * DAY_NS  # less is wanted now, and what was wanted stays


async def test_sync_that_waits_for_the_budget_is_not_taken_over(
    database: Database, exchange: HistoryExchange, sync: Sync, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, turn, real = SyncStore(database), asyncio.Event(), exchange.fetch_bars

    async def fetch_bars(*args: Any, **options: Any) -> list[Bar]:
        await turn.wait()
        return await real(*args, **options)

    monkeypatch.setattr(exchange, "fetch_bars", fetch_bars)
    await store.want("binance", "BTCUSDT", ["1h"], now_of(clock) - DAY_NS)
    running = asyncio.create_task(sync.run_pending())

    async def is_silent(value: bool) -> bool:
        return (await store.waiting(silent_s=60) == ["binance"]) is value

    async def begun() -> bool:
        row = await store.get("binance", "BTCUSDT", "1h")
        return row is not None and row.status == "running"

    async def is_aged() -> bool:  # again and again: the sync may write its start once more
        await database.sql("UPDATE sync_status SET updated_at = now() - interval '2 minutes'")
        return await is_silent(True)

    await until(begun)
    await until(is_aged)

    async def has_beaten() -> bool:
        await clock.advance(16)
        return await is_silent(False)

    await until(has_beaten)
    turn.set()
    assert await running == 1


async def test_a_row_whose_runner_died_is_taken_over(database: Database, sync: Sync, clock: FakeClock) -> None:
    store = SyncStore(database)
    await store.want("binance", "BTCUSDT", ["1h"], now_of(clock) - DAY_NS)
    assert await store.claim("binance") is not None
    assert await store.claim("binance") is None
    await database.sql("UPDATE sync_status SET updated_at = now() - interval '2 minutes'")
    assert await sync.run_pending() == 1
    row = await store.get("binance", "BTCUSDT", "1h")
    assert row is not None
    assert (row.status, row.candles) == ("done", 24)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("BTCUSDT", "7m", 0, None), "TIMEFRAME_UNKNOWN"),
        (("BTCUSDT", "1h", 2 * DAY_NS, DAY_NS), "RANGE"),
        (("BTCUSDT", "1h", 2**62, None), "RANGE"),
        (("NOSUCHCOIN", "1h", 0, None), "SYMBOL_UNKNOWN"),
    ],
)
async def test_bad_input_gives_one_clear_message(sync: Sync, arguments: tuple[Any, ...], code: str) -> None:
    with pytest.raises(InputError) as caught:
        await sync.sync(*arguments)
    assert caught.value.code == code


async def test_impossible_bar_is_never_stored_and_suspect_requested_again(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    end = now_of(clock)
    broken, odd, slip = end - 5 * HOUR, end - 4 * HOUR, end - 3 * HOUR
    real, asked = exchange.bar, Counter[int]()

    def bar(symbol: str, timeframe: str, time_ns: int) -> Bar:
        made = replace(real(symbol, timeframe, time_ns), open=100.0, high=101.0, low=99.0, close=100.5)
        asked[time_ns] += 1
        if time_ns == broken:
            return replace(made, high=90.0)
        if time_ns == odd or (time_ns == slip and asked[time_ns] == 1):
            return replace(made, high=1000.0)
        return made

    exchange.bar = bar  # type: ignore[method-assign]
    done = await sync.sync("BTCUSDT", "1m", end - 10 * HOUR)
    assert (done.candles, done.absent) == (599, 1)
    assert (asked[odd], asked[slip], asked[broken]) == (2, 2, 1)
    stored = await BarStore(database).read("BTCUSDT", "1m")
    highs = dict(zip(stored.time_ns.tolist(), stored.high.tolist(), strict=True))
    assert (highs[odd], highs[slip], broken in highs) == (1000.0, 101.0, False)
    held = {row.held.time_ns: row for row in await QuarantineStore(database).rows(with_settled=True)}
    assert {at: (row.held.reason, row.verdict) for at, row in held.items()} == {
        broken: ("inconsistent", None),
        odd: ("outlier", SettledAs.CONFIRMED),
        slip: ("outlier", SettledAs.REFUSED),
    }
    await sync.sync("BTCUSDT", "1m", end - 10 * HOUR, is_again=True)
    assert asked[odd] == 3, "what was confirmed once is not asked for twice again"
