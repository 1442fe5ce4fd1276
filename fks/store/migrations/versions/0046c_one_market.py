"""One market, one series: Kraken's old names become its new ones, and a symbol of several exchanges has a default one,
which the view `ohlcv` shows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0046c"
down_revision = "0046b"
branch_labels = None
depends_on = None

#: XBT/USDC was imported before imports took Kraken's new names. Bars of the exchange's own win over imported ones; of
#: two imported ones the series of the new name keeps its own
RENAMED = """DO $do$
DECLARE
  old record;
BEGIN
  FOR old IN
    SELECT DISTINCT symbol,
           regexp_replace(regexp_replace(symbol, '\\mXBT\\M', 'BTC', 'g'), '\\mXDG\\M', 'DOGE', 'g') AS name
      FROM series WHERE exchange = 'kraken' AND symbol ~ '\\m(XBT|XDG)\\M'
  LOOP
    DELETE FROM ohlcv_data n USING ohlcv_data o
     WHERE n.exchange = 'kraken' AND n.symbol = old.name AND n.source = 'import' AND o.exchange = 'kraken'
       AND o.symbol = old.symbol AND o.timeframe = n.timeframe AND o.time = n.time AND o.source <> 'import';
    INSERT INTO ohlcv_data (time, symbol, timeframe, open, high, low, close, volume, exchange, trades, is_complete,
                            source, updated_at, revision, is_empty)
    SELECT time, old.name, timeframe, open, high, low, close, volume, exchange, trades, is_complete, source, updated_at,
           revision, is_empty
      FROM ohlcv_data WHERE exchange = 'kraken' AND symbol = old.symbol
    ON CONFLICT DO NOTHING;
    UPDATE series n SET calendar = o.calendar FROM series o
     WHERE n.exchange = 'kraken' AND n.symbol = old.name AND n.calendar IS NULL
       AND o.exchange = 'kraken' AND o.symbol = old.symbol AND o.timeframe = n.timeframe;
    DELETE FROM ohlcv_data WHERE exchange = 'kraken' AND symbol = old.symbol;
    DELETE FROM series WHERE exchange = 'kraken' AND symbol = old.symbol;
    DELETE FROM known_gaps WHERE exchange = 'kraken' AND symbol = old.symbol;
    DELETE FROM sync_status WHERE exchange = 'kraken' AND symbol = old.symbol;
  END LOOP;
END $do$"""

FOLLOW = (
    """CREATE FUNCTION default_exchange_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO default_exchanges (symbol, exchange) VALUES (NEW.symbol, NEW.exchange) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$""",
    "CREATE TRIGGER default_exchange_first AFTER INSERT ON series FOR EACH ROW EXECUTE FUNCTION "
    "default_exchange_first()",
    # a symbol that is collected means the exchange where it is: unless a person chose, or the default is collected
    """CREATE FUNCTION default_exchange_collected() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO default_exchanges AS d (symbol, exchange) VALUES (NEW.symbol, NEW.exchange)
  ON CONFLICT (symbol) DO UPDATE SET exchange = EXCLUDED.exchange
   WHERE NOT d.is_chosen AND NOT EXISTS (
     SELECT FROM assets a WHERE a.symbol = d.symbol AND a.exchange = d.exchange AND a.is_enabled);
  RETURN NULL;
END $$""",
    "CREATE TRIGGER default_exchange_collected AFTER INSERT OR UPDATE OF is_enabled ON assets FOR EACH ROW"
    " WHEN (NEW.is_enabled) EXECUTE FUNCTION default_exchange_collected()",
)

#: those that stand: collected, then synced, then binance (the column's default), then by name
SEED = """INSERT INTO default_exchanges (symbol, exchange)
SELECT DISTINCT ON (s.symbol) s.symbol, s.exchange FROM series s
  LEFT JOIN assets a ON a.exchange = s.exchange AND a.symbol = s.symbol AND a.is_enabled
  LEFT JOIN sync_status y ON y.exchange = s.exchange AND y.symbol = s.symbol AND y.timeframe = s.timeframe
 ORDER BY s.symbol, a.symbol IS NULL, y.symbol IS NULL, s.exchange <> 'binance', s.exchange"""

VIEW = """CREATE VIEW ohlcv AS SELECT * FROM ohlcv_data o
 WHERE o.exchange = (SELECT d.exchange FROM default_exchanges d WHERE d.symbol = o.symbol)"""


def upgrade() -> None:
    op.execute(RENAMED)
    op.create_table(
        "default_exchanges",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("is_chosen", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("symbol", name=op.f("pk_default_exchanges")),
    )
    op.execute(SEED)
    for statement in (*FOLLOW, VIEW):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP VIEW ohlcv")
    op.execute("DROP TRIGGER default_exchange_collected ON assets")
    op.execute("DROP TRIGGER default_exchange_first ON series")
    op.execute("DROP FUNCTION default_exchange_collected()")
    op.execute("DROP FUNCTION default_exchange_first()")
    op.drop_table("default_exchanges")
