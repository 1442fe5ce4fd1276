"""Deployments that predict sealed bars."""

from __future__ import annotations

from alembic import op

revision = "0102"
down_revision = "0101"
branch_labels = None
depends_on = None
can_roll = False

_PURPOSES = "purpose IN ('answer','embed')"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_ai_deployments_purpose"), "ai_deployments")
    op.create_check_constraint(
        op.f("ck_ai_deployments_purpose"), "ai_deployments", _PURPOSES.replace("'embed'", "'embed','predict'")
    )


def downgrade() -> None:
    # versions of deployed models have no folds, which older builds cannot show; their rows of predictions stay
    op.execute("DELETE FROM ai_model_versions WHERE folds = '[]'::jsonb")
    op.execute("DELETE FROM ai_deployments WHERE purpose = 'predict'")
    op.drop_constraint(op.f("ck_ai_deployments_purpose"), "ai_deployments")
    op.create_check_constraint(op.f("ck_ai_deployments_purpose"), "ai_deployments", _PURPOSES)
