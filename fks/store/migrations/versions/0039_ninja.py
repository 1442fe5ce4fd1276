"""Links to NinjaTrader bridges, requests to them and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0039"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ninja_links",
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("writer_epoch", sa.BigInteger(), nullable=False),
        sa.Column("bridge_epoch", sa.Text(), nullable=True),
        sa.Column("stored_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_ready", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("is_halted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("accounts", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("snapshot", JSONB(), nullable=True),
        sa.Column("snapshot_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("offset_ms", sa.Integer(), server_default="0", nullable=False),
        sa.Column("alarm", sa.Text(), server_default="", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("group_name", name=op.f("pk_ninja_links")),
    )
    op.create_table(
        "ninja_requests",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("asker_epoch", sa.BigInteger(), nullable=True),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), server_default="NEW", nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=True),
        sa.Column("bridge_epoch", sa.Text(), nullable=True),
        sa.Column("answer", JSONB(), nullable=True),
        sa.Column("code", sa.Text(), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('signal','cancel','modify','flatten','kill','resume','status','query')",
            name=op.f("ck_ninja_requests_kind"),
        ),
        sa.CheckConstraint(
            "state IN ('NEW','SENDING','ACKED','NACKED','INDETERMINATE','UNANSWERED','EXPIRED','WITHDRAWN')",
            name=op.f("ck_ninja_requests_state"),
        ),
        sa.CheckConstraint("kind <> 'signal' OR valid_until IS NOT NULL", name=op.f("ck_ninja_requests_signal_ends")),
        sa.CheckConstraint("length(id) BETWEEN 1 AND 32", name=op.f("ck_ninja_requests_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ninja_requests")),
    )
    op.create_index(
        "ix_ninja_requests_open",
        "ninja_requests",
        ["group_name", "seq"],
        postgresql_where=sa.text("state IN ('NEW','SENDING','UNANSWERED','INDETERMINATE')"),
    )
    op.create_index(op.f("ix_ninja_requests_created_at"), "ninja_requests", ["created_at"], postgresql_using="brin")
    op.create_table(
        "ninja_events",
        sa.Column("group_name", sa.Text(), nullable=False),
        sa.Column("bridge_epoch", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("signal_id", sa.Text(), nullable=True),
        sa.Column("body", JSONB(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("group_name", "bridge_epoch", "seq", name=op.f("pk_ninja_events")),
    )
    op.create_index(
        op.f("ix_ninja_events_group_name_position"), "ninja_events", ["group_name", "position"], unique=True
    )
    op.create_index(
        "ix_ninja_events_signal_id",
        "ninja_events",
        ["signal_id", "position"],
        postgresql_where=sa.text("signal_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("ninja_events")
    op.drop_table("ninja_requests")
    op.drop_table("ninja_links")
