"""Limits: filters of instruments, entries of a position, prices and losses of a trading day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instruments", sa.Column("filters", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    op.add_column("strategy_instances", sa.Column("pyramiding", sa.Integer(), server_default="1", nullable=False))
    op.add_column("positions", sa.Column("entries", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "day_start_prices",
        sa.Column("day_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("day_start", "exchange", "symbol", name="pk_day_start_prices"),
    )
    op.create_table(
        "day_losses",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("day_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("loss", sa.Numeric(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_day_losses_account_id_accounts"),
        sa.PrimaryKeyConstraint("account_id", "day_start", name="pk_day_losses"),
    )


def downgrade() -> None:
    op.drop_table("day_losses")
    op.drop_table("day_start_prices")
    op.drop_column("positions", "entries")
    op.drop_column("strategy_instances", "pyramiding")
    op.drop_column("instruments", "filters")
