"""Drift of forecasts: what trained a version, how far it has drifted, and what follows for its model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0074"
down_revision = "0073"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    op.add_column("ai_models", sa.Column("on_drift", sa.Text(), nullable=False, server_default="alert"))
    op.create_check_constraint(op.f("ck_ai_models_on_drift"), "ai_models", "on_drift IN ('alert','demote')")
    empty = sa.text("'[]'::jsonb")
    op.add_column("ai_model_versions", sa.Column("reference", postgresql.JSONB(), nullable=False, server_default=empty))
    op.add_column("ai_model_versions", sa.Column("drift", postgresql.JSONB()))


def downgrade() -> None:
    op.drop_column("ai_model_versions", "drift")
    op.drop_column("ai_model_versions", "reference")
    op.drop_column("ai_models", "on_drift")
