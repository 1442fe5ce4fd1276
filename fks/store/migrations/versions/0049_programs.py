"""API keys and webhooks trade instances of their own: their signals, orders, executions and positions move there.

Before, all of them and persons shared the instance "". A symbol of which a kill or an exit is closing that instance
stays as it is: the position closed there is then a person's. So does one of which a program has sold more than it had:
the oldest entry closed first, so that the stop of the part that is left may belong to any of them. A program's part of
a position is the sum of its own executions, at most the whole position, at its average price.
"""

from __future__ import annotations

from alembic import op

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None
can_roll = False

#: Signals of programs, and the instance of each; copies of them are held under `copy:`.
PROGRAMS = """CREATE TEMP TABLE programs ON COMMIT DROP AS
SELECT s.id, CASE WHEN s.venue LIKE 'ninja:%' THEN 'copy:' ELSE '' END
           || CASE WHEN s.name LIKE 'webhook:%' THEN '' ELSE 'key:' END || s.name AS instance
  FROM (SELECT *, substr(source, length('principal:') + 1) AS name FROM signals WHERE source LIKE 'principal:%') s
 WHERE s.instance = '' AND s.kind <> 'exit' AND s.name NOT LIKE 'user:%' AND split_part(s.name, '@', 1) <> 'cli'
   AND NOT EXISTS (SELECT FROM kill_switch WHERE is_engaged)
   AND NOT EXISTS (
       SELECT FROM signals e WHERE e.account_id = s.account_id AND e.venue = s.venue AND e.symbol = s.symbol
          AND e.instance = '' AND e.kind = 'exit' AND e.state IN ('pending', 'ready'))
   AND NOT EXISTS (
       SELECT FROM orders o WHERE o.account_id = s.account_id AND o.venue = s.venue AND o.symbol = s.symbol
          AND o.instance = '' AND o.role IN ('exit', 'kill')
          AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL'))
   AND coalesce((
       SELECT o.role FROM orders o WHERE o.account_id = s.account_id AND o.venue = s.venue AND o.symbol = s.symbol
          AND o.instance = '' AND o.role IN ('entry', 'order', 'exit', 'kill') AND o.state <> 'DENIED'
        ORDER BY o.created_at DESC LIMIT 1), '') NOT IN ('exit', 'kill')"""

#: The sum of the executions of each program, net of fees in what it trades.
NET = """CREATE TEMP TABLE net ON COMMIT DROP AS
    SELECT t.account_id, t.venue, t.symbol, p.instance,
           sum(CASE WHEN upper(t.trade_type) = 'BUY' THEN t.quantity ELSE -t.quantity END
               - CASE WHEN t.fee_currency = i.base THEN t.fee ELSE 0 END) AS quantity
      FROM trades t JOIN orders o ON o.client_order_id = t.client_order_id JOIN programs p ON p.id = o.signal_id
      LEFT JOIN instruments i ON i.exchange = o.exchange AND i.symbol = o.symbol
     WHERE o.instance = ''
     GROUP BY t.account_id, t.venue, t.symbol, p.instance"""

#: A program that is on the other side of the position sold, or bought back, another's part of it.
SHARED = """DELETE FROM programs p USING signals s, net n JOIN positions h USING (account_id, venue, symbol)
 WHERE s.id = p.id AND h.instance = '' AND n.quantity * h.quantity < 0
   AND (n.account_id, n.venue, n.symbol) = (s.account_id, s.venue, s.symbol)"""

PARTS = """CREATE TEMP TABLE parts ON COMMIT DROP AS
WITH own AS (
    SELECT n.*, h.quantity AS held, h.average_price,
           sum(abs(n.quantity)) OVER (PARTITION BY n.account_id, n.venue, n.symbol ORDER BY n.instance)
               - abs(n.quantity) AS before
      FROM net n JOIN positions h USING (account_id, venue, symbol)
     WHERE h.instance = '' AND n.quantity * h.quantity > 0
       AND EXISTS (SELECT FROM programs p JOIN signals s ON s.id = p.id
                    WHERE (s.account_id, s.venue, s.symbol) = (n.account_id, n.venue, n.symbol)))
SELECT account_id, venue, symbol, instance, average_price,
       sign(held) * least(abs(quantity), greatest(abs(held) - before, 0)) AS quantity
  FROM own"""

MOVES = (
    """INSERT INTO positions (account_id, venue, symbol, instance, quantity, average_price)
SELECT account_id, venue, symbol, instance, quantity, average_price FROM parts WHERE quantity <> 0""",
    """UPDATE positions h SET quantity = h.quantity - p.quantity,
       average_price = CASE WHEN h.quantity = p.quantity THEN 0 ELSE h.average_price END
  FROM (SELECT account_id, venue, symbol, sum(quantity) AS quantity FROM parts GROUP BY 1, 2, 3) p
 WHERE h.instance = '' AND (h.account_id, h.venue, h.symbol) = (p.account_id, p.venue, p.symbol)""",
    """UPDATE trades t SET instance = p.instance FROM orders o JOIN programs p ON p.id = o.signal_id
 WHERE o.client_order_id = t.client_order_id AND o.instance = '' AND t.instance = ''""",
    "UPDATE orders o SET instance = p.instance FROM programs p WHERE p.id = o.signal_id AND o.instance = ''",
    "UPDATE signals s SET instance = p.instance FROM programs p WHERE p.id = s.id",
    "DROP TABLE programs, net, parts",
)

BACK = (
    """INSERT INTO positions AS h (account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees)
SELECT account_id, venue, symbol, '', sum(quantity),
       coalesce(sum(quantity * average_price) / nullif(sum(quantity), 0), 0), sum(realized_pnl), sum(fees)
  FROM positions WHERE instance ~ '^(copy:)?(key|webhook):' GROUP BY account_id, venue, symbol
ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE
   SET average_price = coalesce((h.quantity * h.average_price + excluded.quantity * excluded.average_price)
                                / nullif(h.quantity + excluded.quantity, 0), 0),
       quantity = h.quantity + excluded.quantity, realized_pnl = h.realized_pnl + excluded.realized_pnl,
       fees = h.fees + excluded.fees""",
    "DELETE FROM positions WHERE instance ~ '^(copy:)?(key|webhook):'",
    "UPDATE trades SET instance = '' WHERE instance ~ '^(copy:)?(key|webhook):'",
    "UPDATE orders SET instance = '' WHERE instance ~ '^(copy:)?(key|webhook):'",
    "UPDATE signals SET instance = '' WHERE instance ~ '^(copy:)?(key|webhook):'",
)


def upgrade() -> None:
    for statement in (PROGRAMS, NET, SHARED, PARTS, *MOVES):
        op.execute(statement)


def downgrade() -> None:
    for statement in BACK:
        op.execute(statement)
