"""Targets of portfolios, and the runs that rebalance them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now, is_active = sa.text("now()"), sa.text("state IN ('running','cancelling')")
    op.create_table(
        "portfolio_target_sets",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("rules", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("created_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_target_sets_portfolio_id_portfolios")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_portfolio_target_sets_account_id_accounts")
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "version", name=op.f("pk_portfolio_target_sets")),
    )
    op.create_table(
        "portfolio_targets",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("weight", sa.Numeric(), nullable=False),
        sa.Column("weight_min", sa.Numeric(), nullable=True),
        sa.Column("weight_max", sa.Numeric(), nullable=True),
        sa.ForeignKeyConstraint(
            ["portfolio_id", "version"],
            ["portfolio_target_sets.portfolio_id", "portfolio_target_sets.version"],
            name=op.f("fk_portfolio_targets_portfolio_id_portfolio_target_sets"),
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "version", "symbol", name=op.f("pk_portfolio_targets")),
    )
    op.create_table(
        "portfolio_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("targets_version", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("plan_hash", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="planned"),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("capital", sa.Numeric(), nullable=False),
        sa.Column("cash_free", sa.Numeric(), nullable=False),
        sa.Column("rules", JSONB(), nullable=False),
        sa.Column("drift", JSONB(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('planned','running','cancelling','done','partial','cancelled')",
            name=op.f("ck_portfolio_runs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_runs_portfolio_id_portfolios")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_portfolio_runs_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_portfolio_runs")),
    )
    op.create_index("ix_portfolio_runs_portfolio_id", "portfolio_runs", ["portfolio_id", "created_at"])
    op.create_index(
        "uq_portfolio_runs_active", "portfolio_runs", ["portfolio_id"], unique=True, postgresql_where=is_active
    )
    op.create_table(
        "portfolio_run_steps",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("fee", sa.Numeric(), nullable=False),
        sa.Column("slippage", sa.Numeric(), nullable=False),
        sa.Column("signal_id", sa.UUID(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="waiting"),
        sa.Column("ordered_quantity", sa.Numeric(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("side IN ('buy','sell')", name=op.f("ck_portfolio_run_steps_side")),
        sa.CheckConstraint("state IN ('waiting','sent','filled','ended')", name=op.f("ck_portfolio_run_steps_state")),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["portfolio_runs.id"],
            name=op.f("fk_portfolio_run_steps_run_id_portfolio_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_portfolio_run_steps")),
    )


def downgrade() -> None:
    for table in ("portfolio_run_steps", "portfolio_runs", "portfolio_targets", "portfolio_target_sets"):
        op.drop_table(table)
