"""Versions of embedders, built beside the one in force, with an index each; deployments that embed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from fks.store.routines import VECTOR_INDEXES

revision = "0073"
down_revision = "0072"
branch_labels = None
depends_on = None
can_roll = False

_ENGINES = "engine IN ('llama_cpp','ollama','openai_compatible')"


def upgrade() -> None:
    op.add_column("ai_embedders", sa.Column("deployment", sa.Text(), nullable=False, server_default=""))
    op.add_column("ai_embedders", sa.Column("state", sa.Text(), nullable=False, server_default="building"))
    op.add_column("ai_embedders", sa.Column("recall", sa.REAL()))
    op.execute("UPDATE ai_embedders SET state = 'active' WHERE id = (SELECT max(id) FROM ai_embedders)")
    op.execute("DELETE FROM ai_embedders WHERE state <> 'active'")
    op.create_check_constraint(
        op.f("ck_ai_embedders_state"), "ai_embedders", "state IN ('building','active','refused')"
    )
    op.create_index(
        "ix_ai_embedders_active", "ai_embedders", ["state"], unique=True, postgresql_where=sa.text("state = 'active'")
    )
    op.add_column("ai_deployments", sa.Column("purpose", sa.Text(), nullable=False, server_default="answer"))
    op.create_check_constraint(op.f("ck_ai_deployments_purpose"), "ai_deployments", "purpose IN ('answer','embed')")
    op.drop_constraint(op.f("ck_ai_deployments_engine"), "ai_deployments")
    op.create_check_constraint(
        op.f("ck_ai_deployments_engine"), "ai_deployments", _ENGINES.replace("'ollama'", "'onnx','ollama'")
    )
    for statement in VECTOR_INDEXES:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM ai_embedders")  # older builds have no state, and one embedder; they fit it again
    op.execute("SELECT ai_drop_vector_indexes()")
    for name in ("ai_index_vectors", "ai_drop_vector_indexes", "ai_nearest"):
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DELETE FROM ai_deployments WHERE engine = 'onnx' OR purpose = 'embed'")
    op.drop_constraint(op.f("ck_ai_deployments_engine"), "ai_deployments")
    op.create_check_constraint(op.f("ck_ai_deployments_engine"), "ai_deployments", _ENGINES)
    op.drop_column("ai_deployments", "purpose")
    op.drop_index("ix_ai_embedders_active", "ai_embedders")
    for column in ("recall", "state", "deployment"):
        op.drop_column("ai_embedders", column)
