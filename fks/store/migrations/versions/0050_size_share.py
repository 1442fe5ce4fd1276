"""Signals carry the share of their instance's size that an entry has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signals", sa.Column("size_share", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.drop_column("signals", "size_share")
