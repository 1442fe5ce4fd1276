"""Certificates of exchanges, beside the passes of plug-ins: the environment in which cases passed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0090"
down_revision = "0089"
branch_labels = None
depends_on = None
can_roll = False

_KEY = ["exchange", "version", "digest"]


def upgrade() -> None:
    op.add_column("venue_passes", sa.Column("environment", sa.Text(), nullable=False, server_default=sa.text("'sim'")))
    op.drop_constraint("pk_venue_passes", "venue_passes")
    op.create_primary_key("pk_venue_passes", "venue_passes", [*_KEY, "environment"])


def downgrade() -> None:
    op.execute("DELETE FROM venue_passes WHERE environment <> 'sim'")
    op.drop_constraint("pk_venue_passes", "venue_passes")
    op.create_primary_key("pk_venue_passes", "venue_passes", _KEY)
    op.drop_column("venue_passes", "environment")
