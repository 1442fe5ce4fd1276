"""Settlements by persons of orders of unknown outcome, and requests to reconcile a venue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _time(name: str, *, null: bool = False, now: bool = False) -> sa.Column[object]:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null, server_default=default)


def upgrade() -> None:
    op.create_table(
        "order_settlements",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("fills", JSONB(), nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("filled", sa.Numeric(), nullable=False, server_default="0"),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("confirm_code", sa.Text(), nullable=False),
        _time("requested_at", now=True),
        _time("confirmed_at", null=True),
        _time("applied_at", null=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('filled','absent','cancelled','busted')", name=op.f("ck_order_settlements_outcome")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_settlements")),
    )
    op.create_index(
        "ix_order_settlements_open",
        "order_settlements",
        ["client_order_id"],
        postgresql_where=sa.text("confirmed_at IS NOT NULL AND applied_at IS NULL"),
    )
    op.create_index(op.f("ix_order_settlements_client_order_id"), "order_settlements", ["client_order_id"])
    op.create_table(
        "reconcile_requests",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        _time("requested_at", now=True),
        _time("finished_at", null=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("result", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconcile_requests")),
    )
    op.create_index(
        "ix_reconcile_requests_open", "reconcile_requests", ["venue"], postgresql_where=sa.text("finished_at IS NULL")
    )


def downgrade() -> None:
    op.drop_table("reconcile_requests")
    op.drop_table("order_settlements")
