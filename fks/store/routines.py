"""Functions, triggers and views of the database: the part of the schema that its tables do not state."""

from __future__ import annotations

import re
from pathlib import Path

#: makes them in an empty database that has the tables of fks.store.schema
STATEMENTS = tuple((Path(__file__).parent / "migrations/routines.sql").read_text().split("\n--\n"))
#: the columns of daily_account_performance after account_id and day
DAILY_COLUMNS = (
    next(statement for statement in STATEMENTS if "daily_account_performance AS" in statement)
    .partition("AS day,")[2]
    .partition("\nFROM ")[0]
)
#: makes the function that makes partitions
MAKE_PARTITION = next(statement for statement in STATEMENTS if "CREATE FUNCTION make_partition" in statement)
#: make the functions of vector indexes
VECTOR_INDEXES = tuple(
    statement
    for statement in STATEMENTS
    if re.search(r"^(CREATE|REVOKE EXECUTE ON) FUNCTION ai_", statement, re.MULTILINE)
)
#: makes the view of each symbol's default exchange
OHLCV = next(statement for statement in STATEMENTS if "CREATE VIEW ohlcv " in statement)

#: Removes our schema of TimescaleDB's name, unless it is the extension's: while it exists, CREATE EXTENSION fails.
DROP_INFORMATION = """DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    DROP SCHEMA IF EXISTS timescaledb_information CASCADE;
  END IF;
END $do$"""

#: Installs pgvector where the server has it and the role may. No table needs it: without it search has no vectors.
VECTOR = """DO $do$ BEGIN
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector' AND installed_version IS NULL) THEN
    CREATE EXTENSION vector;
  END IF;
EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'pgvector is not installed: %', SQLERRM;
END $do$"""

#: drop them, but for the default partitions, which go with their tables; nothing of others that share the database
DROPS = tuple(
    f"DROP {kind} IF EXISTS {name} CASCADE"
    for kind in ("MATERIALIZED VIEW", "VIEW", "FUNCTION")
    for statement in STATEMENTS
    for name in re.findall(rf"^CREATE {kind} (\w+)\b", statement, re.MULTILINE)
)
