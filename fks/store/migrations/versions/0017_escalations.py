"""An index over escalation events, which are queried once a second."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_actor_events_escalations",
        "actor_events",
        ["child", "id"],
        postgresql_where=sa.text("event IN ('escalated','cleared')"),
    )


def downgrade() -> None:
    op.drop_index("ix_actor_events_escalations", table_name="actor_events")
