"""The user that owns a channel of alerts: it gets no page for a kill that this user engaged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0091"
down_revision = "0090"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("alert_channels", sa.Column("user_name", sa.Text, nullable=True))


def downgrade() -> None:
    op.drop_column("alert_channels", "user_name")
