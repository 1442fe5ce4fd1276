"""Signals carry the end of a resting order, and whether an order may only reduce a position."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signals", sa.Column("rests_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("signals", sa.Column("is_reduce_only", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    op.drop_column("signals", "is_reduce_only")
    op.drop_column("signals", "rests_until")
