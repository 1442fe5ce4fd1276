"""Ranges of `sync_status`: a row is done only when its whole range is; wider and narrower syncs, ends, odd rows,
spellings."""

from __future__ import annotations

from typing import Any

import pytest

from fks.clock import FakeClock
from fks.market.history.assets import Assets
from fks.market.history.gaps import DAY_NS, GapWatch
from fks.market.history.sync import Sync, SyncStopped
from fks.model.bar import Bar
from fks.model.errors import InputError
from fks.model.timeframe import NS, to_datetime
from fks.store.assets import Asset, AssetStore
from fks.store.db import Database
from fks.store.gaps import GapStore
from fks.store.sync import ENDLESS, SyncRow, SyncStore
from tests.support.history_exchange import HistoryExchange
from tests.support.ports import CollectingLog

MINUTE, HOUR = 60 * NS, 3600 * NS
NOW_NS = 1_767_225_600 * NS


async def row_of(db: Database, symbol: str = "BTCUSDT", timeframe: str = "1m") -> SyncRow:
    row = await SyncStore(db).get("binance", symbol, timeframe)
    assert row is not None
    return row


async def begun(db: Database, exchange: HistoryExchange, clock: FakeClock, start_ns: int, status: str) -> None:
    """Begin a sync of minutes and leave it after two windows, as a process that was killed, met an outage or was stopped
    leaves it."""
    windows = iter([False, True])
    with pytest.raises(SyncStopped):
        await Sync(exchange, db, clock, CollectingLog(), should_stop=lambda: next(windows)).sync(
            "BTCUSDT", "1m", start_ns
        )
    await db.sql("UPDATE sync_status SET sync_status = $1", status)


@pytest.mark.parametrize("status", ["running", "pending", "failed"])
async def test_update_resumes_an_unfinished_history(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock, status: str
) -> None:
    await begun(database, exchange, clock, NOW_NS - 5 * DAY_NS, status)
    done = await sync.update("BTCUSDT", "1m")
    assert (done.fetched, done.candles) == (5 * 1440 - 2000, 5 * 1440)
    row = await row_of(database)
    assert (row.status, row.wanted_from_ns, row.cursor_ns) == ("done", NOW_NS - 5 * DAY_NS, NOW_NS - 5 * DAY_NS)


async def test_narrower_sync_fetches_the_waiting_range_not_an_abandoned_one(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await begun(database, exchange, clock, NOW_NS - 5 * DAY_NS, "failed")
    await sync.sync("BTCUSDT", "1m", NOW_NS - 3 * DAY_NS)
    row = await row_of(database)
    assert (row.status, row.wanted_from_ns, row.candles) == ("done", NOW_NS - 3 * DAY_NS, 3 * 1440)
    await database.sql("DELETE FROM sync_status")
    await begun(database, exchange, clock, NOW_NS - 8 * DAY_NS, "running")
    await sync.sync("BTCUSDT", "1m", NOW_NS - DAY_NS)
    row = await row_of(database)
    assert (row.status, row.wanted_from_ns, row.candles) == ("done", NOW_NS - 8 * DAY_NS, 8 * 1440)


async def test_waiting_default_history_is_fetched_by_a_narrower_sync(database: Database, sync: Sync) -> None:
    await SyncStore(database).want("binance", "BTCUSDT", ["1d"])
    done = await sync.sync("BTCUSDT", "1d", NOW_NS - 3 * DAY_NS)
    assert done.candles in (729, 730)
    assert (await row_of(database, timeframe="1d")).status == "done"


async def test_range_requested_during_a_sync_is_not_marked_done(
    database: Database, sync: Sync, exchange: HistoryExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = SyncStore(database), exchange.fetch_bars

    async def fetch_bars(*args: Any, **options: Any) -> list[Bar]:
        await store.want("binance", "BTCUSDT", ["1h"], NOW_NS - 10 * DAY_NS)
        return await real(*args, **options)

    monkeypatch.setattr(exchange, "fetch_bars", fetch_bars)
    await sync.sync("BTCUSDT", "1h", NOW_NS - DAY_NS)
    row = await row_of(database, timeframe="1h")
    assert (row.status, row.error, row.candles, row.cursor_ns) == ("pending", None, 24, None)
    assert await sync.run_pending() == 1
    row = await row_of(database, timeframe="1h")
    assert (row.status, row.candles, row.cursor_ns) == ("done", 240, NOW_NS - 10 * DAY_NS)


async def test_update_keeps_the_end_of_a_sync(database: Database, sync: Sync, exchange: HistoryExchange) -> None:
    start_ns, end_ns = NOW_NS - 10 * DAY_NS, NOW_NS - 5 * DAY_NS
    await sync.sync("BTCUSDT", "1h", start_ns, end_ns)
    exchange.asked.clear()
    assert (await sync.update("BTCUSDT", "1h")).candles == 120
    assert exchange.asked == []
    await database.sql("DELETE FROM ohlcv_data WHERE time < $1", to_datetime(start_ns + 7 * HOUR))
    done = await sync.update("BTCUSDT", "1h")
    assert (done.fetched, done.candles) == (7, 120)
    row = await row_of(database, timeframe="1h")
    assert (row.status, row.wanted_from_ns, row.wanted_to_ns) == ("done", start_ns, end_ns)


async def test_two_separate_syncs_leave_no_gap_between_them(database: Database, sync: Sync) -> None:
    await sync.sync("BTCUSDT", "1h", NOW_NS - 6 * DAY_NS, NOW_NS - 5 * DAY_NS)
    assert (await sync.sync("BTCUSDT", "1h", NOW_NS - 2 * DAY_NS)).candles == 6 * 24
    assert (await sync.sync("BTCUSDT", "1h", NOW_NS - 9 * DAY_NS, NOW_NS - 8 * DAY_NS)).candles == 9 * 24
    row = await row_of(database, timeframe="1h")
    assert (row.status, row.wanted_from_ns, row.wanted_to_ns) == ("done", NOW_NS - 9 * DAY_NS, None)


async def test_fetching_a_part_again_fetches_the_rest_only_if_missing(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock
) -> None:
    await begun(database, exchange, clock, NOW_NS - 4 * DAY_NS, "pending")
    exchange.shift = 0.5
    done = await sync.sync("BTCUSDT", "1m", NOW_NS - HOUR, is_again=True)
    assert (done.fetched, done.changed, done.candles) == (60 + 4 * 1440 - 2000, 60 + 4 * 1440 - 2000, 4 * 1440)


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("years", [1960, 1900, 1])
async def test_a_start_before_1970_is_refused_and_leaves_no_row(database: Database, sync: Sync, years: int) -> None:
    start_ns = (years - 1970) * 366 * DAY_NS
    with pytest.raises(InputError, match="begins before 1970") as caught:
        await sync.sync("BTCUSDT", "1d", max(start_ns, -62_135_596_800 * NS))
    assert caught.value.code == "RANGE"
    assert await SyncStore(database).all() == []


async def test_row_with_an_impossible_range_fails_with_a_reason(database: Database, sync: Sync) -> None:
    store = SyncStore(database)
    await store.want("binance", "BTCUSDT", ["1h"], NOW_NS - DAY_NS, NOW_NS - 2 * DAY_NS)
    await store.want("binance", "ETHUSDT", ["1h"], NOW_NS + DAY_NS)
    await store.want("binance", "SOLUSDT", ["1h"], -DAY_NS)
    assert await sync.run_pending() == 0
    rows = {row["symbol"]: (row["sync_status"], str(row["error"])) for row in await store.all()}
    assert {status for status, _ in rows.values()} == {"failed"}
    assert "it ends before it begins, or lies ahead; give" in rows["BTCUSDT"][1]
    assert "lies ahead" in rows["ETHUSDT"][1]
    assert "begins before 1970" in rows["SOLUSDT"][1]


@pytest.mark.parametrize(
    ("column", "value"), [("wanted_from", "-infinity"), ("wanted_to", "infinity"), ("wanted_from", "infinity")]
)
async def test_infinite_time_fails_its_row_and_no_reader(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock, column: str, value: str
) -> None:
    store = SyncStore(database)
    await sync.sync("ETHUSDT", "1h", NOW_NS - DAY_NS)
    await database.sql("DELETE FROM ohlcv_data WHERE time < $1", to_datetime(NOW_NS - 20 * HOUR))
    await database.sql(
        f"INSERT INTO sync_status (symbol, timeframe, {column}) SELECT 'BTCUSDT', f, '{value}' FROM "
        "unnest(ARRAY['1h', '1d']) AS f"
    )
    await store.want("binance", "SOLUSDT", ["1h"], NOW_NS - DAY_NS)
    read = {(row["symbol"], row["timeframe"]): row for row in await store.all()}
    assert [(read["BTCUSDT", f]["sync_status"], read["BTCUSDT", f]["error"]) for f in ("1h", "1d")] == [
        ("failed", ENDLESS)
    ] * 2
    assert {one.symbol: one.sync_status for one in await GapStore(database).series()} == {
        "BTCUSDT": "failed",
        "ETHUSDT": "done",
        "SOLUSDT": "pending",
    }
    assert [gap.symbol for gap in await GapWatch(database, clock, days=7).look()] == ["ETHUSDT"]
    assert (await sync.sync("BTCUSDT", "1d", NOW_NS - 3 * DAY_NS)).candles == 3, "by hand it is asked for anew"
    assert await sync.run_pending() == 1
    stored = await database.sql(
        "SELECT sync_status, error, wanted_from, wanted_to FROM sync_status WHERE symbol = 'BTCUSDT' AND timeframe = "
        "'1h'"
    )
    assert [tuple(row) for row in stored] == [("failed", ENDLESS, None, None)]
    assert (await row_of(database, "SOLUSDT", "1h")).status == "done"


# ── spellings ────────────────────────────────────────────────────────────────────────────────────
async def test_waiting_rows_may_have_any_spelling(database: Database, sync: Sync, exchange: HistoryExchange) -> None:
    exchange.listed = ("BTCUSDT", "ETHUSDT")
    store = SyncStore(database)
    await store.want("binance", "ETH/USDT", ["1h"], NOW_NS - 2 * DAY_NS)
    await store.want("binance", "ethusdt", ["1h", "1d"], NOW_NS - 3 * DAY_NS)
    await store.want("binance", "NOSUCHUSDT", ["1h"], NOW_NS - DAY_NS)
    assert await sync.run_pending() == 2
    rows = {(row["symbol"], row["timeframe"]): row for row in await store.all()}
    assert sorted(rows) == [("ETHUSDT", "1d"), ("ETHUSDT", "1h"), ("NOSUCHUSDT", "1h")]
    assert (rows["ETHUSDT", "1h"]["sync_status"], rows["ETHUSDT", "1h"]["stored"]) == ("done", 72)
    assert rows["NOSUCHUSDT", "1h"]["sync_status"] == "failed"
    assert rows["NOSUCHUSDT", "1h"]["error"].startswith("unknown symbol 'NOSUCHUSDT'; known: BTCUSDT, ETHUSDT")


async def test_respelled_asset_keeps_its_history(
    database: Database, sync: Sync, exchange: HistoryExchange, clock: FakeClock, log: CollectingLog
) -> None:
    exchange.listed, store = ("AVAXUSDT",), SyncStore(database)
    await AssetStore(database).enable(Asset("binance", "AVAX/USDT"), ["1h", "1d"], 3)
    await database.sql("UPDATE sync_status SET sync_status = 'failed', error = 'Invalid symbol' WHERE timeframe = '1h'")
    await store.want("binance", "AVAXUSDT", ["1d"], NOW_NS - 300 * DAY_NS)
    assert [asset.symbol for asset in await Assets(exchange, database, clock, log).wanted()] == ["AVAXUSDT"]
    rows = {(row["symbol"], row["timeframe"]): row for row in await store.all()}
    assert sorted(rows) == [("AVAXUSDT", "1d"), ("AVAXUSDT", "1h")]
    assert [(row["sync_status"], row["error"]) for row in rows.values()] == [("pending", None)] * 2
    assert rows["AVAXUSDT", "1d"]["wanted_from"] == to_datetime(NOW_NS - 300 * DAY_NS)
    assert rows["AVAXUSDT", "1h"]["wanted_from"] is not None


# ── how far it is ────────────────────────────────────────────────────────────────────────────────
async def test_progress_does_not_count_the_years_before_a_listing(sync: Sync, exchange: HistoryExchange) -> None:
    exchange.listed_ns = NOW_NS - 3 * DAY_NS
    exchange.missing = [(NOW_NS - 2 * DAY_NS, NOW_NS - 2 * DAY_NS + HOUR)]
    reported: list[tuple[int, int]] = []
    done = await sync.init("BTCUSDT", "1m", progress=lambda at, of: reported.append((at, of)))
    assert reported[0] == (0, 3 * 1440)
    assert reported[-1] == (done.candles, done.candles) == (3 * 1440 - 60,) * 2
