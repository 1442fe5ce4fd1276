"""Shares of a GPU for models, limits of their process, and models that wait for a node that the cluster starts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0101"
down_revision = "0100"
branch_labels = None
depends_on = None
can_roll = False

_STATES = "state IN ('wanted','unschedulable','failed')"


def upgrade() -> None:
    op.add_column(
        "ai_deployments", sa.Column("gpus", sa.Float(53))
    )  # NULL: a row of an older build, which has a device
    op.add_column("ai_deployments", sa.Column("memory_mb", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("ai_deployments", sa.Column("load_s", sa.Float(53), nullable=False, server_default="0"))
    op.add_column(
        "ai_deployments",
        sa.Column("state_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.drop_constraint(op.f("ck_ai_deployments_state"), "ai_deployments")
    op.create_check_constraint(
        op.f("ck_ai_deployments_state"), "ai_deployments", _STATES.replace("'failed'", "'waiting','failed'")
    )


def downgrade() -> None:
    op.execute("UPDATE ai_deployments SET state = 'unschedulable' WHERE state = 'waiting'")
    op.drop_constraint(op.f("ck_ai_deployments_state"), "ai_deployments")
    op.create_check_constraint(op.f("ck_ai_deployments_state"), "ai_deployments", _STATES)
    for column in ("state_at", "load_s", "memory_mb", "gpus"):
        op.drop_column("ai_deployments", column)
