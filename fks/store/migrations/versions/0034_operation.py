"""Operation: views of TimescaleDB's names over native partitions, and metric snapshots for when Redis is away.

TimescaleDB's documentation (2.21) gives the names and the columns. With the extension the schema is its own, and
nothing is made here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0030"
branch_labels = None
depends_on = None

INFORMATION = """DO $do$ BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN RETURN; END IF;
  CREATE SCHEMA IF NOT EXISTS timescaledb_information;
  GRANT USAGE ON SCHEMA timescaledb_information TO PUBLIC;
  CREATE OR REPLACE VIEW timescaledb_information.hypertables AS
  SELECT n.nspname AS hypertable_schema, c.relname AS hypertable_name, pg_get_userbyid(c.relowner) AS owner,
         p.partnatts AS num_dimensions,
         (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = c.oid) AS num_chunks,
         false AS compression_enabled, NULL::name[] AS tablespaces,
         a.attname AS primary_dimension, a.atttypid::regtype AS primary_dimension_type
    FROM pg_partitioned_table p
    JOIN pg_class c ON c.oid = p.partrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
   WHERE n.nspname = 'public' AND NOT c.relispartition;
  -- no rows: native partitions are never compressed
  CREATE OR REPLACE VIEW timescaledb_information.compression_settings AS
  SELECT NULL::name AS hypertable_schema, NULL::name AS hypertable_name, NULL::name AS attname,
         NULL::smallint AS segmentby_column_index, NULL::smallint AS orderby_column_index,
         NULL::boolean AS orderby_asc, NULL::boolean AS orderby_nullsfirst
   WHERE false;
  GRANT SELECT ON ALL TABLES IN SCHEMA timescaledb_information TO PUBLIC;
END $do$"""

DROP = """DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
    DROP SCHEMA IF EXISTS timescaledb_information CASCADE;
  END IF;
END $do$"""


def upgrade() -> None:
    op.create_table(
        "metric_snapshots",
        sa.Column("component", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("component", name=op.f("pk_metric_snapshots")),
        prefixes=["UNLOGGED"],  # written again every few seconds; worth nothing after a crash of the server
    )
    op.execute(INFORMATION)


def downgrade() -> None:
    op.execute(DROP)
    op.drop_table("metric_snapshots")
