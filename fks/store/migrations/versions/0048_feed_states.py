"""Feeds as readers see them: LIVE only while the collector holds the lease that it wrote them under."""

from __future__ import annotations

from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None

VIEW = """CREATE VIEW feed_states AS
SELECT f.exchange, f.symbol, f.timeframe, f.sealed_through, f.last_trade_id, f.last_message_at, f.last_price, f.epoch,
       f.updated_at, h.is_held, CASE WHEN f.state = 'LIVE' AND NOT h.is_held THEN 'STALE' ELSE f.state END AS state
  FROM feeds f
 CROSS JOIN LATERAL (SELECT EXISTS (
       SELECT FROM leases l
        WHERE l.name = 'collector:' || f.exchange AND l.epoch = f.epoch AND l.expires_at > now()) AS is_held) h"""


def upgrade() -> None:
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW feed_states")
