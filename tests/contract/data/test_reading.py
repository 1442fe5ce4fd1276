"""Reading from a plain program: forms, spans, symbols in any spelling, booking by hand, and indicators that are never
stale."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fks import data
from fks.data.notebook import NamedRow
from fks.indicators import compute
from fks.model.bar import Bars
from fks.model.errors import ConfigError, InputError, OutageError
from fks.model.timeframe import NS, to_ns
from fks.store.bars import BarStore
from fks.store.columns import ColumnCache
from fks.store.db import Database
from fks.store.indicators import IndicatorCache, IndicatorStore
from tests.support.waiting import until

T0 = datetime(2026, 5, 1, tzinfo=UTC)
START_NS = to_ns(T0)
MINUTE = 60 * NS


def bars(count: int, *, first: int = 0, symbol: str = "BTCUSDT", seed: int = 1) -> Bars:
    close = 100 + np.round(np.random.default_rng(seed).normal(0, 1, 10_000).cumsum()[first : first + count], 2)
    time_ns = START_NS + np.arange(first, first + count, dtype=np.int64) * MINUTE
    return Bars(symbol, "1m", time_ns, close, close + 1, close - 1, close, np.full(count, 0.5))


@pytest.fixture(autouse=True)
def node(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FKS_HOME", str(tmp_path))
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    yield
    data.disconnect()


@pytest.fixture
async def store(database: Database) -> BarStore:
    store = BarStore(database)
    await store.merge(bars(1000), source="test")
    return store


async def test_limit_and_span_cut_where_they_say(store: BarStore) -> None:
    newest = data.get_ohlcv_data("BTCUSDT", "1m", limit=10)
    assert newest.index[-1] == pd.Timestamp(START_NS + 999 * MINUTE, tz="UTC")
    assert len(newest) == 10
    first = data.get_ohlcv_data("BTCUSDT", "1m", 10, start="2026-05-01T00:05:00Z")
    assert first.index[0] == pd.Timestamp("2026-05-01T00:05", tz="UTC")
    span = data.get_ohlcv_data("BTCUSDT", "1m", start="2026-05-01 00:05", end=datetime(2026, 5, 1, 0, 8))  # noqa: DTZ001
    assert len(span) == 3
    assert len(data.get_ohlcv_data("BTCUSDT", "1m")) == 1000
    assert len(data.get_ohlcv_data("BTCUSDT", "1m", end=date(2026, 5, 1))) == 0
    assert len(data.get_ohlcv_data("BTCUSDT", "1m", start=np.datetime64("2026-05-01T16:00"))) == 40
    assert len(data.get_ohlcv_data("BTCUSDT", "1m", start=pd.Timestamp("2026-05-01T18:00", tz="Europe/Berlin"))) == 40
    empty = data.get_ohlcv_data("BTCUSDT", "4h", limit=5)
    assert list(empty.columns) == ["open", "high", "low", "close", "volume"]
    assert len(empty) == 0


async def test_missing_bars_are_counted(store: BarStore, database: Database) -> None:
    assert data.get_ohlcv_data("BTCUSDT", "1m").attrs["missing"] == 0
    await database.sql("DELETE FROM ohlcv_data WHERE time >= $1 AND time < $2", T0, T0.replace(hour=1))
    assert data.get_ohlcv_data("BTCUSDT", "1m").attrs["missing"] == 0, "nothing is expected before the first"
    await database.sql("DELETE FROM ohlcv_data WHERE time >= $1 AND time < $2", T0.replace(hour=2), T0.replace(hour=3))
    await database.sql("UPDATE ohlcv_data SET is_complete = false WHERE time = $1", T0.replace(hour=4))
    found = data.get_ohlcv_data("BTCUSDT", "1m")
    assert found.attrs["missing"] == 61
    assert found.attrs["revision"] > 0
    await store.merge(bars(5, symbol="ESZ3"), exchange="cme", source="test")
    assert data.get_ohlcv_data("ESZ3", "1m").attrs["missing"] is None, "the hours of this market are not known"


async def test_missing_bars_of_an_answer_follow_from_what_was_asked(store: BarStore, database: Database) -> None:
    def missing(symbol: str = "BTCUSDT", timeframe: str = "1m", limit: int | None = None, **span: str) -> int | None:
        found: int | None = data.get_ohlcv_data(symbol, timeframe, limit, **span).attrs["missing"]
        return found

    assert missing(start="2026-04-30T23:00", end="2026-05-01T01:00") == 60
    assert missing(start="2026-05-01T16:00", end="2026-05-01T17:00") == 20
    assert missing(start="2026-04-01", end="2026-04-02") == 1440, "outside what is stored"
    assert missing(start="2026-05-01T00:00:30", end="2026-05-01T00:02:30") == 0
    assert missing(end="2026-04-01") is None, "where it begins is not known"
    assert missing(limit=10, start="2026-04-30", end="2026-05-02") == 0, "cut by the limit"
    assert missing(limit=2000, start="2026-04-30T23:59", end="2026-05-01T16:41") == 2
    assert missing(timeframe="4h", start="2026-05-01", end="2026-05-02") == 6
    assert missing(start="2999-01-01") == 0, "the future is not missing"
    await store.merge(bars(5, symbol="ABC"), exchange="shares", source="test")
    assert missing("ABC", start="2026-05-01", end="2026-05-02") is None
    await database.sql("UPDATE series SET calendar = 'XNYS' WHERE symbol = 'ABC'")
    assert missing("ABC", start="2026-05-01", end="2026-05-02") == 390 - 5, "the calendar that an import gave"


async def test_long_series_is_mapped_and_correct(store: BarStore, database: Database, tmp_path: Path) -> None:
    first = data.get_ohlcv_arrays("BTCUSDT", "1m")
    assert not first.close.flags.owndata
    assert list((tmp_path / "columns").glob("*BTCUSDT*"))
    await database.sql("UPDATE ohlcv_data SET close = 1.25 WHERE time = $1", T0)
    assert data.get_ohlcv_arrays("BTCUSDT", "1m").close[0] == 1.25
    assert first.close[0] == bars(1).close[0], "what was mapped before stays as it was"
    assert data.get_ohlcv_data("BTCUSDT", "1m")["close"].iloc[0] == 1.25


async def test_own_columns_are_written_and_read_beside_bars(store: BarStore) -> None:
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([START_NS, START_NS + 5 * MINUTE], utc=True),
            "known_at": pd.to_datetime([START_NS + 3 * MINUTE, START_NS + 5 * MINUTE], utc=True),
            "value": [1.5, None],
        }
    )
    assert data.add_features(frame, "mood", "BTC/USDT") == 2
    assert data.add_features(frame, "mood", "btcusdt") == 0
    found = data.with_features(data.get_ohlcv_arrays("BTC/USDT", "1m", 10, start=T0), "mood").features["mood"]
    assert np.array_equal(found.values, [np.nan] * 2 + [1.5] * 2 + [np.nan] * 6, equal_nan=True)
    assert found.time_ns[1:5].tolist() == [-1, START_NS, START_NS, START_NS + 5 * MINUTE]
    later = data.with_features(data.get_ohlcv_arrays("BTC/USDT", "1m", 3, start="2026-05-01T00:03"), "mood")
    assert later.features["mood"].values[0] == 1.5, "what was known before the first bar"
    for symbol, value in (("", 8.0), ("BTCUSDT", 9.0), ("ETHUSDT", 10.0)):  # of all, its own, of another
        at = {"time": T0, "known_at": "2026-05-01T00:02", "value": value}
        assert data.add_features([at], "both", symbol) == 1
    assert data.add_features([{"time": "2026-05-01T00:04", "known_at": "2026-05-01T00:04", "value": 11.0}], "both") == 1
    both = data.with_features(data.get_ohlcv_arrays("BTCUSDT", "1m", 5, start=T0), "both").features["both"]
    assert np.array_equal(both.values, [np.nan, 9.0, 9.0, 11.0, 11.0], equal_nan=True)
    assert data.add_features([{"time": T0, "value": 7.0}], "now") == 1, "without known_at it is known now"
    assert np.isnan(data.with_features(later, "now").features["now"].values).all()
    with pytest.raises(InputError, match=r"is 1.5, known from .* on, not 2") as refused:
        data.add_features(
            [{"time": T0, "known_at": "2026-05-01T00:03", "value": 2.0, "feature": "mood"}], symbol="BTCUSDT"
        )
    assert refused.value.code == "FEATURE_CHANGED"
    with pytest.raises(InputError) as refused:
        data.with_features(later, "none")
    assert refused.value.code == "FEATURE_UNKNOWN"
    for value, said in (("much", "is no number"), ([1.0], "is no number"), (float("inf"), "is infinite")):
        with pytest.raises(InputError, match=said):
            data.add_features([{"time": T0, "value": value}], "mood")
    with pytest.raises(InputError, match=r"is 3, known from .* on, not 4"):  # twice in one call, all or none
        data.add_features([{"time": T0, "known_at": T0, "value": value} for value in (3.0, 4.0)], "twice")
    with pytest.raises(InputError, match="there is no column twice"):
        data.with_features(later, "twice")
    with pytest.raises(InputError, match="lacks a time or a value"):
        data.add_features([{"time": T0}], "mood")


async def test_the_forms_are_one_memory(store: BarStore) -> None:
    arrays = data.get_ohlcv_arrays("BTC/USDT", "1m")
    assert np.array_equal(arrays.close, bars(1000).close)
    table = data.get_ohlcv_table("btc-usdt", "1m")
    assert table.num_rows == 1000
    assert table.schema.metadata[b"symbol"] == b"BTCUSDT"
    assert np.array_equal(table["close"].to_numpy(), arrays.close)
    frame = table.to_pandas()
    assert frame["time"].iloc[0] == pd.Timestamp(T0)

    from fks.data.frames import table_of

    made = table_of(arrays)
    for name in ("open", "high", "low", "close", "volume"):
        column = getattr(arrays, name)
        assert made[name].chunk(0).buffers()[1].address == column.__array_interface__["data"][0], name
    assert made["time"].chunk(0).buffers()[1].address == arrays.time_ns.__array_interface__["data"][0]


WRONG = (
    (lambda: data.get_ohlcv_data("NOPE", "1m"), "SYMBOL_UNKNOWN", "BTCUSDT"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "7m"), "TIMEFRAME_UNKNOWN", "15m"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "1m", start="2026-05-02", end="2026-05-01"), "INVALID", "swap"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "1m", start="yesterday"), "TIME_INVALID", "start='yesterday'"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "1m", end=1_777_600_000), "TIME_INVALID", "end=1777600000"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "1m", start=pd.NaT), "TIME_INVALID", "NaT"),
    (lambda: data.get_ohlcv_data("BTCUSDT", "1m", limit=0), "INVALID", "limit=0"),
    (lambda: data.get_balance_history(7), "ACCOUNT_UNKNOWN", "get_accounts"),
    (lambda: data.record_trade(7, "BTCUSDT", "BUY", 1, 2), "ACCOUNT_UNKNOWN", "get_accounts"),
    (lambda: data.record_trade(1, "BTCUSDT", "HOLD", 1, 2), "INVALID", "'HOLD'"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", -1, 2), "INVALID", "SELL"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", float("nan"), 2), "INVALID", "quantity=nan"),
    (lambda: data.record_trade(1, "NOPE", "BUY", 1, 2), "SYMBOL_UNKNOWN", "NOPE"),
    (lambda: data.get_indicator("BTCUSDT", "1m", "magic"), "INDICATOR_UNKNOWN", "rsi"),
    (lambda: data.get_indicator("BTCUSDT", "1m", "rsi", period=0), "INDICATOR_PARAM", "from 2"),
    (lambda: data.get_indicator("BTCUSDT", "1m", "rsi", period="x"), "INDICATOR_PARAM", "from 2"),
    (lambda: data.get_ohlcv_data(None, "1h"), "SYMBOL_UNKNOWN", "None"),
    (lambda: data.get_balance_history(1, limit=0), "INVALID", "limit=0"),
    (lambda: data.create_account("y", broker=None), "INVALID", "broker"),
    (lambda: data.create_account("y", currency=""), "INVALID", "currency"),
    (lambda: data.create_account("y", currency="US dollars"), "INVALID", "currency"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", 1, 2, time="2130-01-01"), "INVALID", "2130"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", 1, 2, reference="x" * 200), "INVALID", "128"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", 1, 2, order_type="x" * 40), "INVALID", "order_type"),
    (lambda: data.record_trade(1, "BTCUSDT", "BUY", True, 2), "INVALID", "quantity=True"),
)  # fmt: skip


async def test_wrong_arguments_get_one_clear_message(store: BarStore) -> None:
    for call, code, given in WRONG:
        with pytest.raises(InputError) as refused:
            call()
        assert refused.value.code == code, given
        assert given in str(refused.value)
        assert refused.value.remedy


async def test_symbol_on_two_exchanges_is_the_one_with_bars_or_refused(store: BarStore, database: Database) -> None:
    await database.sql(
        "INSERT INTO instruments (exchange, symbol, base, quote, tick, lot_step, qty_min, qty_max, notional_min)"
        " SELECT e, 'BTCUSDT', 'BTC', 'USDT', 0.01, 0.00001, 0.00001, 9000, 5 FROM unnest(ARRAY['binance','bybit']) e"
    )
    assert data.get_ohlcv_data("BTC/USDT", "1m", 1).attrs["exchange"] == "binance"
    await store.merge(bars(5, seed=2), exchange="bybit", source="test")
    with pytest.raises(InputError, match="binance:BTCUSDT, bybit:BTCUSDT"):
        data.get_ohlcv_data("BTCUSDT", "1m")
    assert (
        len(data.get_ohlcv_data("bybit:BTCUSDT", "1m"))
        == len(data.get_ohlcv_data("BTCUSDT", "1m", exchange="bybit"))
        == 5
    )


async def test_calls_come_from_threads_and_from_inside_a_running_loop(store: BarStore) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(data.get_ohlcv_data("BTCUSDT", "1m", 5)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, 20)
    assert found == [5] * 4


def test_home_without_fks_is_refused_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FKS_DATABASE_URL")
    with pytest.raises(ConfigError, match="FKS_HOME"):
        data.get_accounts()


# ── booking by hand ──────────────────────────────────────────────────────────────────────────────
async def test_numbers_from_pandas_are_accepted(store: BarStore) -> None:
    account = data.create_account("hand", currency="usdt")
    assert account.currency == "USDT"
    one = data.record_trade(np.int64(1), "BTCUSDT", "BUY", np.float32(0.1), np.int64(45000), fee=np.float64(4.5))
    assert (one.quantity, one.price, one.fee) == (Decimal("0.1"), 45000, Decimal("4.5"))
    assert len(data.get_ohlcv_data("BTCUSDT", "1m", limit=np.int32(5))) == 5
    assert len(data.get_balance_history(np.int64(1), np.int64(5))) == 0


async def test_the_same_order_type_in_another_case_is_the_same_trade(store: BarStore) -> None:
    data.create_account("hand")
    one = data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000, 4.5, "MARKET")
    with pytest.warns(UserWarning, match="booked already"):
        assert data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000, 4.5, " market").id == one.id


@pytest.mark.parametrize(
    "other", [{"time": "2026-05-02"}, {"fee_currency": "BNB"}, {"order_type": "LIMIT"}], ids=lambda row: next(iter(row))
)
async def test_reference_belongs_to_one_execution_with_all_its_values(store: BarStore, other: dict[str, Any]) -> None:
    data.create_account("hand")
    given = {"time": "2026-05-01", "fee_currency": "USDT", "order_type": "MARKET"}
    data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000, 4.5, reference="r", **given)
    with pytest.warns(UserWarning, match="booked already"):
        assert not data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000, 4.5, reference="r").is_new
    with pytest.raises(InputError, match="booked already") as refused:
        data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000, 4.5, reference="r", **{**given, **other})
    assert refused.value.code == "TRADE_DIFFERS"


async def test_equal_arguments_are_the_same_trade(store: BarStore, database: Database) -> None:
    data.create_account("hand")
    one = data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000.0, fee=4.5)
    assert (one.is_new, one.venue, one.fee_currency) == (True, "manual", "USDT")
    with pytest.warns(UserWarning, match="booked already"):
        again = data.record_trade(1, "btc/usdt", "buy", Decimal("0.10"), "45000", fee=4.50)
    assert (again.is_new, again.id) == (False, one.id)
    other = data.record_trade(1, "BTCUSDT", "BUY", 0.1, 45000.0, fee=4.5, reference="second")
    assert other.is_new
    with pytest.raises(InputError, match="second"):
        data.record_trade(1, "BTCUSDT", "SELL", 0.3, 45000.0, reference="second")
    assert (await database.sql("SELECT count(*) FROM trades"))[0][0] == 2
    assert (await database.sql("SELECT count(*) FROM positions"))[0][0] == 0


async def test_concurrent_bookings_of_one_trade_book_it_once(store: BarStore, database: Database) -> None:
    data.create_account("hand")
    sold = [
        asyncio.to_thread(data.record_trade, 1, "BTCUSDT", "SELL", 1, 10 + n % 2, reference=str(n % 2))
        for n in range(8)
    ]
    with pytest.warns(UserWarning, match="booked already"):
        rows = await asyncio.gather(*sold)
    assert sorted(row.is_new for row in rows) == [False] * 6 + [True] * 2
    assert (await database.sql("SELECT count(*) FROM trades"))[0][0] == 2


async def test_profit_follows_the_order_of_time_not_of_booking(store: BarStore, database: Database) -> None:
    data.create_account("hand")
    data.record_trade(1, "BTCUSDT", "BUY", 1, 100, time="2026-05-01T10:00Z")
    assert data.record_trade(1, "BTCUSDT", "SELL", 1, 130, time="2026-05-01T12:00Z").realized_pnl == 30
    data.record_trade(1, "BTCUSDT", "BUY", 1, 110, time="2026-05-01T11:00Z")  # remembered late
    rows = await database.sql("SELECT realized_pnl FROM trades ORDER BY time")
    assert [row[0] for row in rows] == [0, 0, 25]


async def test_an_account_is_made_once_and_never_changed(store: BarStore) -> None:
    one = data.create_account("prop one", "prop", 50_000, "Topstep")
    assert isinstance(one, NamedRow)
    assert data.create_account("prop one", "prop", 50_000.0, "Topstep").id == one.id
    with pytest.raises(InputError, match="initial_balance 50000"):
        data.create_account("prop one", "prop", 60_000, "Topstep")
    with pytest.raises(AttributeError, match="account_type"):
        one.nothing  # noqa: B018


async def test_balance_history_is_the_newest_points_in_order(store: BarStore, database: Database) -> None:
    data.create_account("hand")
    await database.sql(
        "INSERT INTO balance_history (account_id, time, balance) SELECT 1, $1::timestamptz + n * interval '1 day', n"
        " FROM generate_series(1, 40) n",
        T0,
    )
    frame = data.get_balance_history(account_id=1, limit=30)
    assert list(frame["balance"]) == [float(n) for n in range(11, 41)]
    assert str(frame.index.tz) == "UTC"


# ── indicators ───────────────────────────────────────────────────────────────────────────────────
async def test_cached_columns_have_a_size_limit(
    store: BarStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = IndicatorCache(database)
    for period in (14, 15, 16):
        await cache.compute("binance", "BTCUSDT", "1m", "rsi", period=period)
    (size,) = (await database.sql("SELECT max(octet_length(data)) FROM indicators_cache"))[0]
    monkeypatch.setattr("fks.store.indicators.BYTES_MAX", 2 * size)
    await cache.compute("binance", "BTCUSDT", "1m", "rsi", period=17)
    kept = await database.sql("SELECT params->>'period' FROM indicators_cache ORDER BY computed_at")
    assert [row[0] for row in kept] == ["16", "17"]


async def test_indicator_is_cached_and_never_stale(store: BarStore, database: Database) -> None:
    cache = IndicatorCache(database)

    async def rsi() -> tuple[bool, np.ndarray]:
        found = await cache.compute("binance", "BTCUSDT", "1m", "rsi", period=14)
        whole = await store.read("BTCUSDT", "1m")
        expected = compute("rsi", whole, period=14)["rsi"]
        assert np.array_equal(found.time_ns, whole.time_ns)
        assert np.array_equal(found.columns["rsi"], expected, equal_nan=True)
        return found.is_kept, found.columns["rsi"]

    assert [(await rsi())[0], (await rsi())[0]] == [False, True]
    await store.merge(bars(10, first=1000), source="test")  # appended
    assert [(await rsi())[0], (await rsi())[0]] == [False, True]
    await database.sql("UPDATE ohlcv_data SET close = close + 0.5 WHERE time = $1", T0)  # corrected, by anyone
    assert [(await rsi())[0], (await rsi())[0]] == [False, True]
    await database.sql("DELETE FROM ohlcv_data WHERE time < $1", datetime(2026, 5, 1, 0, 30, tzinfo=UTC))
    assert [(await rsi())[0], (await rsi())[0]] == [False, True]
    await database.sql("UPDATE indicators_cache SET data = 'x'::bytea")  # damaged
    assert [(await rsi())[0], (await rsi())[0]] == [False, True]


async def test_parameters_are_part_of_the_key_with_defaults(store: BarStore, database: Database) -> None:
    cache = IndicatorCache(database)
    await cache.compute("binance", "BTCUSDT", "1m", "bbands")
    assert (await cache.compute("binance", "BTCUSDT", "1m", "bbands", deviations=2, period=20)).is_kept
    assert not (await cache.compute("binance", "BTCUSDT", "1m", "bbands", period=21)).is_kept
    empty = await cache.compute("binance", "BTCUSDT", "4h", "sma")
    assert len(empty.time_ns) == len(empty.columns["sma"]) == 0


async def test_series_corrected_during_the_computation_is_not_cached(store: BarStore, database: Database) -> None:
    kept, state, whole = (
        IndicatorStore(database),
        await store.series("BTCUSDT", "1m"),
        await store.read("BTCUSDT", "1m"),
    )
    assert state is not None
    await database.sql("UPDATE ohlcv_data SET close = close + 0.5 WHERE time = $1", T0)
    columns = compute("sma", whole, period=14)
    assert not await kept.save("binance", "BTCUSDT", "1m", "sma", "k", {}, state, whole.time_ns, columns)
    assert await kept.fresh("binance", "BTCUSDT", "1m", "sma", "k") is None


async def test_an_indicator_is_a_frame_cut_after_it_is_computed(store: BarStore) -> None:
    frame = data.get_indicator("BTC/USDT", "1m", "ema", 5, period=20)
    whole = compute("ema", await store.read("BTCUSDT", "1m"), period=20)["ema"]
    assert np.array_equal(frame["ema"].to_numpy(), whole[-5:])
    span = data.get_indicator("BTC/USDT", "1m", "macd", start="2026-05-01T02:00Z", end="2026-05-01T02:10Z")
    assert list(span.columns) == ["line", "signal", "histogram"]
    assert len(span) == 10


async def test_readers_never_see_values_of_bars_corrected_before_the_call(
    store: BarStore, database: Database, tmp_path: Path
) -> None:
    state = await store.series("BTCUSDT", "1m")
    assert state is not None
    truth: dict[int, np.ndarray] = {state.revision: (await store.read("BTCUSDT", "1m")).close}
    done, answers = False, 0

    async def correct() -> None:
        nonlocal done
        for n in range(60):
            if n % 3 == 0:  # bursts, and one reader is answered in between
                seen = answers
                await until(lambda: answers > seen, every_s=0.001)  # noqa: B023
            place = n * 7 % 1000
            close = truth[max(truth)].copy()
            close[place] = round(float(close[place]) + 0.25, 2)
            truth[max(truth) + 1] = close  # known before it is committed: a reader may see either
            at = datetime.fromtimestamp((START_NS + place * MINUTE) // NS, UTC)
            await database.sql("UPDATE ohlcv_data SET close = $1 WHERE time = $2", float(close[place]), at)
        done = True

    async def ask(columns: ColumnCache | None) -> None:
        nonlocal answers
        cache = IndicatorCache(database, columns)
        while not done:
            floor = await database.sql("SELECT revision FROM series")
            try:
                found = await cache.compute("binance", "BTCUSDT", "1m", "sma", period=5)
            except OutageError:  # the series never stood still
                continue
            assert found.revision >= floor[0][0], "not older than what was true when it was asked"
            whole = bars(1000)
            now = replace(whole, close=truth[found.revision])
            assert np.array_equal(found.columns["sma"], compute("sma", now, period=5)["sma"], equal_nan=True)
            answers += 1

    await asyncio.gather(correct(), ask(None), ask(None), ask(ColumnCache(tmp_path / "columns", database)))
    assert (await IndicatorCache(database).compute("binance", "BTCUSDT", "1m", "sma", period=5)).revision == max(truth)
