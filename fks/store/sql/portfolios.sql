-- name: list
-- Portfolios with their members and their newest equity, by name: the active ones ($1: archived too), or the one whose id
-- or name is $2.
SELECT p.id, p.name, p.base_currency, p.benchmark, p.state, p.version, p.created_by, p.created_at, p.updated_at,
       p.archived_at, m.accounts, m.instances, e.time AS equity_time, e.equity, e.is_complete
  FROM portfolios p
 CROSS JOIN LATERAL (
       SELECT coalesce(array_agg(a.name ORDER BY a.name) FILTER (WHERE a.name IS NOT NULL), '{}') AS accounts,
              coalesce(array_agg(m.instance_id ORDER BY m.instance_id) FILTER (WHERE m.instance_id IS NOT NULL), '{}') AS instances
         FROM portfolio_members m LEFT JOIN accounts a ON a.id = m.account_id
        WHERE m.portfolio_id = p.id AND (m.left_at IS NULL OR m.left_at = p.archived_at)) m
  LEFT JOIN LATERAL (
       SELECT time, equity, is_complete FROM portfolio_equity q WHERE q.portfolio_id = p.id ORDER BY time DESC LIMIT 1) e ON true
 WHERE ($1::bool OR p.state = 'active') AND ($2::text IS NULL OR p.id::text = $2 OR p.name = $2)
 ORDER BY p.name;

-- name: lock_members
-- Let one change of portfolios at a time see and change the members; readers are not held up.
LOCK TABLE portfolio_members IN SHARE ROW EXCLUSIVE MODE;

-- name: known_members
-- The accounts named or numbered $1 and the strategy instances $2 that there are.
SELECT a.id AS account_id, a.name, NULL AS instance_id FROM accounts a WHERE a.name = ANY($1::text[]) OR a.id::text = ANY($1)
UNION ALL
SELECT s.account_id, NULL, s.id FROM strategy_instances s WHERE s.id = ANY($2::text[]);

-- name: overlaps
-- Members whose holdings another portfolio than $1 has, or that would be in this one twice: an account has the
-- holdings of its instances.
WITH wanted AS (
    SELECT a AS account_id, NULL::text AS instance_id FROM unnest($2::int[]) a
    UNION ALL
    SELECT s.account_id, s.id FROM strategy_instances s WHERE s.id = ANY($3::text[])),
there AS (
    SELECT m.portfolio_id, coalesce(m.account_id, s.account_id) AS account_id, m.instance_id
      FROM portfolio_members m LEFT JOIN strategy_instances s ON s.id = m.instance_id
     WHERE m.left_at IS NULL AND m.portfolio_id <> $1
    UNION ALL
    SELECT $1, account_id, NULL FROM wanted WHERE instance_id IS NULL)
SELECT coalesce(w.instance_id, a.name) AS member, p.name AS portfolio
  FROM wanted w JOIN accounts a ON a.id = w.account_id
  JOIN there t ON t.account_id = w.account_id
              AND (t.instance_id IS NULL OR w.instance_id IS NULL OR t.instance_id = w.instance_id)
              AND NOT (t.portfolio_id = $1 AND w.instance_id IS NULL)
  JOIN portfolios p ON p.id = t.portfolio_id
 ORDER BY 1, 2;

-- name: add
-- Make a portfolio; no row back when the name is taken.
INSERT INTO portfolios (name, base_currency, benchmark, created_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO NOTHING RETURNING id;

-- name: change
-- Change an active portfolio that is still at version $2; a null name stays, $5: the benchmark is given.
UPDATE portfolios
   SET name = coalesce($3, name), benchmark = CASE WHEN $5::bool THEN $4 ELSE benchmark END, version = version + 1,
       updated_at = now()
 WHERE id = $1 AND version = $2 AND state = 'active'
RETURNING id;

-- name: archive
-- Archive a portfolio; its members are free for another one.
WITH done AS (
    UPDATE portfolios SET state = 'archived', version = version + 1, archived_at = now(), updated_at = now()
     WHERE id = $1 AND state = 'active' RETURNING id, archived_at)
UPDATE portfolio_members m SET left_at = done.archived_at FROM done WHERE m.portfolio_id = done.id AND m.left_at IS NULL;

-- name: leave
-- End the membership of all that are in neither list. The time is that of the change, not of its transaction: an equity
-- that was noted while the change waited is earlier.
UPDATE portfolio_members SET left_at = clock_timestamp()
 WHERE portfolio_id = $1 AND left_at IS NULL AND NOT coalesce(account_id = ANY($2::int[]), instance_id = ANY($3::text[]));

-- name: join
-- Begin the membership of all that are not members yet; the time is as in `leave`.
INSERT INTO portfolio_members (portfolio_id, account_id, instance_id, joined_at)
SELECT $1::bigint, w.account_id, w.instance_id, clock_timestamp()
  FROM (SELECT a AS account_id, NULL::text AS instance_id FROM unnest($2::int[]) a
         UNION ALL SELECT NULL, i FROM unnest($3::text[]) i) w
 WHERE NOT EXISTS (
       SELECT FROM portfolio_members m
        WHERE m.portfolio_id = $1 AND m.left_at IS NULL
          AND (m.account_id = w.account_id OR m.instance_id = w.instance_id));

-- name: balances
-- What the venues of the member accounts report.
SELECT a.name AS account, a.currency, b.currency AS asset, b.free + b.locked AS quantity
  FROM portfolio_members m JOIN accounts a ON a.id = m.account_id JOIN balances b ON b.account_id = a.id
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND b.free + b.locked <> 0
 ORDER BY a.name, b.currency;

-- name: positions
-- The positions of member accounts, and those of member instances (flat ones too: for what they realised), with their fees
-- in quote.
SELECT a.name AS account, p.instance, p.symbol, p.quantity, p.average_price, p.realized_pnl,
       p.fees + coalesce((SELECT sum(f.fee_quote) FROM trades t JOIN trade_fees f ON f.trade_id = t.id
                           WHERE t.fee <> 0 AND (t.fee_currency = '' OR NOT (starts_with(t.symbol, t.fee_currency)
                                                         OR right(t.symbol, length(t.fee_currency)) = t.fee_currency))
                             AND (t.account_id, t.venue, t.symbol, t.instance) = (p.account_id, p.venue, p.symbol, p.instance)
                             AND f.fee_rate IS NOT NULL), 0) AS fees,
       i.exchange, i.base, i.quote, i.multiplier, m.instance_id IS NOT NULL AS is_member
  FROM portfolio_members m
  JOIN positions p ON p.account_id = m.account_id OR p.instance = m.instance_id
  JOIN accounts a ON a.id = p.account_id
  LEFT JOIN LATERAL (
       SELECT n.exchange, n.base, n.quote, n.multiplier FROM instruments n
         LEFT JOIN strategy_instances s ON s.id = p.instance
        WHERE n.symbol = p.symbol ORDER BY n.exchange = s.exchange DESC NULLS LAST, n.exchange LIMIT 1) i ON true
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND (p.quantity <> 0 OR m.instance_id IS NOT NULL)
 ORDER BY a.name, p.symbol, p.instance;

-- name: before
-- The last complete equity, what flowed since in incomplete rows, and whether members changed after it.
SELECT e.equity, e.invested,
       coalesce((SELECT sum(q.net_flow) FROM portfolio_equity q WHERE q.portfolio_id = $1 AND q.time > e.time), 0) AS flows,
       EXISTS (SELECT FROM portfolio_members m
                WHERE m.portfolio_id = $1 AND greatest(m.joined_at, m.left_at) > e.time) AS are_members_changed
  FROM portfolio_equity e
 WHERE e.portfolio_id = $1 AND e.is_complete ORDER BY e.time DESC LIMIT 1;

-- name: transfers
-- Deposits less withdrawals of member accounts, by asset; those from before they were members are part of what they joined
-- with. A withdrawal's fee is a cost.
SELECT t.asset, sum(CASE t.kind WHEN 'deposit' THEN t.amount ELSE -t.amount END) AS amount
  FROM portfolio_members m JOIN transfers t ON t.account_id = m.account_id
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND t.time > m.joined_at
 GROUP BY t.asset ORDER BY t.asset;

-- name: lock
-- Let one writer at a time note the equity of an active portfolio; give the time.
SELECT now() AS at FROM portfolios WHERE id = $1 AND state = 'active' FOR NO KEY UPDATE;

-- name: note_equity
-- Write the equity of a moment, once.
INSERT INTO portfolio_equity (portfolio_id, time, equity, cash, net_flow, is_complete, invested)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING;

-- name: equity
-- The equity of a portfolio from $2 on, oldest first; at most the newest $3 rows.
SELECT * FROM (
    SELECT time, equity, cash, net_flow, is_complete FROM portfolio_equity
     WHERE portfolio_id = $1 AND time >= $2 ORDER BY time DESC LIMIT $3) newest
 ORDER BY time;
