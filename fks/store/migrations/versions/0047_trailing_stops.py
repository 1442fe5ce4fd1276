"""Signals carry the distance at which the stop of their entry follows the closes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0047"
down_revision = "0046c"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signals", sa.Column("trail", sa.Numeric(), nullable=True))


def downgrade() -> None:
    op.drop_column("signals", "trail")
