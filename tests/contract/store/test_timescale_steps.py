"""The generated steps on plain PostgreSQL: all but TimescaleDB's own statements run, and afterwards everything still
works."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest

from fks.config.settings import Data
from fks.interfaces.cli import cli
from fks.interfaces.cli.base import OK, run
from fks.model.bar import Bars
from fks.model.timeframe import NS
from fks.store import timescale
from fks.store.bars import BarStore, Merged, SeriesSummary
from fks.store.db import Database
from fks.store.partitions import ensure_months
from fks.store.performance import refresh
from fks.store.timescale import Found, StatementGroup, plan

T0 = 1_767_225_600 * NS
STAND_INS = """
CREATE FUNCTION by_range(name text, size interval) RETURNS text LANGUAGE sql AS 'SELECT name';
CREATE FUNCTION create_hypertable(name text, by text, migrate_data boolean DEFAULT false) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION time_bucket(size interval, at timestamptz) RETURNS timestamptz LANGUAGE sql AS 'SELECT date_trunc(''day'', at, ''UTC'')';
CREATE FUNCTION drop_chunks(name text, older_than timestamptz) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''chunk''';
"""


def minutes(count: int, start: int = 0) -> Bars:
    index = start + np.arange(count, dtype=np.int64)
    close = 100 + index / 100
    return Bars("BTCUSDT", "1m", T0 + index * 60 * NS, close, close + 1, close - 1, close.copy(), close / 7)


def plain(step: StatementGroup) -> StatementGroup:
    """Return a step without what only TimescaleDB understands; a continuous aggregate is a view that is always up to
    date."""
    aggregate = (
        "CREATE MATERIALIZED VIEW daily_account_performance WITH (timescaledb.continuous, "
        "timescaledb.materialized_only = false)"
    )
    kept = [
        s.replace(aggregate, "CREATE VIEW daily_account_performance").replace(" WITH NO DATA", "")
        for s in step.statements
    ]
    return StatementGroup(
        step.name, step.what, tuple(s for s in kept if "timescaledb." not in s and "_policy(" not in s)
    )


async def test_where_there_is_none_that_is_found(database: Database) -> None:
    found = await timescale.find(database)
    assert found == Found()
    assert plan(found, Data()) == []


@pytest.mark.parametrize("is_filled", [False, True])
async def test_bars_executions_and_balances_go_on_after_the_steps(database: Database, is_filled: bool) -> None:
    store = BarStore(database)
    await database.sql("INSERT INTO accounts (id, name, venue) VALUES (1, 'a', 'paper')")
    if is_filled:
        await store.merge(minutes(3000), source="test")
        await _book(database, "5")
        await database.sql("INSERT INTO balance_history (account_id, balance) VALUES (1, 10)")
    for statement in STAND_INS.strip().splitlines():
        await database.sql(statement)
    await timescale.apply(database, [plain(step) for step in plan(Found((2, 21, 3), True, "timescale"), Data())])
    there = 3000 if is_filled else 0
    assert await store.merge(minutes(6000), source="test") == Merged(6000 - there, 0, there)
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(0, 6000, T0, T0 + 5999 * 60 * NS)
    await database.sql("DELETE FROM ohlcv_data WHERE time < to_timestamp($1)", T0 / NS + 600)
    assert await store.series("BTCUSDT", "1m") == SeriesSummary(1, 5990, T0 + 600 * NS, T0 + 5999 * 60 * NS)
    assert await ensure_months(database, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)) == []
    await _book(database, "-1")
    await database.sql("UPDATE trades SET realized_pnl = -2 WHERE realized_pnl = -1")
    assert await refresh(database) == "refreshes itself"
    day = (await database.sql("SELECT trades, total_pnl FROM daily_account_performance WHERE account_id = 1"))[0]
    assert (day["trades"], day["total_pnl"]) == ((2, Decimal(3)) if is_filled else (1, Decimal(-2)))
    await database.sql("UPDATE trades SET fee = 0.01, fee_currency = 'BNB' WHERE realized_pnl = -2")
    fees = "SELECT fees, fees_unvalued FROM daily_account_performance WHERE account_id = 1"
    assert (await database.sql(fees))[0]["fees_unvalued"] == 1
    await database.sql("INSERT INTO trade_fees (trade_id, fee_quote) SELECT id, 6 FROM trades WHERE realized_pnl = -2")
    await database.sql("UPDATE trades SET order_type = 'market'")  # a row that is followed again keeps the value
    assert tuple((await database.sql(fees))[0]) == (Decimal(6), 0)
    await database.sql("INSERT INTO balance_history (account_id, balance) VALUES (1, 11)")
    assert (await database.sql("SELECT count(*) FROM balance_history"))[0][0] == 1 + is_filled


async def _book(db: Database, pnl: str) -> None:
    await db.sql(
        "INSERT INTO trades (fill_id, account_id, venue, symbol, trade_type, quantity, price, realized_pnl, time) "
        "VALUES (gen_random_uuid(), 1, 'paper', 'BTCUSDT', 'SELL', 1, 100, $1, '2026-01-02')",
        Decimal(pnl),
    )


def test_command_reports_the_timescale_state(
    postgres: object,
    database_url: str,
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FKS_HOME", str(tmp_path))
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    assert run(cli, ["db", "timescale", "--apply", "--yes", "--json"]) == OK
    answer = json.loads(capfd.readouterr().out)
    assert answer["steps"] == []
    assert "not installed" in answer["found"]
