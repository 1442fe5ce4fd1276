"""The identity of an account at its venue, incidents, transfers, and an account's holdings before its first session."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("environment", "uid", "network_epoch"):
        op.add_column("accounts", sa.Column(name, sa.Text(), nullable=True))
    op.create_table(
        "incidents",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "payload", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_incidents_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index(
        "uq_incidents_open",
        "incidents",
        ["account_id", "kind", "subject"],
        unique=True,
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_index(op.f("ix_incidents_opened_at"), "incidents", ["opened_at"])
    op.create_table(
        "transfers",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("fee", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.Text(), server_default="venue", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('deposit','withdrawal')", name=op.f("ck_transfers_kind")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_transfers_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "kind", "reference", name=op.f("pk_transfers")),
    )
    op.create_table(
        "account_assets",
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("opening", sa.Numeric(), nullable=False),
        sa.Column("adopted", sa.Numeric(), server_default="0", nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_account_assets_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "asset", name=op.f("pk_account_assets")),
    )
    op.create_index(
        "uq_trades_venue_trade",
        "trades",
        ["account_id", "venue", "symbol", "venue_trade_id"],
        unique=True,
        postgresql_where=sa.text("venue_trade_id <> '' AND venue <> 'manual'"),
    )


def downgrade() -> None:
    op.drop_index("uq_trades_venue_trade", table_name="trades")
    op.drop_table("account_assets")
    op.drop_table("transfers")
    op.drop_index(op.f("ix_incidents_opened_at"), table_name="incidents")
    op.drop_index("uq_incidents_open", table_name="incidents")
    op.drop_table("incidents")
    for name in ("network_epoch", "uid", "environment"):
        op.drop_column("accounts", name)
