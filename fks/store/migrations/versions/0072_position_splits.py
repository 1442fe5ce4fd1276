"""Splits of shares that were applied to positions, each once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0072"
down_revision = "0069"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "position_splits",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("new_shares", sa.Integer(), nullable=False),
        sa.Column("old_shares", sa.Integer(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("quantity_before", sa.Numeric(), nullable=False),
        sa.Column("quantity_after", sa.Numeric(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_position_splits_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_position_splits")),
    )
    op.create_index("position_splits_key", "position_splits", ["account_id", "venue", "symbol"])


def downgrade() -> None:
    op.drop_table("position_splits")
