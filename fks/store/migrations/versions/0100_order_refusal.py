"""Reasons for which venues refused orders: after a restart a stop that the market had passed is closed as well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0100"
down_revision = "0099"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("refusal", sa.Text()))


def downgrade() -> None:
    op.drop_column("orders", "refusal")
