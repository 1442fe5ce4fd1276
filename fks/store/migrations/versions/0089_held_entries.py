"""An index of executed entries: the guardian reads about every second which of them positions are made of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0089"
down_revision = "0088"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_orders_entries",
        "orders",
        ["account_id", "venue", "symbol", "instance", "created_at"],
        postgresql_where=sa.text("role IN ('entry', 'order') AND filled > 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_orders_entries", table_name="orders")
