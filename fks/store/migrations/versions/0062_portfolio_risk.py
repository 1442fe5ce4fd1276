"""Holdings beside the equity of a portfolio, for its attribution; limits of portfolios, with their measurements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0062"
down_revision = "0061"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("portfolio_equity", sa.Column("held", JSONB(), nullable=True))
    op.create_table(
        "portfolio_limits",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Numeric(), nullable=False),
        sa.Column("age_max_s", sa.Float(53), nullable=False),
        sa.Column("observed", sa.Numeric(), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("missing", sa.Text(), nullable=False, server_default=""),
        sa.Column("set_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint(
            "kind IN ('gross_exposure','var_95_1d','weight_max')", name=op.f("ck_portfolio_limits_kind")
        ),
        sa.CheckConstraint("value > 0 AND age_max_s > 0", name=op.f("ck_portfolio_limits_positive")),
        sa.ForeignKeyConstraint(
            ["portfolio_id"], ["portfolios.id"], name=op.f("fk_portfolio_limits_portfolio_id_portfolios")
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "kind", name=op.f("pk_portfolio_limits")),
    )


def downgrade() -> None:
    op.drop_table("portfolio_limits")
    op.drop_column("portfolio_equity", "held")
