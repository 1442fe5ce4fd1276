"""Portfolios, and fees in a third asset that are valued in quote."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None
can_roll = False

FEE_VALUE = """CREATE FUNCTION fee_value(symbol text, price numeric, fee numeric, fee_currency text) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN fee = 0 THEN 0
            WHEN fee_currency = '' THEN NULL
            WHEN starts_with(symbol, fee_currency) THEN fee * price
            WHEN right(symbol, length(fee_currency)) = fee_currency THEN fee
            WHEN fee_currency = 'USD' AND symbol ~ '^[A-Z0-9]+ [0-9]{2}-[0-9]{2}$' THEN fee END
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
    COLUMNS.format(fees="sum(coalesce(fee_quote, fee_value(symbol, price, fee, fee_currency)))")
    + """,
       count(*) FILTER (WHERE coalesce(fee_quote, fee_value(symbol, price, fee, fee_currency)) IS NULL) AS fees_unvalued"""
)
FEES_FOLLOW = """CREATE FUNCTION trade_fees_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE trades_by_time b SET fee_quote = NEW.fee_quote FROM trades t
   WHERE t.id = NEW.trade_id AND b.id = t.id AND b.time = t.time;
  RETURN NULL;
END $$"""
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


def _view(columns: str, source: str, *, is_aggregate: bool) -> tuple[str, ...]:
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
        f"FROM {source}\nGROUP BY account_id, date_trunc('day', time, 'UTC')",
        "CREATE UNIQUE INDEX uq_daily_account_performance ON daily_account_performance (account_id, day)",
    )


def upgrade() -> None:
    is_aggregate = _has_timescale()
    op.create_table(
        "trade_fees",
        sa.Column("trade_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fee_quote", sa.Numeric(), nullable=False),
        sa.Column("fee_rate", sa.Numeric(), nullable=True),
        sa.Column("valued_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.ForeignKeyConstraint(
            ["trade_id"], ["trades.id"], name=op.f("fk_trade_fees_trade_id_trades"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trade_id", name=op.f("pk_trade_fees")),
    )
    op.create_index(
        "ix_trades_fees_in_third",
        "trades",
        ["account_id", "venue", "symbol", "instance"],
        postgresql_where=sa.text(
            "fee <> 0 AND (fee_currency = '' OR NOT (starts_with(symbol, fee_currency)"
            " OR right(symbol, length(fee_currency)) = fee_currency))"
        ),
    )
    _run(FEE_VALUE, "DROP MATERIALIZED VIEW daily_account_performance")
    if is_aggregate:
        _run(
            "ALTER TABLE trades_by_time ADD COLUMN fee_quote numeric",
            FOLLOW.format(
                column="fee_quote,", value="(SELECT f.fee_quote FROM trade_fees f WHERE f.trade_id = NEW.id), "
            ),
            FEES_FOLLOW,
            "CREATE TRIGGER trade_fees_follow AFTER INSERT OR UPDATE ON trade_fees FOR EACH ROW EXECUTE FUNCTION "
            "trade_fees_follow()",
        )
    _run(*_view(NEW, "trades LEFT JOIN trade_fees ON trade_id = id", is_aggregate=is_aggregate))
    _create_portfolios()


def _create_portfolios() -> None:
    now, is_member = sa.text("now()"), sa.text("left_at IS NULL")
    op.create_table(
        "portfolios",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("base_currency", sa.Text(), nullable=False),
        sa.Column("benchmark", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False, server_default="active"),
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("created_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('active','archived')", name=op.f("ck_portfolios_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolios")),
        sa.UniqueConstraint("name", name=op.f("uq_portfolios_name")),
    )
    op.create_table(
        "portfolio_members",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("instance_id", sa.Text(), nullable=True),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("left_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("num_nonnulls(account_id, instance_id) = 1", name=op.f("ck_portfolio_members_kind")),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_members_portfolio_id_portfolios")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_portfolio_members_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolio_members")),
    )
    op.create_index(op.f("ix_portfolio_members_portfolio_id"), "portfolio_members", ["portfolio_id"])
    for kind in ("account", "instance"):
        op.create_index(
            f"uq_portfolio_members_{kind}",
            "portfolio_members",
            [f"{kind}_id"],
            unique=True,
            postgresql_where=is_member,
        )
    op.create_table(
        "portfolio_equity",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("equity", sa.Numeric(), nullable=False),
        sa.Column("cash", sa.Numeric(), nullable=False),
        sa.Column("net_flow", sa.Numeric(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("invested", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_equity_portfolio_id_portfolios")
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "time", name=op.f("pk_portfolio_equity")),
    )


def downgrade() -> None:
    for table in ("portfolio_equity", "portfolio_members", "portfolios"):
        op.drop_table(table)
    is_aggregate = _has_timescale()
    _run("DROP MATERIALIZED VIEW daily_account_performance", "DROP FUNCTION fee_value")
    op.drop_table("trade_fees")
    if is_aggregate:
        _run(
            FOLLOW.format(column="", value=""),
            "DROP FUNCTION trade_fees_follow",
            "ALTER TABLE trades_by_time DROP COLUMN fee_quote",
        )
    op.drop_index("ix_trades_fees_in_third", table_name="trades")
    _run(*_view(OLD, "trades", is_aggregate=is_aggregate))
