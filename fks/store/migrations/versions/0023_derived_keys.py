"""Idempotency keys that the gateway makes for requests without one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "derived_keys",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("principal", "body_hash", name=op.f("pk_derived_keys")),
    )
    op.create_index("ix_derived_keys_first_at", "derived_keys", ["first_at"])


def downgrade() -> None:
    op.drop_table("derived_keys")
