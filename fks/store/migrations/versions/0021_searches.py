"""Searches of parameters: their trials, fingerprints and priorities of jobs, provenance of parameters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("fingerprint", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False))
    op.create_index(
        "ix_jobs_fingerprint", "jobs", ["kind", "fingerprint"], postgresql_where=sa.text("fingerprint IS NOT NULL")
    )
    op.add_column("strategy_parameters", sa.Column("provenance", postgresql.JSONB(), nullable=True))
    op.create_table(
        "trials",
        sa.Column("search_id", postgresql.UUID(), nullable=False),
        sa.Column("fold", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("params", postgresql.JSONB(), nullable=False),
        sa.Column("prune_below", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("runner", postgresql.UUID(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("lost", sa.Integer(), server_default="0", nullable=False),
        sa.Column("result", postgresql.JSONB(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('queued','running','done','pruned','failed')", name=op.f("ck_trials_state")),
        sa.ForeignKeyConstraint(["search_id"], ["jobs.id"], name=op.f("fk_trials_search_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("search_id", "fold", "number", name=op.f("pk_trials")),
    )
    op.create_index(
        "ix_trials_open",
        "trials",
        ["search_id", "fold", "number"],
        postgresql_where=sa.text("state IN ('queued','running')"),
    )


def downgrade() -> None:
    op.drop_table("trials")
    op.drop_column("strategy_parameters", "provenance")
    op.drop_index("ix_jobs_fingerprint", table_name="jobs")
    op.drop_column("jobs", "priority")
    op.drop_column("jobs", "fingerprint")
