"""Public trades whose exchange does not say which side took (Polygon): no side instead of a false one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0046b"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("market_trades", "is_buyer_maker", existing_type=sa.Boolean(), nullable=True, server_default=None)
    op.execute("UPDATE market_trades SET is_buyer_maker = NULL WHERE exchange = 'polygon'")


def downgrade() -> None:
    op.execute("UPDATE market_trades SET is_buyer_maker = false WHERE is_buyer_maker IS NULL")
    op.alter_column(
        "market_trades",
        "is_buyer_maker",
        existing_type=sa.Boolean(),
        nullable=False,
        server_default=sa.text("false"),
    )
