"""Alerting: rules, silences, channels and deliveries of alerts, and the person that acknowledged one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def _time(name: str, *, null: bool = False, now: bool = False) -> sa.Column[Any]:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=null)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), server_default=default, nullable=null)


def _flag(name: str, default: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), server_default=sa.text(default), nullable=False)


ALERT_COLUMNS = ("rule", "dedupe_key", "source_ref", "acknowledged_by")
ALERT_TIMES = ("acknowledged_at", "routed_at", "resolve_routed_at", "escalated_at")


def upgrade() -> None:
    for name in ALERT_COLUMNS:
        op.add_column("alerts", _text(name, null=True))
    for name in ALERT_TIMES:
        op.add_column("alerts", _time(name, null=True))
    # alerts from before there was a delivery are not delivered now
    op.execute("UPDATE alerts SET routed_at = time, resolve_routed_at = time, escalated_at = time")
    op.create_index("ix_alerts_unrouted", "alerts", ["id"], postgresql_where=sa.text("routed_at IS NULL"))
    op.create_index("ix_alerts_open", "alerts", ["id"], postgresql_where=sa.text("resolved_at IS NULL"))
    op.create_index(
        "ix_alerts_resolve_unrouted",
        "alerts",
        ["id"],
        postgresql_where=sa.text("resolved_at IS NOT NULL AND resolve_routed_at IS NULL"),
    )
    op.create_index(
        "uq_alerts_open_key",
        "alerts",
        ["dedupe_key"],
        unique=True,
        postgresql_where=sa.text("dedupe_key IS NOT NULL AND resolved_at IS NULL"),
    )
    op.create_index(
        "uq_alerts_source_ref",
        "alerts",
        ["source_ref"],
        unique=True,
        postgresql_where=sa.text("source_ref IS NOT NULL"),
    )
    op.create_table(
        "alert_rules",
        _text("name"),
        sa.Column("spec", postgresql.JSONB(), nullable=False),
        _flag("is_removed", "false"),
        sa.Column("revision", sa.Integer(), server_default="1", nullable=False),
        _text("changed_by", default=""),
        _time("changed_at", now=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_alert_rules")),
    )
    op.create_table(
        "alert_silences",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        _text("event", default="*"),
        _text("component", default="*"),
        _time("until"),
        _text("reason", default=""),
        _text("created_by", default=""),
        _time("created_at", now=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_silences")),
    )
    op.create_table(
        "alert_channels",
        _text("name"),
        _text("kind"),
        _text("address"),
        _text("base", null=True),
        _text("severity_min", default="warning"),
        _flag("is_enabled", "true"),
        _text("created_by", default=""),
        _time("created_at", now=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_alert_channels")),
    )
    op.create_table(
        "alert_deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _text("channel"),
        _text("about"),
        _text("rule", default=""),
        _text("state", default="queued"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost", sa.Integer(), server_default="0", nullable=False),
        _flag("is_repeat", "false"),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        _time("not_before", now=True),
        _text("error", null=True),
        _time("created_at", now=True),
        _time("claimed_at", null=True),
        _time("finished_at", null=True),
        sa.CheckConstraint("about IN ('raised','resolved','escalated','test')", name=op.f("ck_alert_deliveries_about")),
        sa.CheckConstraint(
            "state IN ('queued','sending','sent','failed','unknown')", name=op.f("ck_alert_deliveries_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_deliveries")),
    )
    op.create_index(
        "ix_alert_deliveries_open",
        "alert_deliveries",
        ["channel", "not_before"],
        postgresql_where=sa.text("state IN ('queued','sending')"),
    )
    op.create_index("ix_alert_deliveries_created_at", "alert_deliveries", ["created_at"])
    op.create_table(
        "alert_delivery_items",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        _text("channel"),
        _text("about"),
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_alert_delivery_items_alert_id_alerts"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["alert_deliveries.id"],
            name=op.f("fk_alert_delivery_items_delivery_id_alert_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("alert_id", "channel", "about", name=op.f("pk_alert_delivery_items")),
    )
    op.create_index("ix_alert_delivery_items_delivery_id", "alert_delivery_items", ["delivery_id"])


def downgrade() -> None:
    for table in ("alert_delivery_items", "alert_deliveries", "alert_channels", "alert_silences", "alert_rules"):
        op.drop_table(table)
    for name in ("uq_alerts_source_ref", "uq_alerts_open_key", "ix_alerts_resolve_unrouted"):
        op.drop_index(name, table_name="alerts")
    for name in ("ix_alerts_open", "ix_alerts_unrouted"):
        op.drop_index(name, table_name="alerts")
    for name in (*ALERT_TIMES, *ALERT_COLUMNS):
        op.drop_column("alerts", name)
