"""Prices to which strategies move the orders of their entries that rest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0097"
down_revision = "0096"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("stop_moves", "entry_limit", sa.Numeric()),
    ("stop_moves", "entry_stop", sa.Numeric()),
    ("order_amendments", "stop_price", sa.Numeric()),
    ("order_amendments", "bar_time", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    for table, name, type_ in _COLUMNS:
        op.add_column(table, sa.Column(name, type_, nullable=True))


def downgrade() -> None:
    for table, name, _ in reversed(_COLUMNS):
        op.drop_column(table, name)
