"""Economic events: releases of figures and decisions of central banks, with their revisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0085"
down_revision = "0083"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "economic_events",
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("importance", sa.Text(), nullable=False),
        sa.Column("actual", sa.Numeric(), nullable=True),
        sa.Column("forecast", sa.Numeric(), nullable=True),
        sa.Column("previous", sa.Numeric(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False, server_default=""),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint(
            "importance IN ('none', 'low', 'medium', 'high')", name=op.f("ck_economic_events_importance")
        ),
        sa.PrimaryKeyConstraint("currency", "name", "time", "revision", name=op.f("pk_economic_events")),
    )
    op.create_index("ix_economic_events_time", "economic_events", ["time"])


def downgrade() -> None:
    op.drop_table("economic_events")
