"""Requests of persons to end an exit: also one that waits between two attempts, when no order of it is open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "exit_end_requests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("signal_id", UUID(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exit_end_requests")),
    )
    op.create_index(
        "ix_exit_end_requests_open", "exit_end_requests", ["id"], postgresql_where=sa.text("finished_at IS NULL")
    )
    op.create_index(op.f("ix_exit_end_requests_signal_id"), "exit_end_requests", ["signal_id"])


def downgrade() -> None:
    op.drop_table("exit_end_requests")
