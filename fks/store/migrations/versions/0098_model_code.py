"""Source hash of the code that trained a version of a model, and its licence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0098"
down_revision = "0097"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("code_hash", "licence"):
        op.add_column("ai_model_versions", sa.Column(name, sa.Text()))


def downgrade() -> None:
    for name in ("licence", "code_hash"):
        op.drop_column("ai_model_versions", name)
