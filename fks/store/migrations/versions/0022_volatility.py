"""Signals carry the volatility that their bar had, for the sizings that divide by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signals", sa.Column("volatility", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.drop_column("signals", "volatility")
