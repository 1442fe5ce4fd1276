"""Each strategy instance has the number of its worker; before, `shard` modulo the number of workers was it.

All of them go to worker 0, which a running build of before reads in the same way, and the supervisor spreads them.
"""

from __future__ import annotations

from alembic import op

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None
can_roll = False


def upgrade() -> None:
    op.execute("UPDATE strategy_instances SET shard = 0")


def downgrade() -> None:
    """Any number is right for a build of before."""
