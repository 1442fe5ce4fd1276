"""Consents to have vectors made by OpenAI, which have no price of answers."""

from __future__ import annotations

from alembic import op

revision = "0088"
down_revision = "0087"
branch_labels = None
depends_on = None
can_roll = False

_AMOUNTS = "daily_budget > 0 AND input_price > 0 AND (output_price > 0 OR purpose = 'embed' AND output_price = 0)"


def upgrade() -> None:
    _check("purpose IN ('answer','embed')", _AMOUNTS)


def downgrade() -> None:
    op.execute("DELETE FROM ai_consents WHERE purpose = 'embed'")
    _check("purpose IN ('answer')", "daily_budget > 0 AND input_price > 0 AND output_price > 0")


def _check(purpose: str, amounts: str) -> None:
    for name, text in (("purpose", purpose), ("amounts", amounts)):
        op.drop_constraint(op.f(f"ck_ai_consents_{name}"), "ai_consents")
        op.create_check_constraint(op.f(f"ck_ai_consents_{name}"), "ai_consents", text)
