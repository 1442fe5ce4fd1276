"""Own columns of strategies, each value with the moment from which on it was known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feature_values",
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("known_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, server_default=""),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("known_at >= time", name=op.f("ck_feature_values_known_at")),
        sa.PrimaryKeyConstraint("feature", "symbol", "time", "known_at", name=op.f("pk_feature_values")),
    )
    op.create_index("ix_feature_values_known", "feature_values", ["feature", "symbol", "known_at"])


def downgrade() -> None:
    op.drop_table("feature_values")
