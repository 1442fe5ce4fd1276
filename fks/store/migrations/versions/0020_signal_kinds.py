"""The kinds of a signal are those that the order manager trades: a row with another one is refused by the table."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "UPDATE signals SET state = 'denied', code = 'TYPE_UNSUPPORTED', detail = 'send enter and exit'"
        " WHERE kind NOT IN ('enter', 'exit', 'order') AND state IN ('ready', 'pending')"
    )
    op.execute(
        "ALTER TABLE signals ADD CONSTRAINT ck_signals_kind CHECK (kind IN ('enter', 'exit', 'order')) NOT VALID"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE signals DROP CONSTRAINT ck_signals_kind")
