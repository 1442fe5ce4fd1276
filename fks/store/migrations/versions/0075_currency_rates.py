"""Rates that a valuation of a portfolio used, as rows beside its equity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0075"
down_revision = "0074"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "currency_rates",
        sa.Column("portfolio_id", sa.BigInteger(), nullable=False),
        sa.Column("time", time, nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("rate", sa.Numeric(), nullable=False),
        sa.Column("rate_time", time, nullable=True),
        sa.Column("legs", ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'::text[]")),
        sa.ForeignKeyConstraint(
            ["portfolio_id", "time"],
            ["portfolio_equity.portfolio_id", "portfolio_equity.time"],
            name=op.f("fk_currency_rates_portfolio_id_portfolio_equity"),
        ),
        sa.PrimaryKeyConstraint("portfolio_id", "time", "asset", name=op.f("pk_currency_rates")),
    )
    op.execute(
        "INSERT INTO currency_rates (portfolio_id, time, asset, rate)"
        " SELECT e.portfolio_id, e.time, r.key, r.value::numeric"
        " FROM portfolio_equity e CROSS JOIN LATERAL jsonb_each_text(e.held -> 'rates') r"
    )
    op.execute("UPDATE portfolio_equity SET held = held - 'rates' WHERE held ? 'rates'")


def downgrade() -> None:
    op.execute(
        "UPDATE portfolio_equity e SET held = e.held || jsonb_build_object('rates', coalesce("
        "(SELECT jsonb_object_agg(r.asset, r.rate::text) FROM currency_rates r"
        " WHERE (r.portfolio_id, r.time) = (e.portfolio_id, e.time)), '{}'))"
        " WHERE e.held IS NOT NULL"
    )
    op.drop_table("currency_rates")
