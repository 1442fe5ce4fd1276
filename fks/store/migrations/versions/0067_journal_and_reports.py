"""Journal of closed trades, stored reports, and targets of strategy instances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0067"
down_revision = "0066"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("now()")
    time = sa.DateTime(timezone=True)
    op.create_table(
        "journal_entries",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.Column("entry_fill", sa.UUID(), nullable=False),
        sa.Column("exit_fill", sa.UUID(), nullable=False),
        sa.Column("rest", sa.Numeric(), nullable=True),
        sa.Column("entry_time", time, nullable=False),
        sa.Column("exit_time", time, nullable=False),
        sa.Column("entry_price", sa.Numeric(), nullable=False),
        sa.Column("exit_price", sa.Numeric(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("realized", sa.Numeric(), nullable=False),
        sa.Column("fees", sa.Numeric(), nullable=False),
        sa.Column("fees_unvalued", sa.Integer(), nullable=False),
        sa.Column("slippage", sa.Numeric(), nullable=False),
        sa.Column("undecided", sa.Integer(), nullable=False),
        sa.Column("executions", sa.Integer(), nullable=False),
        sa.Column("rate", sa.Numeric(), nullable=True),
        sa.Column("entry_reason", sa.Text(), nullable=False),
        sa.Column("exit_reason", sa.Text(), nullable=False),
        sa.Column("mae_pct", sa.Numeric(), nullable=False),
        sa.Column("mfe_pct", sa.Numeric(), nullable=False),
        sa.Column("bars", sa.Integer(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("is_void", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("tags", ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'::text[]")),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("noted_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("noted_at", time, nullable=True),
        sa.Column("written_at", time, nullable=False, server_default=now),
        sa.CheckConstraint("side IN ('long','short')", name=op.f("ck_journal_entries_side")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_journal_entries_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_entries")),
    )
    op.create_index(
        "ix_journal_entries_position", "journal_entries", ["account_id", "venue", "symbol", "instance", "exit_time"]
    )
    op.create_index("ix_journal_entries_exit_time", "journal_entries", ["exit_time"])
    op.create_index("uq_journal_entries_seq", "journal_entries", ["seq"], unique=True)
    op.create_table(
        "journal_positions",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("trade_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_journal_positions_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "venue", "symbol", "instance", name=op.f("pk_journal_positions")),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("portfolio_id", sa.BigInteger(), nullable=True),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("start_time", time, nullable=False),
        sa.Column("end_time", time, nullable=False),
        sa.Column("document", JSONB(), nullable=False),
        sa.Column("is_late", sa.Boolean(), nullable=False),
        sa.Column("alert_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", time, nullable=False, server_default=now),
        sa.CheckConstraint("period IN ('daily','weekly','monthly')", name=op.f("ck_reports_period")),
        sa.ForeignKeyConstraint(["portfolio_id"], ["portfolios.id"], name=op.f("fk_reports_portfolio_id_portfolios")),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_reports_alert_id_alerts"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index("uq_reports_seq", "reports", ["seq"], unique=True)
    op.add_column("portfolios", sa.Column("day_end_min", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "instance_targets",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("weight", sa.Numeric(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("size", sa.Numeric(), nullable=True),
        sa.Column("params_version", sa.Integer(), nullable=True),
        sa.Column("applied_at", time, nullable=True),
        sa.ForeignKeyConstraint(
            ["portfolio_id", "version"],
            ["portfolio_target_sets.portfolio_id", "portfolio_target_sets.version"],
            name=op.f("fk_instance_targets_portfolio_id_portfolio_target_sets"),
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "version", "instance_id", name=op.f("pk_instance_targets")),
    )
    op.add_column("strategy_parameters", sa.Column("size", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.drop_column("strategy_parameters", "size")
    op.drop_table("instance_targets")
    op.drop_column("portfolios", "day_end_min")
    op.drop_table("reports")
    op.drop_table("journal_positions")
    op.drop_table("journal_entries")
