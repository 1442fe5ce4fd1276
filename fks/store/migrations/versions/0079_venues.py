"""A person's decisions about venues, and the venues of instruments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0079"
down_revision = "0078"
branch_labels = None
depends_on = None


def _changed() -> list[sa.Column[object]]:
    return [
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    ]


def upgrade() -> None:
    op.create_table(
        "venues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_enabled", sa.Boolean(), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("100")),
        *_changed(),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_venues")),
    )
    op.create_index("venues_default", "venues", ["is_default"], unique=True, postgresql_where=sa.text("is_default"))
    op.create_table(
        "venue_routes",
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("venues", ARRAY(sa.Text()), nullable=False),
        *_changed(),
        sa.PrimaryKeyConstraint("pattern", name=op.f("pk_venue_routes")),
    )


def downgrade() -> None:
    op.drop_table("venue_routes")
    op.drop_table("venues")
