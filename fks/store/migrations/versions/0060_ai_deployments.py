"""Language models to be served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ai_deployments",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False, server_default=""),
        sa.Column("sha256", sa.Text(), nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("device", sa.Text(), nullable=False, server_default="cpu"),
        sa.Column("replicas", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("context_size", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="wanted"),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.Column("deployed_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint(
            "engine IN ('llama_cpp','ollama','openai_compatible')", name=op.f("ck_ai_deployments_engine")
        ),
        sa.CheckConstraint("device IN ('cpu','gpu')", name=op.f("ck_ai_deployments_device")),
        sa.CheckConstraint("state IN ('wanted','unschedulable','failed')", name=op.f("ck_ai_deployments_state")),
        sa.CheckConstraint("replicas BETWEEN 1 AND 16", name=op.f("ck_ai_deployments_replicas")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_ai_deployments")),
    )


def downgrade() -> None:
    op.drop_table("ai_deployments")
