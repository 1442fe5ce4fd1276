"""Prices to which strategies move the take profits of their positions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0086"
down_revision = "0085"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    op.alter_column("stop_moves", "price", existing_type=sa.Numeric(), nullable=True)
    op.add_column("stop_moves", sa.Column("take_profit", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM stop_moves WHERE price IS NULL")
    op.drop_column("stop_moves", "take_profit")
    op.alter_column("stop_moves", "price", existing_type=sa.Numeric(), nullable=False)
