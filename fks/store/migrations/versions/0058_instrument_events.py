"""Dividends, symbol changes and delistings beside splits, funding rates, and revisions of all of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None
can_roll = False

_KINDS = "kind IN ('split', 'dividend', 'delisting', 'symbol_change')"
_CONTENT = (
    "(kind = 'split') = (new_shares IS NOT NULL AND old_shares IS NOT NULL) "
    "AND (kind = 'dividend') = (amount IS NOT NULL) AND (kind = 'symbol_change') = (new_symbol <> '')"
)


def upgrade() -> None:
    table = "corporate_actions"
    for column in (
        sa.Column("type", sa.Text(), nullable=False, server_default=""),
        sa.Column("amount", sa.Numeric(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False, server_default=""),
        sa.Column("pay_day", sa.Date(), nullable=True),
        sa.Column("new_symbol", sa.Text(), nullable=False, server_default=""),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("is_withdrawn", sa.Boolean(), nullable=False, server_default="false"),
    ):
        op.add_column(table, column)
    op.execute("UPDATE corporate_actions SET published_at = day::timestamp AT TIME ZONE 'UTC'")
    op.alter_column(table, "published_at", nullable=False)
    op.alter_column(table, "new_shares", nullable=True)
    op.alter_column(table, "old_shares", nullable=True)
    op.drop_constraint(op.f("ck_corporate_actions_kind"), table)
    op.create_check_constraint(op.f("ck_corporate_actions_kind"), table, _KINDS)
    op.create_check_constraint(op.f("ck_corporate_actions_content"), table, _CONTENT)
    op.create_check_constraint(op.f("ck_corporate_actions_amount"), table, "amount > 0")
    op.drop_constraint(op.f("pk_corporate_actions"), table)
    op.create_primary_key(
        op.f("pk_corporate_actions"), table, ["exchange", "symbol", "kind", "day", "type", "revision"]
    )
    op.create_table(
        "funding_rates",
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("rate", sa.Numeric(), nullable=False),
        sa.Column("mark_price", sa.Numeric(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False, server_default=""),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("mark_price > 0", name=op.f("ck_funding_rates_mark_price")),
        sa.CheckConstraint("abs(rate) < 1", name=op.f("ck_funding_rates_rate")),
        sa.PrimaryKeyConstraint("exchange", "symbol", "time", "revision", name=op.f("pk_funding_rates")),
    )


def downgrade() -> None:
    table = "corporate_actions"
    op.drop_table("funding_rates")
    op.execute(
        "DELETE FROM corporate_actions c WHERE kind <> 'split' OR is_withdrawn OR EXISTS (SELECT 1 FROM "
        "corporate_actions n WHERE (n.exchange, n.symbol, n.kind, n.day) = (c.exchange, c.symbol, c.kind, c.day) "
        "AND n.revision > c.revision)"
    )
    op.drop_constraint(op.f("pk_corporate_actions"), table)
    op.create_primary_key(op.f("pk_corporate_actions"), table, ["exchange", "symbol", "kind", "day"])
    op.drop_constraint(op.f("ck_corporate_actions_amount"), table)
    op.drop_constraint(op.f("ck_corporate_actions_content"), table)
    op.drop_constraint(op.f("ck_corporate_actions_kind"), table)
    op.create_check_constraint(op.f("ck_corporate_actions_kind"), table, "kind = 'split'")
    for name in ("new_shares", "old_shares"):
        op.alter_column(table, name, nullable=False)
    for name in (
        "is_withdrawn",
        "revision",
        "published_at",
        "new_symbol",
        "pay_day",
        "currency",
        "amount",
        "type",
    ):
        op.drop_column(table, name)
