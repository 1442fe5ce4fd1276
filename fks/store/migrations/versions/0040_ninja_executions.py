"""Index for the executions of an account in an instrument, which a venue session reads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_ninja_events_executions",
        "ninja_events",
        ["group_name", "account", sa.text("(body ->> 'instrument')"), "at"],
        postgresql_where=sa.text("kind = 'exec'"),
    )


def downgrade() -> None:
    op.drop_index("ix_ninja_events_executions", table_name="ninja_events")
