"""Functions, triggers and views of the database: the part of the schema that its tables do not state."""

from __future__ import annotations

from pathlib import Path

#: makes them in an empty database that has the tables of fks.store.schema
STATEMENTS = tuple((Path(__file__).parent / "migrations/routines.sql").read_text().split("\n--\n"))
#: makes the view of each symbol's default exchange
OHLCV = next(statement for statement in STATEMENTS if "CREATE VIEW ohlcv " in statement)

#: Removes our schema of TimescaleDB's name, unless it is the extension's: while it exists, CREATE EXTENSION fails.
DROP_INFORMATION = """DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    DROP SCHEMA IF EXISTS timescaledb_information CASCADE;
  END IF;
END $do$"""

#: Drops everything of the schema `public` but Alembic's table, and what belongs to an extension.
DROP_ALL = """DO $do$
DECLARE
  found record;
BEGIN
  FOR found IN
    SELECT c.oid::regclass AS name,
           CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind
      FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
       AND c.relname <> 'alembic_version'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
     ORDER BY c.relkind IN ('r', 'p')  -- views first
  LOOP
    EXECUTE format('DROP %s IF EXISTS %s CASCADE', found.kind, found.name);
  END LOOP;
  FOR found IN
    SELECT p.oid::regprocedure AS name FROM pg_proc p
     WHERE p.pronamespace = 'public'::regnamespace
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
  LOOP
    EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', found.name);
  END LOOP;
END $do$"""
