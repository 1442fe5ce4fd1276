"""Trust in market data: revisions, gaps, outages, quarantine; and the cache of computed columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

#: Triggers that keep a row of `series` for each stored series: the count, the newest bar, and a revision that changes when
#: a copy is no longer a true prefix. Locks are taken in one order. Dropping a whole partition fires no trigger: the code
#: that drops it counts again.
SERIES = """
CREATE FUNCTION series_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO series AS s (exchange, symbol, timeframe, oldest, newest, candles)
  SELECT f.exchange, f.symbol, f.timeframe, min(f.time), max(f.time), count(*) FROM fresh f GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
  ON CONFLICT (exchange, symbol, timeframe) DO UPDATE
     SET revision = s.revision + (s.newest IS NOT NULL AND excluded.oldest <= s.newest)::int,
         oldest = least(s.oldest, excluded.oldest), newest = greatest(s.newest, excluded.newest),
         candles = s.candles + excluded.candles, updated_at = now();
  RETURN NULL;
END $$
--
CREATE FUNCTION series_recount(e text, s text, t text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series r WHERE (r.exchange, r.symbol, r.timeframe) = (e, s, t) FOR UPDATE;  -- before counting: no writer in between
  INSERT INTO series AS r (exchange, symbol, timeframe, revision, oldest, newest, candles)
  SELECT e, s, t, 1, min(o.time), max(o.time), count(*) FROM ohlcv_data o WHERE (o.exchange, o.symbol, o.timeframe) = (e, s, t)
  ON CONFLICT (exchange, symbol, timeframe) DO UPDATE
     SET revision = r.revision + 1, oldest = excluded.oldest, newest = excluded.newest, candles = excluded.candles, updated_at = now();
END $$
--
CREATE FUNCTION series_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series s JOIN (SELECT DISTINCT f.exchange, f.symbol, f.timeframe FROM fresh f) c USING (exchange, symbol, timeframe)
    ORDER BY s.exchange, s.symbol, s.timeframe FOR UPDATE OF s;
  UPDATE series s SET revision = s.revision + 1, updated_at = now()
    FROM (SELECT DISTINCT f.exchange, f.symbol, f.timeframe FROM fresh f) c
   WHERE (s.exchange, s.symbol, s.timeframe) = (c.exchange, c.symbol, c.timeframe);
  IF EXISTS (SELECT exchange, symbol, timeframe, time FROM stale EXCEPT SELECT exchange, symbol, timeframe, time FROM fresh) THEN
    PERFORM series_recount(c.exchange, c.symbol, c.timeframe)  -- a bar was given another time or name
       FROM (SELECT exchange, symbol, timeframe FROM stale UNION SELECT exchange, symbol, timeframe FROM fresh ORDER BY 1, 2, 3) c;
  END IF;
  RETURN NULL;
END $$
--
CREATE FUNCTION series_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM series s JOIN (SELECT DISTINCT g.exchange, g.symbol, g.timeframe FROM gone g) c USING (exchange, symbol, timeframe)
    ORDER BY s.exchange, s.symbol, s.timeframe FOR UPDATE OF s;
  UPDATE series s
     SET revision = s.revision + 1, candles = s.candles - c.candles, updated_at = now(),
         oldest = (SELECT min(o.time) FROM ohlcv_data o WHERE o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.exchange = s.exchange),
         newest = (SELECT max(o.time) FROM ohlcv_data o WHERE o.symbol = s.symbol AND o.timeframe = s.timeframe AND o.exchange = s.exchange)
    FROM (SELECT g.exchange, g.symbol, g.timeframe, count(*) AS candles FROM gone g GROUP BY 1, 2, 3) c
   WHERE (s.exchange, s.symbol, s.timeframe) = (c.exchange, c.symbol, c.timeframe);
  RETURN NULL;
END $$
--
CREATE FUNCTION series_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE series SET revision = revision + 1, candles = 0, oldest = NULL, newest = NULL, updated_at = now();
  RETURN NULL;
END $$
--
CREATE TRIGGER series_inserted AFTER INSERT ON ohlcv_data REFERENCING NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION series_inserted()
--
CREATE TRIGGER series_updated AFTER UPDATE ON ohlcv_data REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
  FOR EACH STATEMENT EXECUTE FUNCTION series_updated()
--
CREATE TRIGGER series_deleted AFTER DELETE ON ohlcv_data REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION series_deleted()
--
CREATE TRIGGER series_truncated AFTER TRUNCATE ON ohlcv_data FOR EACH STATEMENT EXECUTE FUNCTION series_truncated()
--
INSERT INTO series (exchange, symbol, timeframe, oldest, newest, candles)
SELECT exchange, symbol, timeframe, min(time), max(time), count(*) FROM ohlcv_data GROUP BY 1, 2, 3
"""


def upgrade() -> None:
    op.create_table(
        "feed_outages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), server_default="trades", nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed_outages")),
    )
    op.create_index(
        op.f("ix_feed_outages_exchange_symbol_began_at"),
        "feed_outages",
        ["exchange", "symbol", "began_at"],
        unique=False,
    )
    op.create_table(
        "indicators_cache",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("indicator", sa.Text(), nullable=False),
        sa.Column("params_key", sa.Text(), nullable=False),
        sa.Column(
            "params", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("oldest", sa.DateTime(timezone=True), nullable=False),
        sa.Column("newest", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint(
            "exchange", "symbol", "timeframe", "indicator", "params_key", name=op.f("pk_indicators_cache")
        ),
    )
    op.create_table(
        "known_gaps",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("gap_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gap_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", sa.Text(), server_default="exchange", nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", "timeframe", "gap_from", name=op.f("pk_known_gaps")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=True),
        sa.Column("time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("source", sa.Text(), server_default="live", nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
    )
    op.create_index(
        op.f("ix_quarantine_exchange_symbol_received_at"),
        "quarantine",
        ["exchange", "symbol", "received_at"],
        unique=False,
    )
    op.create_table(
        "series",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("oldest", sa.DateTime(timezone=True), nullable=True),
        sa.Column("newest", sa.DateTime(timezone=True), nullable=True),
        sa.Column("candles", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", "timeframe", name=op.f("pk_series")),
        postgresql_with={"fillfactor": 50},
    )
    op.add_column("assets", sa.Column("timeframes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("assets", sa.Column("history_days", sa.Integer(), nullable=True))
    op.add_column(
        "assets",
        sa.Column(
            "channels", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{trades}'::text[]"), nullable=False
        ),
    )
    op.add_column("assets", sa.Column("source", sa.Text(), server_default="user", nullable=False))
    op.add_column("market_trades", sa.Column("received_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("market_trades", sa.Column("count", sa.Integer(), server_default="1", nullable=False))
    op.add_column("ohlcv_data", sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
    op.add_column("ohlcv_data", sa.Column("is_empty", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("sync_status", sa.Column("wanted_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sync_status", sa.Column("wanted_to", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sync_status", sa.Column("cursor", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sync_status", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    for table in ("ohlcv_data", "market_trades"):  # finds a span of time in any partition, and takes little space
        op.create_index(op.f(f"ix_{table}_time"), table, ["time"], unique=False, postgresql_using="brin")
    for statement in SERIES.split("\n--\n"):
        op.execute(statement)


def downgrade() -> None:
    for what in ("inserted", "updated", "deleted", "truncated"):
        op.execute(f"DROP TRIGGER series_{what} ON ohlcv_data")
        op.execute(f"DROP FUNCTION series_{what}()")
    op.execute("DROP FUNCTION series_recount(text, text, text)")
    for table in ("ohlcv_data", "market_trades"):
        op.drop_index(op.f(f"ix_{table}_time"), table_name=table, postgresql_using="brin")
    op.drop_column("sync_status", "started_at")
    op.drop_column("sync_status", "cursor")
    op.drop_column("sync_status", "wanted_to")
    op.drop_column("sync_status", "wanted_from")
    op.drop_column("ohlcv_data", "is_empty")
    op.drop_column("ohlcv_data", "revision")
    op.drop_column("market_trades", "count")
    op.drop_column("market_trades", "received_at")
    op.drop_column("assets", "source")
    op.drop_column("assets", "channels")
    op.drop_column("assets", "history_days")
    op.drop_column("assets", "timeframes")
    op.drop_table("series")
    op.drop_index(op.f("ix_quarantine_exchange_symbol_received_at"), table_name="quarantine")
    op.drop_table("quarantine")
    op.drop_table("known_gaps")
    op.drop_table("indicators_cache")
    op.drop_index(op.f("ix_feed_outages_exchange_symbol_began_at"), table_name="feed_outages")
    op.drop_table("feed_outages")
