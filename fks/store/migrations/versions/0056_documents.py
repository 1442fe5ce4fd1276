"""Documents in chunks, the model fitted on them, and its vectors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None

_SPACED = "translate({0}, '!\"#$%&''()*+,-./:;<=>?@[\\]^_`{{|}}~', repeat(' ', 32))"


def upgrade() -> None:
    op.create_table(
        "ai_documents",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("added_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("kind IN ('text','markdown','html')", name=op.f("ck_ai_documents_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_documents")),
        sa.UniqueConstraint("collection", "name", name=op.f("uq_ai_documents_collection_name")),
    )
    op.create_table(
        "ai_chunks",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("document_id", sa.UUID(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("headings", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("heading", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("start_at", sa.Integer(), nullable=False),
        sa.Column("end_at", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed(
                f"setweight(to_tsvector('english'::regconfig, {_SPACED.format('heading')}), 'A')"
                f" || setweight(to_tsvector('english'::regconfig, {_SPACED.format('text')}), 'D')",
                persisted=True,
            ),
        ),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["ai_documents.id"],
            name=op.f("fk_ai_chunks_document_id_ai_documents"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_chunks")),
    )
    op.create_index("ix_ai_chunks_document", "ai_chunks", ["document_id", "ordinal"])
    op.create_index("ix_ai_chunks_search", "ai_chunks", ["search"], postgresql_using="gin")
    op.create_table(
        "ai_embedders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dimensions", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("model", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ai_embedders")),
    )
    op.create_table(
        "ai_embeddings",
        sa.Column("embedder_id", sa.BigInteger(), nullable=False),
        sa.Column("chunk_id", sa.UUID(), nullable=False),
        sa.Column("embedding", postgresql.ARRAY(sa.REAL()), nullable=False),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["ai_chunks.id"], name=op.f("fk_ai_embeddings_chunk_id_ai_chunks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["embedder_id"],
            ["ai_embedders.id"],
            name=op.f("fk_ai_embeddings_embedder_id_ai_embedders"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("embedder_id", "chunk_id", name=op.f("pk_ai_embeddings")),
    )
    op.create_index("ix_ai_embeddings_chunk", "ai_embeddings", ["chunk_id"])


def downgrade() -> None:
    for table in ("ai_embeddings", "ai_embedders", "ai_chunks", "ai_documents"):
        op.drop_table(table)
    # every upgrade installs pgvector (fks.store.routines); it stays where other tables use it
    op.execute(
        "DO $do$ BEGIN DROP EXTENSION IF EXISTS vector;"
        " EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL; END $do$"
    )
