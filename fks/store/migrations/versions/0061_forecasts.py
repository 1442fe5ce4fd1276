"""Models of forecasts with their versions, and predictions as rows of own columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0061"
down_revision = "0060"
branch_labels = None
depends_on = None
can_roll = False

_ADDED = ("lower", "upper", "version", "label_end", "origin", "state")
_CHECKS = {
    "forecast": "(feature LIKE 'forecast:%') = (state IS NOT NULL)",
    "label_end": "label_end <= time",
    "state": "state IN ('ok','missing','refused')",
    "origin": "origin IN ('live','backfill')",
    "predicted": "state <> 'ok' OR (version IS NOT NULL AND label_end IS NOT NULL AND origin IS NOT NULL)",
}


def upgrade() -> None:
    op.create_table(
        "ai_models",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("bar_s", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_table(
        "ai_model_versions",
        sa.Column("model", sa.Text(), sa.ForeignKey("ai_models.name"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False, server_default="candidate"),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("data_hash", sa.Text(), nullable=False),
        sa.Column("artifact_hash", sa.Text(), nullable=False),
        sa.Column("label_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("symbols", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("libraries", postgresql.JSONB(), nullable=False),
        sa.Column("folds", postgresql.JSONB(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(), nullable=False),
        sa.Column("checks", postgresql.JSONB(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("staged_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("replaced", sa.Integer()),
        sa.CheckConstraint("stage IN ('candidate','shadow','live','retired')", name=op.f("ck_ai_model_versions_stage")),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_ai_model_versions")),
        sa.UniqueConstraint("model", "fingerprint", name=op.f("uq_ai_model_versions_fingerprint")),
    )
    for stage in ("shadow", "live"):
        op.create_index(
            f"ix_ai_model_versions_{stage}",
            "ai_model_versions",
            ["model"],
            unique=True,
            postgresql_where=sa.text(f"stage = '{stage}'"),
        )
    op.add_column("feature_values", sa.Column("lower", sa.Float(53)))
    op.add_column("feature_values", sa.Column("upper", sa.Float(53)))
    op.add_column("feature_values", sa.Column("version", sa.Integer()))
    op.add_column("feature_values", sa.Column("label_end", sa.DateTime(timezone=True)))
    op.add_column("feature_values", sa.Column("origin", sa.Text()))
    op.add_column("feature_values", sa.Column("state", sa.Text()))
    for name, text in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_feature_values_{name}"), "feature_values", text)


def downgrade() -> None:
    op.execute("DELETE FROM feature_values WHERE state IS NOT NULL")
    for name in _CHECKS:
        op.drop_constraint(op.f(f"ck_feature_values_{name}"), "feature_values")
    for name in _ADDED:
        op.drop_column("feature_values", name)
    op.drop_table("ai_model_versions")
    op.drop_table("ai_models")
