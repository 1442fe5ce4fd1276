"""Groups of entries: the legs of one decision over several symbols, which are made together or not at all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0096"
down_revision = "0091"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("signals", sa.Column("group_id", sa.UUID, nullable=True))
    op.add_column("signals", sa.Column("group_legs", sa.Text, nullable=False, server_default=""))
    op.create_index("ix_signals_group", "signals", ["group_id"], postgresql_where=sa.text("group_id IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_signals_group", table_name="signals")
    op.drop_column("signals", "group_legs")
    op.drop_column("signals", "group_id")
