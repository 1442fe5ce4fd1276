"""Plans of parent orders, and persons' amendments of orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0066"
down_revision = "0064"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parent_orders",
        sa.Column("signal_id", sa.UUID, sa.ForeignKey("signals.id"), primary_key=True),
        sa.Column("plan", JSONB, nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_table(
        "order_amendments",
        sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
        sa.Column("client_order_id", sa.Text, nullable=False),
        sa.Column("price", sa.Numeric, nullable=True),
        sa.Column("quantity", sa.Numeric, nullable=True),
        sa.Column("stop_loss", sa.Numeric, nullable=True),
        sa.Column("plan", JSONB, nullable=True),
        sa.Column("drops_protection", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("requested_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.Column("successor", sa.UUID, nullable=True),
    )
    op.create_index(
        "ux_order_amendments_open",
        "order_amendments",
        ["client_order_id"],
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("order_amendments")
    op.drop_table("parent_orders")
