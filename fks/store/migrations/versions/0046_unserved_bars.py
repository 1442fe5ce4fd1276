"""Forget what was recorded as Kraken's outages: it serves the newest 720 bars of a timeframe, and older ones are built
from its trades now. What is really missing there is found again."""

from __future__ import annotations

from alembic import op

revision = "0046"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM known_gaps WHERE exchange = 'kraken' AND cause IN ('exchange', 'unlisted')")


def downgrade() -> None:
    pass
