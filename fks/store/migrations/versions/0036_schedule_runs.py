"""Schedules of persons: cron or interval, and their runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("schedules", "cron", existing_type=sa.Text(), nullable=True)
    op.add_column("schedules", sa.Column("every_s", sa.Integer(), nullable=True))
    op.add_column("schedules", sa.Column("created_by", sa.Text(), server_default="system", nullable=False))
    op.add_column(
        "schedules",
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("schedules", sa.Column("requested_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("ck_schedules_rhythm"), "schedules", "(cron IS NULL) <> (every_s IS NULL)")
    op.create_table(
        "schedule_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.CheckConstraint("cause IN ('due','late','again','person')", name=op.f("ck_schedule_runs_cause")),
        sa.CheckConstraint("state IN ('running','done','failed','lost')", name=op.f("ck_schedule_runs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule_runs")),
        sa.UniqueConstraint("schedule", "due_at", "attempt", name=op.f("uq_schedule_runs_schedule_due_at_attempt")),
    )
    op.create_index("ix_schedule_runs_running", "schedule_runs", ["id"], postgresql_where=sa.text("state = 'running'"))


def downgrade() -> None:
    op.drop_table("schedule_runs")
    op.execute("DELETE FROM schedules WHERE cron IS NULL OR created_by <> 'system'")
    op.drop_constraint(op.f("ck_schedules_rhythm"), "schedules", type_="check")
    for column in ("requested_at", "created_at", "created_by", "every_s"):
        op.drop_column("schedules", column)
    op.alter_column("schedules", "cron", existing_type=sa.Text(), nullable=False)
