"""The limit prices of a rebalancing's orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0079"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("portfolio_run_steps", sa.Column("limit_price", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.drop_column("portfolio_run_steps", "limit_price")
