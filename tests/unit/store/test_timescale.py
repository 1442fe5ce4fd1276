"""TimescaleDB: which steps are planned for which find. The SQL is generated here and was not run (docs/storage.md)."""

from __future__ import annotations

import re

import pytest

from fks.config.settings import Data
from fks.store import schema
from fks.store.routines import DAILY_COLUMNS
from fks.store.timescale import Found, StatementGroup, plan

COMMUNITY = Found((2, 21, 3), True, "timescale")
APACHE = Found((2, 21, 3), True, "apache")


def text(steps: list[StatementGroup]) -> str:
    return "\n".join(statement for step in steps for statement in step.statements)


@pytest.mark.parametrize(
    ("found", "part"),
    [
        (Found(), "native partitions are used"),
        (Found((2, 17, 2), True, "timescale"), "needs 2.18 or newer"),
    ],
)
def test_without_a_usable_version_nothing_is_done(found: Found, part: str) -> None:
    assert plan(found, Data()) == []
    assert part in found.summary()


def test_an_available_extension_is_made_in_the_place_of_our_views() -> None:
    found = Found(is_available=True)
    assert "CREATE EXTENSION timescaledb" in found.summary()
    (step,) = plan(found, Data())
    assert "DROP SCHEMA IF EXISTS timescaledb_information CASCADE" in step.statements[0]
    assert step.statements[1:] == ("CREATE EXTENSION timescaledb",)


def test_community_edition_gets_compression_and_the_aggregate() -> None:
    steps = plan(COMMUNITY, Data())
    assert [step.name for step in steps] == ["ohlcv_data", "market_trades", "balance_history", "trades_by_time"]
    sql = text(steps)
    for table in ("ohlcv_data", "market_trades", "balance_history", "trades_by_time"):
        assert f"create_hypertable('{table}', by_range('time'," in sql
    assert "CALL add_columnstore_policy('ohlcv_data', after => INTERVAL '7 days', if_not_exists => true)" in sql
    assert "CALL add_columnstore_policy('balance_history', after => INTERVAL '30 days', if_not_exists => true)" in sql
    assert "WITH (timescaledb.continuous" in sql
    assert "WITH NO DATA" in sql  # WITH DATA may not be in a transaction
    assert DAILY_COLUMNS in sql
    assert "schedule_interval => INTERVAL '1 hour'" in sql


def test_the_apache_edition_gets_hypertables_alone() -> None:
    steps = plan(APACHE, Data())
    assert [step.name for step in steps] == ["ohlcv_data", "market_trades", "balance_history"]
    assert "columnstore" not in text(steps)
    assert "policy" not in text(steps)
    assert "no compression" in APACHE.summary()


def test_ages_come_from_the_settings() -> None:
    sql = text(plan(COMMUNITY, Data(bars_compress_days=2.5, balances_compress_days=90)))
    assert "'ohlcv_data', after => INTERVAL '2.5 days'" in sql
    assert "'market_trades', after => INTERVAL '2.5 days'" in sql
    assert "'balance_history', after => INTERVAL '90 days'" in sql


def test_what_is_a_hypertable_already_is_left_alone() -> None:
    made = Found(COMMUNITY.version, True, "timescale", frozenset({"ohlcv_data", "trades_by_time"}))
    assert [step.name for step in plan(made, Data())] == ["market_trades", "balance_history"]
    assert "ohlcv_data, trades_by_time" in made.summary()


def test_hypertables_keep_their_keys_and_every_key_has_the_time() -> None:
    sql = text(plan(COMMUNITY, Data()))
    for table in (schema.ohlcv_data, schema.market_trades):
        key = ", ".join(column.name for column in table.primary_key.columns)
        assert f"ALTER TABLE {table.name} ADD CONSTRAINT {table.primary_key.name} PRIMARY KEY ({key})" in sql
    keys = re.findall(r"PRIMARY KEY \(([^)]*)\)", sql)
    assert len(keys) == 4
    assert all("time" in key.split(", ") for key in keys)


def test_a_table_is_copied_before_its_triggers_count_and_the_copy_is_whole() -> None:
    bars = plan(COMMUNITY, Data())[0].statements
    order = [
        next(i for i, s in enumerate(bars) if s.startswith(part))
        for part in (
            "LOCK TABLE",
            "ALTER TABLE ohlcv_data RENAME",
            "CREATE TABLE ohlcv_data",
            "SELECT create_hypertable",
            "INSERT INTO",
            "DROP TABLE",
            "ALTER TABLE ohlcv_data ADD CONSTRAINT",
            "CREATE TRIGGER series_inserted",
            "ALTER TABLE ohlcv_data SET",
        )
    ]
    assert order == sorted(order)


def test_delete_triggers_have_no_transition_tables() -> None:
    """The columnstore refuses them: deleted rows are counted again instead."""
    statements = [statement for step in plan(COMMUNITY, Data()) for statement in step.statements]
    triggers = [statement for statement in statements if re.search(r"CREATE TRIGGER .* DELETE", statement)]
    assert len(triggers) == 2
    assert all("REFERENCING" not in trigger for trigger in triggers)


def test_the_followed_executions_are_columns_of_trades() -> None:
    sql = text(plan(COMMUNITY, Data())[-1:])
    listed = re.search(r"INSERT INTO trades_by_time SELECT ([^\n]*) FROM trades", sql)
    assert listed is not None
    names = listed[1].split(", ")
    assert set(names) <= {column.name for table in (schema.trades, schema.trade_fees) for column in table.columns}
    made = re.search(r"CREATE TABLE trades_by_time \((.*)\)", sql)
    assert made is not None
    assert re.findall(r"(\w+) (?:timestamptz|bigint|integer|text|numeric)\b", made[1]) == names
