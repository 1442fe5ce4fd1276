"""Passes of the cases of venue plug-ins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0083"
down_revision = "0082"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "venue_passes",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("cases", ARRAY(sa.Text()), nullable=False),
        sa.Column("passed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("exchange", "version", "digest", name=op.f("pk_venue_passes")),
    )


def downgrade() -> None:
    op.drop_table("venue_passes")
