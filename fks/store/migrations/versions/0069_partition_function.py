"""Partitions are made by a function, so that roles without the owner's rights can have them made."""

from __future__ import annotations

from alembic import op

from fks.store.routines import MAKE_PARTITION

revision = "0069"
down_revision = "0067"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(MAKE_PARTITION)
    op.execute("REVOKE EXECUTE ON FUNCTION make_partition FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION make_partition")
