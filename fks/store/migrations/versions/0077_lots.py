"""Lots and disposals as rows, for programs that read them by SQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0077"
down_revision = "0075"
branch_labels = None
depends_on = None

_BOOK = ("currency", "method", "is_shared")


def _of_book(table: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        table,
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(
            _BOOK,
            [f"lot_books.{name}" for name in _BOOK],
            name=op.f(f"fk_{table}_currency_lot_books"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*_BOOK, "number", name=op.f(f"pk_{table}")),
    )


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "lot_books",
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("unknown_symbols", ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'::text[]")),
        sa.Column("rebuilt_at", time, nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("method IN ('fifo', 'average')", name=op.f("ck_lot_books_method")),
        sa.PrimaryKeyConstraint(*_BOOK, name=op.f("pk_lot_books")),
    )
    _of_book(
        "lots",
        sa.Column("acquired_at", time, nullable=True),
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("cost", sa.Numeric(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
    )
    _of_book(
        "lot_disposals",
        sa.Column("disposed_at", time, nullable=False),
        sa.Column("disposal_id", sa.Text(), nullable=False),
        sa.Column("acquired_at", time, nullable=True),
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("realized_at", time, nullable=False),
        sa.Column("quantity", sa.Numeric(), nullable=False),
        sa.Column("proceeds", sa.Numeric(), nullable=True),
        sa.Column("cost", sa.Numeric(), nullable=True),
        sa.Column("gain", sa.Numeric(), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    for table in ("lot_disposals", "lots", "lot_books"):
        op.drop_table(table)
