"""Mapped copies of series equal the database, at every moment, whichever process writes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.timeframe import NS, to_datetime
from fks.research.jobs.backtest import BarsRequest
from fks.research.jobs.bars import load_stored
from fks.store import columns
from fks.store.bars import BarStore
from fks.store.columns import ColumnCache
from fks.store.db import Database

T0 = 1_767_225_600 * NS
MINUTE = 60 * NS


def minutes(count: int, *, start: int = 0, shift: float = 0.0) -> Bars:
    index = start + np.arange(count, dtype=np.int64)
    close = 100 + shift + index / 100
    return Bars("BTCUSDT", "1m", T0 + index * MINUTE, close, close + 1, close - 1, close.copy(), close / 7)


def same(one: Bars, other: Bars) -> bool:
    return all(
        np.array_equal(getattr(one, n), getattr(other, n))
        for n in ("time_ns", "open", "high", "low", "close", "volume")
    )


def files(folder: Path, pattern: str = "*.npy") -> list[Path]:
    return sorted(folder.rglob(pattern))


async def test_mapped_copy_returns_the_same_bars(database: Database, tmp_path: Path) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path / "columns", database)
    assert len(await cache.read("BTCUSDT", "1m")) == 0
    await store.merge(minutes(500), source="test")
    bars = await cache.read("BTCUSDT", "1m")
    assert same(bars, minutes(500))
    assert isinstance(bars.close.base, np.ndarray)
    assert not bars.close.flags.writeable
    await database.sql("ALTER TABLE ohlcv_data RENAME TO hidden")  # only `series` is asked from here on
    for part in (
        {"from_ns": T0 + 10 * MINUTE, "to_ns": T0 + 20 * MINUTE},
        {"limit": 7},
        {"limit": 7, "is_newest": True},
        {"to_ns": 0},
    ):
        await database.sql("ALTER TABLE hidden RENAME TO ohlcv_data")
        stored = await store.read("BTCUSDT", "1m", **part)
        await database.sql("ALTER TABLE ohlcv_data RENAME TO hidden")
        assert same(await cache.read("BTCUSDT", "1m", **part), stored)


async def test_later_bars_are_appended_and_mapped_ones_stay(database: Database, tmp_path: Path) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    await store.merge(minutes(300), source="test")
    first = await cache.read("BTCUSDT", "1m")
    before = files(tmp_path)
    await store.merge(minutes(50, start=300), source="test")
    assert same(await cache.read("BTCUSDT", "1m"), minutes(350))
    assert files(tmp_path) == before
    assert same(first, minutes(300))
    await store.merge(minutes(6000, start=350), source="test")  # more than fits
    assert same(await cache.read("BTCUSDT", "1m"), minutes(6350))
    assert files(tmp_path) != before
    assert len(files(tmp_path)) == 1
    assert same(first, minutes(300))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ohlcv_data SET close = close + 1, high = high + 1 WHERE time = $1",
        "UPDATE ohlcv_data SET is_complete = false WHERE time = $1",
        "DELETE FROM ohlcv_data WHERE time = $1",
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume) SELECT $1::timestamptz - "
        "interval '1 hour', 'BTCUSDT', '1m', 1, 1, 1, 1, 1",
    ],
)
async def test_correction_by_any_writer_is_seen_at_once(database: Database, tmp_path: Path, statement: str) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    await store.merge(minutes(100), source="test")
    await cache.read("BTCUSDT", "1m")
    await database.sql(statement, to_datetime(T0 + 7 * MINUTE))
    bars = await cache.read("BTCUSDT", "1m")
    assert not same(bars, minutes(100))
    assert same(bars, await store.read("BTCUSDT", "1m"))


async def test_copy_of_another_database_is_not_used(database: Database, tmp_path: Path) -> None:
    store = BarStore(database)
    await store.merge(minutes(100), source="test")
    await ColumnCache(tmp_path, database).read("BTCUSDT", "1m")
    await database.sql(
        "CREATE TABLE other (LIKE series INCLUDING ALL)"
    )  # what restoring a backup does: tables are made again
    await database.sql("INSERT INTO other SELECT * FROM series")
    await database.sql("ALTER TABLE ohlcv_data DISABLE TRIGGER USER")
    await database.sql("UPDATE ohlcv_data SET close = 1")
    await database.sql("DROP TABLE series")
    await database.sql("ALTER TABLE other RENAME TO series")
    bars = await ColumnCache(tmp_path, database).read("BTCUSDT", "1m")
    assert set(bars.close.tolist()) == {1.0}


async def test_a_broken_or_missing_file_is_made_again(database: Database, tmp_path: Path) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    await store.merge(minutes(100), source="test")
    for damaged in (
        lambda file: file.unlink(),
        lambda file: os.truncate(file, 200),
        lambda file: (file.parent / "meta.json").write_text("{"),
    ):
        assert same(await cache.read("BTCUSDT", "1m"), minutes(100))
        damaged(files(tmp_path)[0])
        assert same(await cache.read("BTCUSDT", "1m"), minutes(100))
        for file in files(tmp_path, "meta.json"):
            file.unlink()


async def test_a_backtest_gets_the_same_bars_from_its_mapped_copy(database: Database, tmp_path: Path) -> None:
    await BarStore(database).merge(minutes(600), source="test")
    cache, start = ColumnCache(tmp_path, database), T0 + 300 * MINUTE
    for request in (
        BarsRequest("BTCUSDT", "binance", "1m", start, start + 60 * MINUTE, 20),
        BarsRequest("btc-usdt", "binance", "5m", start, None, 10),
        BarsRequest("BTCUSDT", "binance", "1h", None, None, 0),
    ):
        mapped, read = await load_stored(database, request, cache), await load_stored(database, request)
        assert same(mapped.bars, read.bars)
        assert (mapped.instrument, mapped.source) == (read.instrument, read.source)
    assert len(files(tmp_path)) == 1  # what is not stored takes no file


async def test_a_writer_that_died_half_way_leaves_a_true_copy(database: Database, tmp_path: Path) -> None:
    """Killed after some columns were written and before the count: those rows do not count, and are written again."""
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    await store.merge(minutes(100), source="test")
    await cache.read("BTCUSDT", "1m")
    cut_off = np.load(files(tmp_path)[0], mmap_mode="r+")
    cut_off[:3, 100:120] = -7
    cut_off.flush()
    assert same(await cache.read("BTCUSDT", "1m"), minutes(100))
    await store.merge(minutes(10, start=100), source="test")
    assert same(await cache.read("BTCUSDT", "1m"), minutes(110))
    (files(tmp_path)[0].parent / "meta.json.new").write_text("half a")
    (files(tmp_path)[0].parent / "left-behind.npy").write_bytes(b"half a")
    await store.merge(minutes(1, start=110), source="test")
    assert same(await cache.read("BTCUSDT", "1m"), minutes(111))
    assert len(files(tmp_path)) == 1


async def test_where_nothing_can_be_kept_the_database_answers(database: Database, tmp_path: Path) -> None:
    store = BarStore(database)
    await store.merge(minutes(100), source="test")
    (tmp_path / "file").write_text("no folder")
    assert same(await ColumnCache(tmp_path / "file", database).read("BTCUSDT", "1m"), minutes(100))
    cache = ColumnCache(tmp_path / "columns", database)
    with columns.locked(tmp_path / "columns" / "binance~BTCUSDT~1m") as is_ours:  # another process is writing it
        assert is_ours
        assert same(await cache.read("BTCUSDT", "1m", limit=3), minutes(3))
    assert files(tmp_path) == []


async def test_many_readers_at_once_and_names_of_any_kind(database: Database, tmp_path: Path) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    bars = minutes(200)
    odd = Bars("../BTC/USDT:USDT", "1m", bars.time_ns, bars.open, bars.high, bars.low, bars.close, bars.volume)
    await store.merge(odd, source="test")
    got = await asyncio.gather(*(cache.read(odd.symbol, "1m") for _ in range(20)))
    assert all(same(one, odd) for one in got)
    assert [path.parent for path in files(tmp_path)] == [tmp_path / "binance~..%2FBTC%2FUSDT%3AUSDT~1m"]


async def test_series_unused_for_longest_are_dropped(database: Database, tmp_path: Path) -> None:
    store, cache = BarStore(database), ColumnCache(tmp_path, database, max_mb=1.5)
    for number, symbol in enumerate(("A", "B", "C")):
        bars = minutes(14_000)
        await store.merge(
            Bars(symbol, "1m", *(getattr(bars, n) for n in ("time_ns", "open", "high", "low", "close", "volume"))),
            source="test",
        )
        await cache.read(symbol, "1m")
        os.utime(tmp_path / f"binance~{symbol}~1m" / "meta.json", (number, number))
    assert [path.parent.name for path in files(tmp_path)] == ["binance~B~1m", "binance~C~1m"]
    assert len(await cache.read("A", "1m")) == 14_000


piece = st.tuples(st.integers(0, 40), st.integers(1, 25), st.integers(0, 1), st.booleans())


@given(st.lists(piece, min_size=1, max_size=8))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_after_any_writes_the_copy_equals_the_table(
    database: Database, tmp_path: Path, pieces: list[tuple[int, int, int, bool]]
) -> None:
    await database.sql("TRUNCATE ohlcv_data")  # `series` stays: its revision must not come back
    store, cache = BarStore(database), ColumnCache(tmp_path, database)
    for start, count, shift, is_deleted in pieces:
        if is_deleted:
            await database.sql(
                "DELETE FROM ohlcv_data WHERE time >= $1 AND time < $2",
                to_datetime(T0 + start * MINUTE),
                to_datetime(T0 + (start + count) * MINUTE),
            )
        else:
            await store.merge(minutes(count, start=start, shift=shift), source="test")
        assert same(await cache.read("BTCUSDT", "1m"), await store.read("BTCUSDT", "1m"))
