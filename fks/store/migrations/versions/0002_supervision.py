"""Operations, runtime settings, machines, and crash counts of strategies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column("ray_node_id", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), server_default="", nullable=False),
        sa.Column("config_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("clock_skew_ms", sa.Float(precision=53), nullable=True),
        sa.Column("beat_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "args", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("requested_by", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("progress", sa.Text(), server_default="", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "result", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('queued','running','done','failed')", name=op.f("ck_operations_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(
        "ix_operations_open",
        "operations",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued','running')"),
    )
    op.create_table(
        "runtime_config",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("values", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("changes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("kind", sa.Text(), server_default="set", nullable=False),
        sa.Column("rolls_back_to", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), server_default="rolling", nullable=False),
        sa.Column("changed_by", sa.Text(), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('rolling','active','failed','superseded')", name=op.f("ck_runtime_config_state")),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_runtime_config")),
    )
    op.add_column("actor_events", sa.Column("node", sa.Text(), server_default="", nullable=False))
    op.add_column("component_health", sa.Column("version", sa.Text(), server_default="", nullable=False))
    op.add_column("component_health", sa.Column("config_version", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "strategy_instances", sa.Column("is_isolated", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("strategy_instances", sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
    op.add_column("strategy_instances", sa.Column("crashed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("strategy_instances", sa.Column("traceback", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("strategy_instances", "traceback")
    op.drop_column("strategy_instances", "crashed_at")
    op.drop_column("strategy_instances", "crashes")
    op.drop_column("strategy_instances", "is_isolated")
    op.drop_column("component_health", "config_version")
    op.drop_column("component_health", "version")
    op.drop_column("actor_events", "node")
    op.drop_table("runtime_config")
    op.drop_index(
        "ix_operations_open", table_name="operations", postgresql_where=sa.text("state IN ('queued','running')")
    )
    op.drop_table("operations")
    op.drop_table("nodes")
