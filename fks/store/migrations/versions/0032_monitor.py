"""Service registry, dependencies, health checks and metrics by the minute."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_STATUSES = "('healthy','degraded','down','unknown')"


def upgrade() -> None:
    op.create_table(
        "service_registry",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("service_type", sa.Text(), server_default="", nullable=False),
        sa.Column("services", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
        sa.Column("host", sa.Text(), server_default="", nullable=False),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("health_endpoint", sa.Text(), server_default="", nullable=False),
        sa.Column("version", sa.Text(), server_default="", nullable=False),
        sa.Column("registered_by", sa.Text(), server_default="system", nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('service','component','node','external')", name=op.f("ck_service_registry_kind")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_service_registry")),
    )
    op.create_table(
        "service_dependencies",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("depends_on", sa.Text(), nullable=False),
        sa.Column("is_critical", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("service", "depends_on", name=op.f("pk_service_dependencies")),
    )
    op.create_table(
        "health_checks",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reported", sa.Text(), nullable=False),
        sa.Column("response_ms", sa.Float(53), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint(f"status IN {_STATUSES}", name=op.f("ck_health_checks_status")),
        sa.CheckConstraint(f"reported IN {_STATUSES}", name=op.f("ck_health_checks_reported")),
        sa.PrimaryKeyConstraint("service", "at", name=op.f("pk_health_checks")),
    )
    op.create_index("ix_health_checks_at", "health_checks", ["at"], postgresql_using="brin")
    op.create_table(
        "service_metrics",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cpu_percent", sa.Float(53), nullable=True),
        sa.Column("memory_mb", sa.Float(53), nullable=True),
        sa.Column("requests", sa.Integer(), nullable=True),
        sa.Column("errors", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Float(53), nullable=True),
        sa.PrimaryKeyConstraint("service", "at", name=op.f("pk_service_metrics")),
    )
    op.create_index("ix_service_metrics_at", "service_metrics", ["at"], postgresql_using="brin")


def downgrade() -> None:
    op.drop_table("service_metrics")
    op.drop_table("health_checks")
    op.drop_table("service_dependencies")
    op.drop_table("service_registry")
