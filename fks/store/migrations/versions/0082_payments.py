"""Income of accounts (dividends, funding, interest, swaps) that a person recorded, beside deposits and withdrawals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0082"
down_revision = "0081"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    op.add_column("transfers", sa.Column("symbol", sa.Text(), nullable=False, server_default=""))
    op.drop_constraint(op.f("ck_transfers_kind"), "transfers")
    op.create_check_constraint(
        op.f("ck_transfers_kind"),
        "transfers",
        "kind IN ('deposit','withdrawal','dividend','funding','interest','swap')",
    )


def downgrade() -> None:
    op.execute("DELETE FROM transfers WHERE kind NOT IN ('deposit','withdrawal')")
    op.drop_constraint(op.f("ck_transfers_kind"), "transfers")
    op.create_check_constraint(op.f("ck_transfers_kind"), "transfers", "kind IN ('deposit','withdrawal')")
    op.drop_column("transfers", "symbol")
