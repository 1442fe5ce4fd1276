"""Tokens of scope `signal` that step 0027 raised to `approve` are of scope `signal` again: approval is given by name."""

from __future__ import annotations

from alembic import op

revision = "0042"
down_revision = "0044"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # tokens made since 0027 name their maker, so those that it raised are the ones without; `cli` is of scope admin
    op.execute("UPDATE api_tokens SET scope = 'signal' WHERE scope = 'approve' AND created_by = ''")


def downgrade() -> None:
    """Leave the scopes: which tokens were raised is not known any more."""
