"""SQL and Python that the owner's users wrote for the old services, word for word: both run unchanged."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pandas as pd
import pytest

from fks import data
from fks.store.db import Database
from tests.support.local_exchange import LocalExchange

HOUR = timedelta(hours=1)

SQL = {
    "newest bars": "SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' ORDER BY time DESC LIMIT 10;",
    "last month": "SELECT * FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h' AND time > NOW() - INTERVAL '30 days';",
    "performance": "SELECT * FROM daily_account_performance WHERE account_id = 1 AND day > NOW() - INTERVAL '90 days';",
    "coverage": "SELECT symbol, timeframe, COUNT(*) AS candles, MIN(time) AS oldest, MAX(time) AS newest, MAX(time) - MIN(time) AS time_range FROM ohlcv_data GROUP BY symbol, timeframe ORDER BY symbol, timeframe;",
    "nulls": "SELECT symbol, timeframe, COUNT(*) FROM ohlcv_data WHERE close IS NULL OR volume IS NULL GROUP BY symbol, timeframe;",
    "new coin": "INSERT INTO sync_status (symbol, timeframe, sync_status) SELECT 'NEWCOINUSDT', tf, 'pending' FROM unnest(ARRAY['1m','5m','15m','30m','1h','4h','1d','1w','1M']) AS tf ON CONFLICT DO NOTHING;  -- starts that sync",
}  # fmt: skip

PYTHON = {
    "bars": "df = get_ohlcv_data('BTCUSDT', '1h', limit=1000)",
    "account": "account = create_account(name='My Trading Account', account_type='personal', initial_balance=10000.0, broker='Binance')",
    "accounts": "accounts = get_accounts()",
    "trade": "trade = record_trade(account_id=1, symbol='BTCUSDT', trade_type='BUY', quantity=0.1, price=45000.0, fee=4.5, order_type='MARKET')",
    "balance": "balance_df = get_balance_history(account_id=1, limit=30)",
    "status": "status = get_sync_status(symbol='BTCUSDT')",
    "sync": "service.sync_historical_data('BTCUSDT', '1h')",
}  # fmt: skip


@pytest.fixture
async def stored(database: Database) -> Database:
    """A store with two months of hours up to now, as a node has after a while."""
    await database.sql(
        "INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume)"
        " SELECT date_trunc('hour', now()) - n * interval '1 hour', 'BTCUSDT', '1h', 100 + n, 101 + n, 99 + n, 100.5 "
        "+ n, 2"
        " FROM generate_series(1, 1440) n"
    )
    return database


@pytest.fixture
def notebook(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A notebook whose FKS_HOME is this test's: what `from fks.data import *` brings."""
    monkeypatch.setenv("FKS_HOME", str(tmp_path))
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    names: dict[str, Any] = {}
    exec("from fks.data import *", names)
    yield names
    data.disconnect()


async def _as_psql(url: str, statement: str) -> list[asyncpg.Record]:
    """Run a statement as any client would: the simple protocol, comments and all."""
    connection = await asyncpg.connect(url)
    try:
        if statement.startswith("INSERT"):
            await connection.execute(statement)
            return []
        rows: list[asyncpg.Record] = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


async def test_the_bars_statements_give_the_bars(stored: Database, database_url: str) -> None:
    newest = await _as_psql(database_url, SQL["newest bars"])
    assert [row["close"] for row in newest] == [101.5 + n for n in range(10)]
    assert {"time", "symbol", "timeframe", "open", "high", "low", "close", "volume"} <= set(newest[0].keys())
    month = await _as_psql(database_url, SQL["last month"])
    assert len(month) in (719, 720)
    coverage = await _as_psql(database_url, SQL["coverage"])
    assert [tuple(row)[:3] for row in coverage] == [("BTCUSDT", "1h", 1440)]
    assert coverage[0]["time_range"] == 1439 * HOUR
    assert await _as_psql(database_url, SQL["nulls"]) == []
    await stored.sql("UPDATE ohlcv_data SET volume = NULL WHERE time = (SELECT max(time) FROM ohlcv_data)")
    assert [tuple(row) for row in await _as_psql(database_url, SQL["nulls"])] == [("BTCUSDT", "1h", 1)]


async def test_the_performance_statement_gives_what_was_booked(
    stored: Database, database_url: str, notebook: Any
) -> None:
    exec(PYTHON["account"], notebook)
    exec(PYTHON["trade"], notebook)
    notebook["record_trade"](1, "BTCUSDT", "SELL", 0.1, 46000.0, fee=4.6)
    await stored.sql("REFRESH MATERIALIZED VIEW daily_account_performance")
    (row,) = await _as_psql(database_url, SQL["performance"])
    assert (row["trades"], row["wins"], row["win_rate"], row["total_pnl"]) == (2, 1, 1.0, 100)
    assert row["fees"] == Decimal("9.1")
    assert {"account_id", "day", "win_rate", "total_pnl", "average_trade", "fees"} <= set(row.keys())


async def test_the_insert_asks_for_nine_syncs_once(stored: Database, database_url: str) -> None:
    for _ in range(2):
        await _as_psql(database_url, SQL["new coin"])
    rows = await stored.sql("SELECT timeframe, sync_status FROM sync_status WHERE symbol = 'NEWCOINUSDT'")
    assert {row["timeframe"] for row in rows} == {"1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w", "1M"}
    assert {row["sync_status"] for row in rows} == {
        "pending"
    }  # tests/contract/research/jobs/test_sync_job.py sees such rows done


async def test_every_old_python_call_runs_unchanged(stored: Database, notebook: Any) -> None:
    await stored.sql("INSERT INTO sync_status (symbol, timeframe, sync_status) VALUES ('BTCUSDT', '1h', 'done')")
    for name in ("bars", "account", "accounts", "trade", "balance", "status"):
        exec(PYTHON[name], notebook)
    frame = notebook["df"]
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 1000
    assert frame.index.is_monotonic_increasing
    assert frame["close"].iloc[-1] == 101.5
    assert notebook["account"]["id"] == notebook["account"].id == 1
    assert [account["name"] for account in notebook["accounts"]] == ["My Trading Account"]
    assert notebook["trade"].source == "manual"
    assert notebook["trade"]["quantity"] == Decimal("0.1")
    assert list(notebook["balance_df"].columns)[:2] == ["currency", "balance"]
    assert [(row.sync_status, row.candles) for row in notebook["status"]] == [("done", 1440)]
    orders = await stored.sql("SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM signals)")
    assert orders[0][0] == 0, "record_trade sends nothing"


async def test_sync_status_shows_what_is_stored_without_a_sync(stored: Database, notebook: Any) -> None:
    def shown() -> list[tuple[str, str, int]]:
        exec(PYTHON["status"], notebook)
        return [(row.timeframe, row.sync_status, row.candles) for row in notebook["status"]]

    assert shown() == [("1h", "stored", 1440)]
    await stored.sql("INSERT INTO assets (exchange, symbol) VALUES ('binance', 'BTCUSDT')")
    await stored.sql("INSERT INTO sync_status (symbol, timeframe) VALUES ('BTCUSDT', '4h')")
    assert shown() == [("1h", "collected", 1440), ("4h", "pending", 0)]
    oldest, newest = (await stored.sql("SELECT min(time), max(time) FROM ohlcv_data"))[0]
    assert (notebook["status"][0].oldest, notebook["status"][0].newest) == (oldest, newest)
    assert (notebook["status"][0].error, notebook["status"][0].last_sync_at) == (None, None)
    await stored.sql(
        "UPDATE sync_status SET sync_status = 'done', oldest = $1, newest = $2, candles = 360", oldest, newest
    )
    await stored.sql("DELETE FROM ohlcv_data")
    assert shown() == [("4h", "done", 0)]
    assert (notebook["status"][0].oldest, notebook["status"][0].newest) == (None, None)
    assert notebook["get_sync_status"]("ETHUSDT") == []


async def test_the_service_call_fetches_the_history(
    database: Database, notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = LocalExchange(tmp_path / "exchange", ["--seed", "5", "--rate-limits", "off"]).start()
    monkeypatch.setenv("FKS_DATA_REST_URL", exchange.info["rest"])
    monkeypatch.setenv("FKS_DATA_WS_URL", exchange.info["ws"])
    try:
        done = eval(PYTHON["sync"], notebook)
    finally:
        exchange.stop()
    assert (done.symbol, done.timeframe) == ("BTCUSDT", "1h")
    stored = await database.sql("SELECT count(*) FROM ohlcv_data WHERE symbol = 'BTCUSDT' AND timeframe = '1h'")
    assert stored[0][0] == done.candles >= 24
    assert notebook["get_sync_status"]("BTC/USDT")[0].sync_status == "done"
    assert len(notebook["get_ohlcv_data"]("BTCUSDT", "1h", limit=1000)) == min(1000, done.candles)
