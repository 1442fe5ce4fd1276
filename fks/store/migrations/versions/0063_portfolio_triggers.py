"""Triggers of rebalancings, and allocations of portfolios."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0063"
down_revision = "0062"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    now = sa.text("now()")
    op.add_column("portfolio_runs", sa.Column("trigger", sa.Text(), nullable=True))
    op.add_column("portfolio_runs", sa.Column("trigger_key", sa.Text(), nullable=True))
    op.create_index(
        "uq_portfolio_runs_trigger",
        "portfolio_runs",
        ["portfolio_id", "trigger_key"],
        unique=True,
        postgresql_where=sa.text("trigger_key IS NOT NULL"),
    )
    op.create_table(
        "portfolio_policies",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False, server_default="person"),
        sa.Column("band", sa.Numeric(), nullable=True),
        sa.Column("timeframe", sa.Text(), nullable=False, server_default="1h"),
        sa.Column("cooldown_s", sa.Float(53), nullable=False, server_default="3600"),
        sa.Column("needs_approval", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("change_max", sa.Numeric(), nullable=False, server_default="0.1"),
        sa.Column("updated_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("requested_id", sa.UUID(), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_bar", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("decision_detail", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("trigger IN ('person','schedule','drift')", name=op.f("ck_portfolio_policies_trigger")),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_policies_portfolio_id_portfolios")
        ),
        sa.PrimaryKeyConstraint("portfolio_id", name=op.f("pk_portfolio_policies")),
    )
    op.create_table(
        "allocations",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("inputs_hash", sa.Text(), nullable=False),
        sa.Column("weights", JSONB(), nullable=False),
        sa.Column("diagnostics", JSONB(), nullable=False),
        sa.Column("targets_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="ready"),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("applied_version", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.CheckConstraint("state IN ('ready','waiting','applied','refused')", name=op.f("ck_allocations_state")),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_allocations_portfolio_id_portfolios")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
    )
    op.create_index("ix_allocations_portfolio_id", "allocations", ["portfolio_id", "created_at"])


def downgrade() -> None:
    op.drop_table("allocations")
    op.drop_table("portfolio_policies")
    op.drop_index("uq_portfolio_runs_trigger", "portfolio_runs")
    op.execute("DELETE FROM portfolio_runs WHERE state = 'planned' AND trigger IS NOT NULL")
    op.drop_column("portfolio_runs", "trigger_key")
    op.drop_column("portfolio_runs", "trigger")
