"""Bars in bulk: idempotent beside other writers, and `series` shows which copies are still exact."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fks.config.settings import DatabaseSettings
from fks.model.bar import Bars
from fks.model.errors import InputError, OutageError
from fks.model.timeframe import NS, to_datetime
from fks.store import copy, db, merging, partitions
from fks.store.bars import BarStore, Merged, SeriesSummary
from fks.store.db import Database
from fks.store.partitions import PartitionSpan, ensure_partitions

T0 = 1_767_225_600 * NS  # 2026-01-01
MINUTE = 60 * NS
PRICES = ("open", "high", "low", "close", "volume")


def minutes(count: int, *, start: int = 0, shift: float = 0.0, step: int = 1) -> Bars:
    """Bars `step` minutes apart, whose values follow from their time."""
    index = start + np.arange(count, dtype=np.int64) * step
    close = 100 + shift + index / 100
    return Bars("BTCUSDT", "1m", T0 + index * MINUTE, close, close + 1, close - 1, close.copy(), close / 7)


def same(one: Bars, other: Bars) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("time_ns", *PRICES))


async def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.sql(query)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a handful of bars count as many, in pieces of seven."""
    monkeypatch.setattr(merging, "FEW", 3)
    monkeypatch.setattr(merging, "PIECE", 7)


async def test_many_new_bars_go_into_the_partitions_of_their_months(database: Database) -> None:
    store, bars = BarStore(database), minutes(6000, step=15)
    assert await store.merge(bars, source="test") == Merged(6000, 0, 0)
    assert same(await store.read("BTCUSDT", "1m"), bars)
    tables = await rows(database, "SELECT DISTINCT tableoid::regclass::text FROM ohlcv_data ORDER BY 1")
    assert tables == [("ohlcv_data_p202601",), ("ohlcv_data_p202602",), ("ohlcv_data_p202603",)]
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(0, 6000, T0, T0 + 5999 * 15 * MINUTE)


async def test_bars_that_are_there_already_are_not_touched(database: Database) -> None:
    store, bars = BarStore(database), minutes(4000)
    await store.merge(bars, source="test")
    before = await rows(database, "SELECT time, xmin::text, xmax::text, ctid::text FROM ohlcv_data ORDER BY time")
    assert await store.merge(bars, source="again") == Merged(0, 0, 4000)
    assert (
        await rows(database, "SELECT time, xmin::text, xmax::text, ctid::text FROM ohlcv_data ORDER BY time") == before
    )
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(0, 4000, T0, T0 + 3999 * MINUTE)


async def test_new_changed_and_equal_bars_in_one_merge(database: Database) -> None:
    store = BarStore(database)
    await store.merge(minutes(3000), source="test", trades=np.full(3000, 5))
    bars = minutes(9000)
    bars.close[[10, 20]] += 0.5
    assert await store.merge(bars, source="better") == Merged(6000, 2, 2998)
    assert same(await store.read("BTCUSDT", "1m"), bars)
    changed = await rows(
        database, "SELECT revision, source, trades, count(*) FROM ohlcv_data GROUP BY 1, 2, 3 ORDER BY 1, 2"
    )
    assert changed == [
        (0, "better", 0, 6000),
        (0, "test", 5, 2998),
        (1, "better", 5, 2),
    ]  # the new bar has no count: the count stays
    found = await store.series("BTCUSDT", "1m")
    assert found is not None
    assert (found.revision, found.candles) == (1, 9000)


@pytest.mark.parametrize("count", [5, 3000])
async def test_counts_and_flags_are_values_too(database: Database, count: int) -> None:
    store, bars = BarStore(database), minutes(count)
    bars.volume[0] = 0.0
    bars.high[0] = bars.low[0] = bars.open[0] = bars.close[0]
    await store.merge(bars, source="test", trades=np.zeros(count))
    assert await rows(database, "SELECT count(*) FROM ohlcv_data WHERE is_empty") == [(1,)]
    assert await store.merge(bars, source="test", trades=np.ones(count)) == Merged(0, count, 0)
    assert await store.merge(bars, source="test") == Merged(0, 0, count)
    await database.sql("UPDATE ohlcv_data SET is_complete = false, close = NULL WHERE time = $1", to_datetime(T0))
    assert await store.merge(bars, source="test") == Merged(0, 1, count - 1)
    assert len(await store.read("BTCUSDT", "1m")) == count


@pytest.mark.parametrize("count", [5, 3000])
async def test_a_bar_that_its_exchange_did_not_count_leaves_a_known_count_alone(database: Database, count: int) -> None:
    store, bars = BarStore(database), minutes(count, start=1)
    await store.merge(bars, source="live", trades=np.full(count, 7))
    assert await store.merge(bars, source="sync", trades=np.zeros(count)) == Merged(0, 0, count)
    bars.close[2] += 0.5
    bars.volume[3] = 0.0
    assert await store.merge(bars, source="sync", trades=np.zeros(count)) == Merged(0, 2, count - 2)
    found = await rows(database, "SELECT trades FROM ohlcv_data ORDER BY time LIMIT 5")
    assert found == [(7,), (7,), (7,), (0,), (7,)], "without a volume nobody traded: that is a count"
    assert await store.merge(bars, source="sync", trades=np.full(count, 8)) == Merged(0, count, 0)


@pytest.mark.parametrize("count", [400, 5000])
async def test_writers_at_once_bring_each_bar_once(database: Database, count: int) -> None:
    store = BarStore(database)
    some = [minutes(count), minutes(count, start=count // 2), minutes(count, start=count)]
    done = await asyncio.gather(*(store.merge(bars, source="test") for bars in some))
    total = sum(done, Merged(0, 0, 0))
    assert total == Merged(2 * count, 0, count)
    found = await store.series("BTCUSDT", "1m")
    assert found is not None
    assert (found.candles, found.oldest_ns, found.newest_ns) == (2 * count, T0, T0 + (2 * count - 1) * MINUTE)
    assert same(await store.read("BTCUSDT", "1m"), minutes(2 * count))


async def test_a_bar_that_came_while_we_compared_is_no_error(
    database: Database, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compared = BarStore(database), merging.compared

    async def late(tx: Any, incoming: merging.Incoming) -> Any:
        answer = await compared(tx, incoming)
        if int(incoming.bars.time_ns[0]) == T0:
            await BarStore(database).merge(minutes(2, start=3, shift=1), source="other")
        return answer

    monkeypatch.setattr(merging, "compared", late)
    assert await store.merge(minutes(20), source="test") == Merged(18, 2, 0)
    assert same(await store.read("BTCUSDT", "1m"), minutes(20))


async def test_a_partition_that_was_made_while_we_copied_is_no_error(
    database: Database, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, at = BarStore(database), to_datetime(T0)
    await ensure_partitions(database, at)
    monkeypatch.setattr(merging, "month_of", lambda moment: PartitionSpan("ohlcv_data", "ohlcv_data_p_not_yet", at, at))
    assert await store.merge(minutes(20), source="test") == Merged(20, 0, 0)
    assert await rows(database, "SELECT DISTINCT tableoid::regclass::text FROM ohlcv_data") == [("ohlcv_data_p202601",)]
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(0, 20, T0, T0 + 19 * MINUTE)


async def test_bars_stay_in_the_default_partition_while_the_table_is_busy(
    database: Database,
) -> None:
    store = BarStore(database)
    async with database.transaction() as reader:
        await reader.sql("SELECT count(*) FROM ohlcv_data")
        assert await store.merge(minutes(3000), source="test") == Merged(3000, 0, 0)
    assert await rows(database, "SELECT DISTINCT tableoid::regclass::text FROM ohlcv_data") == [("ohlcv_data_default",)]
    assert await store.merge(minutes(3000), source="test") == Merged(0, 0, 3000)
    assert await rows(database, "SELECT DISTINCT tableoid::regclass::text FROM ohlcv_data") == [("ohlcv_data_p202601",)]
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(0, 3000, T0, T0 + 2999 * MINUTE)


async def test_bars_are_read_in_order_wherever_they_lie(database: Database) -> None:
    store, bars = BarStore(database), minutes(60, step=1440)
    await store.merge(bars[40:], source="test")  # in the default partition, behind the others
    await ensure_partitions(database, to_datetime(T0))
    for start in (20, 0, 30, 10):
        await store.merge(bars[start : start + 10], source="test")
    assert same(await store.read("BTCUSDT", "1m"), bars)
    assert same(await store.read("BTCUSDT", "1m", limit=25), bars[:25])
    assert same(await store.read("BTCUSDT", "1m", limit=25, is_newest=True), bars[35:])
    assert same(await store.read("BTCUSDT", "1m", int(bars.time_ns[5]), int(bars.time_ns[55])), bars[5:55])


async def test_read_beyond_the_statement_timeout_uses_a_long_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, limits = BarStore(database), []
    await store.merge(minutes(3000), source="test")
    copy_out = copy.copy_out

    async def cancelled(connection: Any, *args: Any) -> bytearray:
        raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    async def watched(connection: Any, *args: Any, **options: Any) -> bytearray:
        limits.append(await connection.fetchval("SHOW statement_timeout"))
        return await copy_out(connection, *args, **options)

    monkeypatch.setattr(db, "copy_out", cancelled)
    monkeypatch.setattr(copy, "copy_out", watched)
    assert same(await store.read("BTCUSDT", "1m"), minutes(3000))
    assert limits == ["10min"]


async def test_a_read_goes_on_when_its_connection_is_cut(database: Database) -> None:
    store = BarStore(database)
    await store.merge(minutes(3000), source="test")
    for _ in range(5):
        await database.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
            "pg_backend_pid()"
        )
        both = await asyncio.gather(*(store.read("BTCUSDT", "1m") for _ in range(4)))
        assert all(same(bars, minutes(3000)) for bars in both)


async def test_decades_of_bars_make_no_partition_for_each_month(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "YEARS_MAX", 1)
    store, days = BarStore(database), 2500
    bars = minutes(days, start=-days * 1440, step=1440)
    assert await store.merge(bars, source="test") == Merged(days, 0, 0)
    assert same(await store.read("BTCUSDT", "1m"), bars)
    count = (await rows(database, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ohlcv_data'::regclass"))[0][0]
    assert count == 14  # of thirteen months, and the default one


async def test_two_merges_that_stand_in_each_others_way_both_end(
    database: Database, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has the row in `series` and wants bars, the other has the bars and wants the row: one is taken back, and
    merged again."""
    store, met = BarStore(database), asyncio.Event()
    await store.merge(minutes(4), source="test")
    merge_piece, steps = merging.merge_piece, {"row": 0, "bars": 0}

    async def crossing(tx: Any, incoming: merging.Incoming, added: merging.Added) -> Merged:
        done = await merge_piece(tx, incoming, added)
        steps[incoming.source] += 1
        if steps["row"] and steps["bars"]:
            met.set()
        await asyncio.wait_for(met.wait(), 10)
        return done

    monkeypatch.setattr(merging, "merge_piece", crossing)
    done = await asyncio.gather(
        store.merge(minutes(14), source="row"), store.merge(minutes(14, start=7), source="bars")
    )
    assert sum(steps.values()) > 4  # pieces: two each, and those again
    assert sum(done, Merged(0, 0, 0)) == Merged(17, 0, 11)
    assert same(await store.read("BTCUSDT", "1m"), minutes(21))
    found = await store.series("BTCUSDT", "1m")
    assert found is not None
    assert found.candles == 21


async def test_merges_are_atomic_when_connections_are_cut(database: Database, database_url: str) -> None:
    worker = await Database.connect(database_url, DatabaseSettings(retry_s=3.0), application="cut")
    store, chunk, cut = BarStore(worker), 4000, 0
    rng = random.Random(7)

    async def cutter() -> None:
        await asyncio.sleep(rng.uniform(0.002, 0.08))
        await database.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fks cut' AND datname = "
            "current_database()"
        )

    for number in range(12):
        bars = minutes(chunk, start=(number * 7 % 12) * chunk // 2)
        merging_it = asyncio.wait_for(
            store.merge(bars, source="test"), 30
        )  # a COPY over a dead connection must not wait for ever
        _, outcome = await asyncio.gather(cutter(), merging_it, return_exceptions=True)
        assert isinstance(outcome, OutageError | Merged), repr(outcome)
        cut += isinstance(outcome, OutageError)
        stored = await rows(database, "SELECT count(*), min(time), max(time) FROM ohlcv_data")
        received = await rows(database, "SELECT candles, oldest, newest FROM series") or [(0, None, None)]
        assert stored == received
        if isinstance(outcome, OutageError):
            outcome = await BarStore(database).merge(bars, source="test")
        assert outcome.changed == 0
        assert (await BarStore(database).merge(bars, source="test")) == Merged(0, 0, chunk)
    assert cut
    await worker.close()


async def test_what_the_caller_rolls_back_never_was(database: Database, few: None) -> None:
    store = BarStore(database)

    async def half_way() -> None:
        async with database.transaction() as tx:
            assert (await store.merge(minutes(20), source="test", tx=tx)).inserted == 20
            assert (await store.merge(minutes(20, shift=1), source="test", tx=tx)).changed == 20
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await half_way()
    assert await store.series("BTCUSDT", "1m") is None
    assert await rows(database, "SELECT 1 FROM ohlcv_data") == []


async def test_what_no_series_can_be_is_refused_with_its_row(database: Database) -> None:
    store, bars = BarStore(database), minutes(5)
    bars.time_ns[3] = bars.time_ns[2] + 1  # the same microsecond
    with pytest.raises(InputError, match=r"row 4 opens at 2026-01-01T00:02:00Z") as refused:
        await store.merge(bars, source="test")
    assert refused.value.code == "BARS_UNSORTED"
    bars = minutes(5)
    bars.high[2] = np.nan
    with pytest.raises(InputError, match=r"high of BTCUSDT 1m at 2026-01-01T00:02:00Z is nan"):
        await store.merge(bars, source="test")
    assert await rows(database, "SELECT 1 FROM ohlcv_data") == []


piece = st.tuples(st.integers(0, 40), st.integers(1, 25), st.integers(0, 2), st.booleans())


@given(st.lists(piece, min_size=1, max_size=6))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_merges_in_any_order_end_with_the_last_values(
    database: Database, few: None, pieces: list[tuple[int, int, int, bool]]
) -> None:
    """And a copy made at some revision stays a true one until the revision is another."""
    await database.sql("TRUNCATE ohlcv_data, series")
    store, expected = BarStore(database), dict[int, float]()
    copies: list[tuple[int, dict[int, float]]] = []
    for start, count, shift, is_sparse in pieces:
        bars = minutes(count, start=start, shift=shift, step=2 if is_sparse else 1)
        new = {int(t): float(c) for t, c in zip(bars.time_ns, bars.close, strict=True)}
        unchanged = sum(expected.get(t) == c for t, c in new.items())
        inserted = len(new.keys() - expected.keys())
        assert await store.merge(bars, source="test") == Merged(inserted, count - inserted - unchanged, unchanged)
        expected |= new
        found = await store.series("BTCUSDT", "1m")
        assert found == SeriesSummary(found.revision if found else -1, len(expected), min(expected), max(expected))
        for revision, kept in copies:
            if revision == found.revision:
                assert kept == {t: c for t, c in expected.items() if t <= max(kept)}
        copies.append((found.revision, dict(expected)))
    stored = await store.read("BTCUSDT", "1m")
    assert dict(zip(stored.time_ns.tolist(), stored.close.tolist(), strict=True)) == dict(sorted(expected.items()))
