"""The ledger of research: searches and backtests on stored bars, by which later searches are deflated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "research_runs",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trials", sa.Integer(), nullable=False),
        sa.Column("sharpe_mean", sa.Float(53), nullable=False),
        sa.Column("sharpe_spread", sa.Float(53), nullable=False),
        sa.Column("sharpe_best", sa.Float(53), nullable=False),
        sa.Column("ran_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("kind IN ('search','backtest')", name=op.f("ck_research_runs_kind")),
        sa.CheckConstraint("trials > 0", name=op.f("ck_research_runs_trials")),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_research_runs")),
    )
    op.create_index("ix_research_runs_symbol", "research_runs", ["symbol", "exchange", "start_time"])


def downgrade() -> None:
    op.drop_table("research_runs")
