"""Challengers of strategy instances: variants that decide in shadow, and their decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "challengers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("params", postgresql.JSONB(), nullable=False),
        sa.Column("provenance", postgresql.JSONB(), nullable=True),
        sa.Column("added_by", sa.Text(), server_default="system", nullable=False),
        sa.Column("stage", sa.Text(), server_default="shadow", nullable=False),
        sa.Column("state", sa.Text(), server_default="NEW", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("anchor_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("begun_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_target", sa.Float(53), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("evaluation", postgresql.JSONB(), nullable=True),
        sa.Column("looks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("evaluated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("swap_requested_by", sa.Text(), nullable=True),
        sa.Column("swap_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "stage IN ('shadow','proposed','waiting','swapped','removed')", name=op.f("ck_challengers_stage")
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"],
            ["strategy_instances.id"],
            name=op.f("fk_challengers_instance_id_strategy_instances"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_challengers")),
        sa.UniqueConstraint("instance_id", "number", name=op.f("uq_challengers_instance_id_number")),
    )
    op.create_index(
        "ix_challengers_waiting",
        "challengers",
        ["instance_id"],
        unique=True,
        postgresql_where=sa.text("stage = 'waiting'"),
    )
    op.create_table(
        "challenger_decisions",
        sa.Column("challenger_id", sa.Text(), nullable=False),
        sa.Column("ts_event", sa.DateTime(timezone=True), nullable=False),
        sa.Column("target", sa.Float(53), nullable=False),
        sa.Column("stop_loss", sa.Numeric(), nullable=True),
        sa.Column("take_profit", sa.Numeric(), nullable=True),
        sa.Column("reference_price", sa.Numeric(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["challenger_id"],
            ["challengers.id"],
            name=op.f("fk_challenger_decisions_challenger_id_challengers"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("challenger_id", "ts_event", name=op.f("pk_challenger_decisions")),
    )


def downgrade() -> None:
    op.drop_table("challenger_decisions")
    op.drop_table("challengers")
