"""Corporate actions of shares: splits, by which stored bars are read in the shares of their end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corporate_actions",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, server_default="split"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("new_shares", sa.Integer(), nullable=False),
        sa.Column("old_shares", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, server_default=""),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("kind = 'split'", name=op.f("ck_corporate_actions_kind")),
        sa.CheckConstraint("new_shares > 0 AND old_shares > 0", name=op.f("ck_corporate_actions_shares")),
        sa.PrimaryKeyConstraint("exchange", "symbol", "kind", "day", name=op.f("pk_corporate_actions")),
    )


def downgrade() -> None:
    op.drop_table("corporate_actions")
