"""Keys of venues, encrypted: a row for each version of an account's key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0064"
down_revision = "0063"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "credentials",
        sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
        sa.Column("sealed", sa.LargeBinary, nullable=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("may_withdraw", sa.Boolean, nullable=True),
        sa.Column("is_address_bound", sa.Boolean, nullable=True),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("created_by", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("taken_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.UniqueConstraint("account_id", "role", "version", name=op.f("uq_credentials_account_id_role_version")),
        sa.CheckConstraint("role IN ('orders','guardian')", name=op.f("ck_credentials_role")),
        sa.CheckConstraint("state IN ('waiting','active','refused','retired')", name=op.f("ck_credentials_state")),
        sa.CheckConstraint("(sealed IS NULL) = (state IN ('refused','retired'))", name=op.f("ck_credentials_sealed")),
    )


def downgrade() -> None:
    op.drop_table("credentials")
