"""Series keep the lot, tick and largest order that an import gave."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = "0098"
branch_labels = None
depends_on = None

_COLUMNS = ("lot", "tick", "largest")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("series", sa.Column(name, sa.Numeric()))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("series", name)
