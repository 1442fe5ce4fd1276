"""Views of TimescaleDB's names where it is not installed: its columns, our partitioned tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from fks.config.paths import Paths
from fks.config.settings import Data
from fks.store import migrate, timescale
from fks.store.db import Database
from fks.store.partitions import ensure_partitions
from fks.store.timescale import Found, plan
from fks.system.servers import backup

#: as documented for TimescaleDB 2.21
HYPERTABLES = [
    "hypertable_schema",
    "hypertable_name",
    "owner",
    "num_dimensions",
    "num_chunks",
    "compression_enabled",
    "tablespaces",
    "primary_dimension",
    "primary_dimension_type",
]
COMPRESSION = [
    "hypertable_schema",
    "hypertable_name",
    "attname",
    "segmentby_column_index",
    "orderby_column_index",
    "orderby_asc",
    "orderby_nullsfirst",
]


async def columns(db: Database, view: str) -> list[str]:
    rows = await db.sql(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'timescaledb_information'"
        " AND table_name = $1 ORDER BY ordinal_position",
        view,
    )
    return [row[0] for row in rows]


async def test_owners_query_lists_the_partitioned_tables(database: Database) -> None:
    await ensure_partitions(database, datetime(2026, 11, 20, tzinfo=UTC))
    rows = {
        row["hypertable_name"]: row for row in await database.sql("SELECT * FROM timescaledb_information.hypertables")
    }
    assert set(rows) == {"ohlcv_data", "market_trades"}
    bars = rows["ohlcv_data"]
    assert (bars["hypertable_schema"], bars["primary_dimension"], bars["num_dimensions"]) == ("public", "time", 1)
    assert bars["num_chunks"] >= 3
    assert bars["compression_enabled"] is False
    found = await database.sql("SELECT primary_dimension_type::text FROM timescaledb_information.hypertables")
    assert {row[0] for row in found} == {"timestamp with time zone"}
    assert await database.sql("SELECT * FROM timescaledb_information.compression_settings") == []


async def test_views_have_the_documented_columns(database: Database) -> None:
    assert await columns(database, "hypertables") == HYPERTABLES
    assert await columns(database, "compression_settings") == COMPRESSION


async def test_views_survive_a_restore_and_another_one(database: Database, database_url: str, tmp_path: Path) -> None:
    paths = Paths.of(tmp_path)
    file = backup.dump(database_url, paths)
    await database.close()
    for _ in range(2):
        backup.restore(database_url, paths, file)
    again = await Database.connect(database_url)
    assert await columns(again, "hypertables") == HYPERTABLES
    await again.close()


async def test_views_go_with_a_downgrade_and_come_again(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    await migrate.downgrade(empty_database_url, "base")
    db = await Database.connect(empty_database_url)
    assert (await db.sql("SELECT to_regnamespace('timescaledb_information') IS NULL"))[0][0]
    await migrate.upgrade(empty_database_url)
    assert await columns(db, "hypertables") == HYPERTABLES
    await db.close()


async def test_extension_is_made_in_place_of_the_views(database: Database) -> None:
    (step,) = plan(Found(is_available=True), Data())
    assert step.statements[1] == "CREATE EXTENSION timescaledb"
    # what the extension's own script does first; it fails while our schema is there
    await database.sql(step.statements[0])
    await database.sql("CREATE SCHEMA timescaledb_information")
    assert (await timescale.find(database)).version is None
