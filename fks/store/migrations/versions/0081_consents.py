"""Consents to send passages to OpenAI, and each call that was made under one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0081"
down_revision = "0080"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ai_consents",
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("daily_budget", sa.Numeric(), nullable=False),
        sa.Column("input_price", sa.Numeric(), nullable=False),
        sa.Column("output_price", sa.Numeric(), nullable=False),
        sa.Column("given_by", sa.Text(), nullable=False),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("collection", "purpose", name=op.f("pk_ai_consents")),
        sa.CheckConstraint("purpose IN ('answer')", name=op.f("ck_ai_consents_purpose")),
        sa.CheckConstraint(
            "daily_budget > 0 AND input_price > 0 AND output_price > 0", name=op.f("ck_ai_consents_amounts")
        ),
    )
    op.create_table(
        "ai_external_calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Numeric(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False, server_default=""),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_external_calls")),
        sa.CheckConstraint("bytes > 0 AND cost >= 0", name=op.f("ck_ai_external_calls_amounts")),
    )
    op.create_index("ix_ai_external_calls_day", "ai_external_calls", ["collection", "purpose", "time"])


def downgrade() -> None:
    op.drop_table("ai_external_calls")
    op.drop_table("ai_consents")
