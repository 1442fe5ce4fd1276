"""Access: users, sessions, lockouts, limits and accounts of tokens, and the append-only audit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None
#: an earlier build does not know scope `approve`
can_roll = False

#: The audit's rows can be added and read, by every role, and changed by none: not by its owner either.
AUDIT_GUARD = (
    """
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$
""",
    "CREATE TRIGGER audit_log_rows BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_log_truncate BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_rows",
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_truncate",
)


def _time(name: str, *, null: bool = False, now: bool = False) -> sa.Column[Any]:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=null)


def _text(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), server_default=default, nullable=null)


def upgrade() -> None:
    op.add_column("api_tokens", _time("expires_at", null=True))
    op.add_column("api_tokens", sa.Column("accounts", postgresql.ARRAY(sa.Integer()), nullable=True))
    op.add_column("api_tokens", sa.Column("limit_per_hour", sa.Integer(), nullable=True))
    op.add_column("api_tokens", _text("created_by", default=""))
    # until now scope signal could approve signals: such tokens keep that right under its own name
    op.execute("UPDATE api_tokens SET scope = 'approve' WHERE scope = 'signal'")
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        _text("name"),
        _text("password_hash"),
        _text("scope"),
        sa.Column("accounts", postgresql.ARRAY(sa.Integer()), nullable=True),
        _text("totp_secret", null=True),
        _time("totp_confirmed_at", null=True),
        sa.Column("totp_step", sa.BigInteger(), server_default="0", nullable=False),
        _text("created_by", default=""),
        _time("created_at", now=True),
        _time("password_changed_at", now=True),
        _time("disabled_at", null=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        _text("kind"),
        _text("cookie_hash", null=True),
        sa.Column("has_totp", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _text("address", default=""),
        _time("created_at", now=True),
        _time("last_used_at", now=True),
        _time("expires_at"),
        _time("revoked_at", null=True),
        _text("revoked_reason", null=True),
        sa.CheckConstraint("kind IN ('cookie','token')", name=op.f("ck_sessions_kind")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("cookie_hash", name=op.f("uq_sessions_cookie_hash")),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        _text("token_hash"),
        sa.Column("session_id", postgresql.UUID(), nullable=False),
        _time("created_at", now=True),
        _time("used_at", null=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_refresh_tokens_session_id_sessions"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_refresh_tokens")),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_table(
        "login_failures",
        _text("key"),
        sa.Column("failures", sa.Integer(), nullable=False),
        _time("first_at"),
        _time("locked_until", null=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_login_failures")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _time("at", now=True),
        _text("request_id"),
        _text("phase"),
        _text("actor"),
        _text("kind"),
        _text("action"),
        _text("object", default=""),
        sa.Column("status", sa.Integer(), nullable=True),
        _text("address", default=""),
        sa.Column("detail", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.CheckConstraint("phase IN ('requested','answered','noted')", name=op.f("ck_audit_log_phase")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    for statement in AUDIT_GUARD:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("audit_log")
    op.execute("DROP FUNCTION audit_refuse()")
    for table in ("login_failures", "refresh_tokens", "sessions", "users"):
        op.drop_table(table)
    op.execute("UPDATE api_tokens SET scope = 'signal' WHERE scope = 'approve'")
    for column in ("created_by", "limit_per_hour", "accounts", "expires_at"):
        op.drop_column("api_tokens", column)
