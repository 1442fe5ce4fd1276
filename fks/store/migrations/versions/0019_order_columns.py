"""Columns of orders in the words of the code: generation becomes attempt, announced becomes reported_cum_qty."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
#: parts of an earlier build read and write the old names
can_roll = False

RENAMED = {"generation": "attempt", "announced": "reported_cum_qty"}


def upgrade() -> None:
    for old, new in RENAMED.items():
        op.alter_column("orders", old, new_column_name=new)


def downgrade() -> None:
    for old, new in RENAMED.items():
        op.alter_column("orders", new, new_column_name=old)
