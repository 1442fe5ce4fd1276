"""Fees in a third asset are valued in quote."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

FEE_VALUE = """CREATE FUNCTION fee_value(symbol text, price numeric, fee numeric, fee_currency text, fee_quote numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN fee_quote IS NOT NULL THEN fee_quote
            WHEN fee = 0 THEN 0
            WHEN fee_currency = '' THEN NULL
            WHEN starts_with(symbol, fee_currency) THEN fee * price
            WHEN right(symbol, length(fee_currency)) = fee_currency THEN fee END
$$"""
COLUMNS = """
       count(*) AS trades,
       count(*) FILTER (WHERE realized_pnl > 0) AS wins,
       count(*) FILTER (WHERE realized_pnl < 0) AS losses,
       (count(*) FILTER (WHERE realized_pnl > 0))::float8
           / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS win_rate,
       sum(realized_pnl) AS total_pnl,
       sum(realized_pnl) / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS average_trade,
       {fees} AS fees,
       sum(quantity * price) AS volume"""
OLD = COLUMNS.format(
    fees="sum(CASE WHEN fee_currency <> '' AND starts_with(symbol, fee_currency) THEN fee * price ELSE fee END)"
)
NEW = (
    COLUMNS.format(fees="sum(fee_value(symbol, price, fee, fee_currency, fee_quote))")
    + """,
       count(*) FILTER (WHERE fee_value(symbol, price, fee, fee_currency, fee_quote) IS NULL) AS fees_unvalued"""
)
FOLLOW = """CREATE OR REPLACE FUNCTION trades_by_time_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    DELETE FROM trades_by_time t WHERE t.id = OLD.id AND t.time = OLD.time;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO trades_by_time (time, id, account_id, symbol, quantity, price, fee, fee_currency, {column}
      realized_pnl)
    VALUES (NEW.time, NEW.id, NEW.account_id, NEW.symbol, NEW.quantity, NEW.price, NEW.fee,
      NEW.fee_currency, {value}NEW.realized_pnl);
  END IF;
  RETURN NULL;
END $$"""


def _run(*statements: str) -> None:
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _has_timescale() -> bool:
    """Return whether executions are kept in a hypertable as well, for the continuous aggregate."""
    return bool(op.get_bind().exec_driver_sql("SELECT to_regclass('trades_by_time') IS NOT NULL").scalar())


def _view(columns: str, *, is_aggregate: bool) -> tuple[str, ...]:
    if is_aggregate:
        return (
            "CREATE MATERIALIZED VIEW daily_account_performance WITH (timescaledb.continuous, "
            "timescaledb.materialized_only = false) AS\n"
            f"SELECT account_id, time_bucket(INTERVAL '1 day', time) AS day,{columns}\n"
            "FROM trades_by_time GROUP BY account_id, time_bucket(INTERVAL '1 day', time) WITH NO DATA",
            "SELECT add_continuous_aggregate_policy('daily_account_performance', start_offset => NULL,"
            " end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '1 hour')",
        )
    return (
        f"CREATE MATERIALIZED VIEW daily_account_performance AS\nSELECT account_id,\n"
        f"       date_trunc('day', time, 'UTC') AS day,{columns}\n"
        "FROM trades\nGROUP BY account_id, date_trunc('day', time, 'UTC')",
        "CREATE UNIQUE INDEX uq_daily_account_performance ON daily_account_performance (account_id, day)",
    )


def upgrade() -> None:
    is_aggregate = _has_timescale()
    op.add_column("trades", sa.Column("fee_quote", sa.Numeric(), nullable=True))
    op.add_column("trades", sa.Column("fee_rate", sa.Numeric(), nullable=True))
    _run(FEE_VALUE, "DROP MATERIALIZED VIEW daily_account_performance")
    if is_aggregate:
        _run(
            "ALTER TABLE trades_by_time ADD COLUMN fee_quote numeric",
            FOLLOW.format(column="fee_quote,", value="NEW.fee_quote, "),
        )
    _run("UPDATE trades SET fee_quote = fee_value(symbol, price, fee, fee_currency, NULL)")
    op.create_index(
        "ix_trades_fees_in_third",
        "trades",
        ["account_id", "venue", "symbol", "instance"],
        postgresql_where=sa.text("fee_quote IS NULL OR fee_rate IS NOT NULL"),
    )
    _run(*_view(NEW, is_aggregate=is_aggregate))


def downgrade() -> None:
    is_aggregate = _has_timescale()
    _run("DROP MATERIALIZED VIEW daily_account_performance", "DROP FUNCTION fee_value")
    if is_aggregate:
        _run(FOLLOW.format(column="", value=""), "ALTER TABLE trades_by_time DROP COLUMN fee_quote")
    op.drop_index("ix_trades_fees_in_third", table_name="trades")
    op.drop_column("trades", "fee_rate")
    op.drop_column("trades", "fee_quote")
    _run(*_view(OLD, is_aggregate=is_aggregate))
