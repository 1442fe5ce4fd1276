"""The tables of the first release, their partitions and the daily view."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# realised PnL and fees in quote currency: a fee taken in the base asset counts at the trade's own price
DAILY_ACCOUNT_PERFORMANCE = """
CREATE MATERIALIZED VIEW daily_account_performance AS
SELECT account_id,
       date_trunc('day', time, 'UTC') AS day,
       count(*) AS trades,
       count(*) FILTER (WHERE realized_pnl > 0) AS wins,
       count(*) FILTER (WHERE realized_pnl < 0) AS losses,
       (count(*) FILTER (WHERE realized_pnl > 0))::float8
           / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS win_rate,
       sum(realized_pnl) AS total_pnl,
       sum(realized_pnl) / NULLIF(count(*) FILTER (WHERE realized_pnl <> 0), 0) AS average_trade,
       sum(CASE WHEN fee_currency <> '' AND starts_with(symbol, fee_currency) THEN fee * price ELSE fee END) AS fees,
       sum(quantity * price) AS volume
FROM trades
GROUP BY account_id, date_trunc('day', time, 'UTC')
"""


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("account_type", sa.Text(), server_default="personal", nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("broker", sa.Text(), server_default="", nullable=False),
        sa.Column("currency", sa.Text(), server_default="USDT", nullable=False),
        sa.Column("initial_balance", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("mode", sa.Text(), server_default="paper", nullable=False),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )
    op.create_table(
        "actor_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column(
            "payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_actor_events")),
    )
    op.create_index(op.f("ix_actor_events_child_time"), "actor_events", ["child", "time"], unique=False)
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("component", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(op.f("ix_alerts_time"), "alerts", ["time"], unique=False)
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_api_tokens_name")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_table(
        "assets",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", name=op.f("pk_assets")),
    )
    op.create_table(
        "component_health",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("node", sa.Text(), server_default="", nullable=False),
        sa.Column("restarts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_component_health")),
    )
    op.create_table(
        "feeds",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("sealed_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_trade_id", sa.BigInteger(), nullable=True),
        sa.Column("last_message_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_price", sa.Numeric(), nullable=True),
        sa.Column("state", sa.Text(), server_default="COLD", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", "timeframe", name=op.f("pk_feeds")),
    )
    op.create_table(
        "instruments",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.Column("tick", sa.Numeric(), nullable=False),
        sa.Column("lot_step", sa.Numeric(), nullable=False),
        sa.Column("qty_min", sa.Numeric(), nullable=False),
        sa.Column("qty_max", sa.Numeric(), nullable=False),
        sa.Column("notional_min", sa.Numeric(), nullable=False),
        sa.Column("multiplier", sa.Numeric(), server_default="1", nullable=False),
        sa.Column("is_trading", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", name=op.f("pk_instruments")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("progress", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Text(), server_default="", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("is_cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('queued','running','done','failed','cancelled')", name=op.f("ck_jobs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued','running')"),
    )
    op.create_table(
        "kill_switch",
        sa.Column("kill_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), server_default="system", nullable=False),
        sa.Column("is_engaged", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("engaged_by", sa.Text(), server_default="", nullable=False),
        sa.Column("engaged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "report", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("kill_id", name=op.f("pk_kill_switch")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("holder", sa.Text(), server_default="", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "market_trades",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("is_buyer_maker", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("exchange", "symbol", "trade_id", "time", name=op.f("pk_market_trades")),
        postgresql_partition_by="RANGE (time)",
    )
    op.create_table(
        "ohlcv_data",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("open", sa.Float(precision=53), nullable=True),
        sa.Column("high", sa.Float(precision=53), nullable=True),
        sa.Column("low", sa.Float(precision=53), nullable=True),
        sa.Column("close", sa.Float(precision=53), nullable=True),
        sa.Column("volume", sa.Float(precision=53), nullable=True),
        sa.Column("exchange", sa.Text(), server_default="binance", nullable=False),
        sa.Column("trades", sa.Integer(), server_default="0", nullable=False),
        sa.Column("is_complete", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("source", sa.Text(), server_default="live", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("symbol", "timeframe", "time", "exchange", name=op.f("pk_ohlcv_data")),
        postgresql_partition_by="RANGE (time)",
    )
    op.create_table(
        "order_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("venue_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recv_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_events")),
        sa.UniqueConstraint("client_order_id", "event_id", name=op.f("uq_order_events_client_order_id_event_id")),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column(
            "spec", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("last_run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_result", sa.Text(), nullable=True),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_schedules")),
    )
    op.create_table(
        "sync_status",
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), server_default="binance", nullable=False),
        sa.Column("sync_status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("oldest", sa.DateTime(timezone=True), nullable=True),
        sa.Column("newest", sa.DateTime(timezone=True), nullable=True),
        sa.Column("candles", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("last_sync_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("symbol", "timeframe", "exchange", name=op.f("pk_sync_status")),
    )
    op.create_table(
        "venue_states",
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="COLD", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("skew_ms", sa.Float(precision=53), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("venue", "account_id", name=op.f("pk_venue_states")),
    )
    op.create_table(
        "balance_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("currency", sa.Text(), server_default="USDT", nullable=False),
        sa.Column("balance", sa.Numeric(), nullable=False),
        sa.Column("equity", sa.Numeric(), nullable=True),
        sa.Column("cause", sa.Text(), server_default="snapshot", nullable=False),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_balance_history_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_balance_history")),
    )
    op.create_index(op.f("ix_balance_history_account_id_time"), "balance_history", ["account_id", "time"], unique=False)
    op.create_table(
        "balances",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("free", sa.Numeric(), nullable=False),
        sa.Column("locked", sa.Numeric(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_balances_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "currency", name=op.f("pk_balances")),
    )
    op.create_table(
        "orders",
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("intent_id", sa.UUID(), nullable=False),
        sa.Column("signal_id", sa.UUID(), nullable=True),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), server_default="binance", nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), server_default="", nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("time_in_force", sa.Text(), server_default="gtc", nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=True),
        sa.Column("stop_price", sa.Numeric(), nullable=True),
        sa.Column("stop_loss", sa.Numeric(), nullable=True),
        sa.Column("take_profit", sa.Numeric(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), server_default="none", nullable=False),
        sa.Column("filled", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("average_price", sa.Numeric(), nullable=True),
        sa.Column("announced", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("venue_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("venue_order_id", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("group_id", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("is_reduce_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_stale", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_late", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_overfilled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_acknowledged", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("trace_id", sa.Text(), server_default="", nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN "
            "('DENIED','INTENDED','ABANDONED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL','FILLED','CANCELLED','EXPIRED','REJECTED','ABSENT')",
            name=op.f("ck_orders_state"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_orders_account_id_accounts")),
        sa.PrimaryKeyConstraint("client_order_id", name=op.f("pk_orders")),
    )
    op.create_index(op.f("ix_orders_created_at"), "orders", ["created_at"], unique=False)
    op.create_index(
        "ix_orders_incomplete",
        "orders",
        ["client_order_id"],
        unique=False,
        postgresql_where=sa.text("announced > filled"),
    )
    op.create_index(
        "ix_orders_open",
        "orders",
        ["account_id", "symbol"],
        unique=False,
        postgresql_where=sa.text("state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')"),
    )
    op.create_index(op.f("ix_orders_parent_id"), "orders", ["parent_id"], unique=False)
    op.create_index(op.f("ix_orders_signal_id"), "orders", ["signal_id"], unique=False)
    op.create_index(op.f("ix_orders_venue_venue_order_id"), "orders", ["venue", "venue_order_id"], unique=False)
    op.create_table(
        "positions",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), server_default="", nullable=False),
        sa.Column("quantity", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("average_price", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("realized_pnl", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("fees", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_positions_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "venue", "symbol", "instance", name=op.f("pk_positions")),
    )
    op.create_table(
        "signals",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), server_default="", nullable=False),
        sa.Column("params_version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), server_default="binance", nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=True),
        sa.Column("ts_event", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ordinal", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), server_default="market", nullable=False),
        sa.Column("size", sa.Numeric(), nullable=True),
        sa.Column("limit_price", sa.Numeric(), nullable=True),
        sa.Column("stop_price", sa.Numeric(), nullable=True),
        sa.Column("stop_loss", sa.Numeric(), nullable=True),
        sa.Column("take_profit", sa.Numeric(), nullable=True),
        sa.Column("time_in_force", sa.Text(), server_default="gtc", nullable=False),
        sa.Column("reference_price", sa.Numeric(), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="ready", nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("client_order_id", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("body_hash", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), server_default="", nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending','ready','ordered','denied','expired','declined','nothing')",
            name=op.f("ck_signals_state"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_signals_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signals")),
    )
    op.create_index(op.f("ix_signals_created_at"), "signals", ["created_at"], unique=False)
    op.create_index(
        "ix_signals_pending", "signals", ["valid_until"], unique=False, postgresql_where=sa.text("state = 'pending'")
    )
    op.create_index(
        "ix_signals_ready", "signals", ["symbol", "seq"], unique=False, postgresql_where=sa.text("state = 'ready'")
    )
    op.create_table(
        "strategy_instances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column(
            "params", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("params_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("exchange", sa.Text(), server_default="binance", nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("sizing", sa.Text(), server_default="notional", nullable=False),
        sa.Column("size", sa.Numeric(), server_default="1000", nullable=False),
        sa.Column("approval", sa.Text(), server_default="auto", nullable=False),
        sa.Column("valid_for_s", sa.Float(precision=53), server_default="60", nullable=False),
        sa.Column("is_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("shard", sa.Integer(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), server_default="NEW", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("anchor_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_target", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_strategy_instances_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_strategy_instances")),
    )
    op.create_table(
        "trades",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("fill_id", sa.UUID(), nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=True),
        sa.Column("venue_order_id", sa.Text(), nullable=True),
        sa.Column("venue_trade_id", sa.Text(), server_default="", nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), server_default="", nullable=False),
        sa.Column("trade_type", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("fee", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("fee_currency", sa.Text(), server_default="", nullable=False),
        sa.Column("realized_pnl", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("order_type", sa.Text(), server_default="", nullable=False),
        sa.Column("is_maker", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_late", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("source", sa.Text(), server_default="stream", nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_trades_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trades")),
        sa.UniqueConstraint("fill_id", name=op.f("uq_trades_fill_id")),
    )
    op.create_index(op.f("ix_trades_account_id_time"), "trades", ["account_id", "time"], unique=False)
    op.create_index(op.f("ix_trades_client_order_id"), "trades", ["client_order_id"], unique=False)
    op.create_table(
        "strategy_parameters",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("changed_by", sa.Text(), server_default="system", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["strategy_instances.id"],
            name=op.f("fk_strategy_parameters_instance_id_strategy_instances"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_id", "version", name=op.f("pk_strategy_parameters")),
    )

    for table in ("ohlcv_data", "market_trades"):  # rows outside the partitions made ahead fall in here
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(DAILY_ACCOUNT_PERFORMANCE)
    op.execute("CREATE UNIQUE INDEX uq_daily_account_performance ON daily_account_performance (account_id, day)")


def downgrade() -> None:
    op.execute("DROP MATERIALIZED VIEW daily_account_performance")
    op.drop_table("strategy_parameters")
    op.drop_index(op.f("ix_trades_client_order_id"), table_name="trades")
    op.drop_index(op.f("ix_trades_account_id_time"), table_name="trades")
    op.drop_table("trades")
    op.drop_table("strategy_instances")
    op.drop_index("ix_signals_ready", table_name="signals", postgresql_where=sa.text("state = 'ready'"))
    op.drop_index("ix_signals_pending", table_name="signals", postgresql_where=sa.text("state = 'pending'"))
    op.drop_index(op.f("ix_signals_created_at"), table_name="signals")
    op.drop_table("signals")
    op.drop_table("positions")
    op.drop_index(op.f("ix_orders_venue_venue_order_id"), table_name="orders")
    op.drop_index(op.f("ix_orders_signal_id"), table_name="orders")
    op.drop_index(op.f("ix_orders_parent_id"), table_name="orders")
    op.drop_index(
        "ix_orders_open",
        table_name="orders",
        postgresql_where=sa.text("state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')"),
    )
    op.drop_index("ix_orders_incomplete", table_name="orders", postgresql_where=sa.text("announced > filled"))
    op.drop_index(op.f("ix_orders_created_at"), table_name="orders")
    op.drop_table("orders")
    op.drop_table("balances")
    op.drop_index(op.f("ix_balance_history_account_id_time"), table_name="balance_history")
    op.drop_table("balance_history")
    op.drop_table("venue_states")
    op.drop_table("sync_status")
    op.drop_table("schedules")
    op.drop_table("order_events")
    op.drop_table("ohlcv_data")
    op.drop_table("market_trades")
    op.drop_table("leases")
    op.drop_table("kill_switch")
    op.drop_index("ix_jobs_queued", table_name="jobs", postgresql_where=sa.text("state IN ('queued','running')"))
    op.drop_table("jobs")
    op.drop_table("instruments")
    op.drop_table("feeds")
    op.drop_table("component_health")
    op.drop_table("assets")
    op.drop_table("api_tokens")
    op.drop_index(op.f("ix_alerts_time"), table_name="alerts")
    op.drop_table("alerts")
    op.drop_index(op.f("ix_actor_events_child_time"), table_name="actor_events")
    op.drop_table("actor_events")
    op.drop_table("accounts")
