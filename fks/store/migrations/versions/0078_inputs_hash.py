"""Predictions have the hash of the row of features that they were made from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0078"
down_revision = "0077"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feature_values", sa.Column("inputs_hash", sa.Text()))


def downgrade() -> None:
    op.drop_column("feature_values", "inputs_hash")
