-- name: list
-- Portfolios with their members and their newest equity, by name: the active ones ($1: archived too), or the one whose id
-- or name is $2.
SELECT p.id, p.name, p.base_currency, p.benchmark, p.state, p.version, p.day_end_min, p.created_by, p.created_at, p.updated_at,
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
-- Change an active portfolio that is still at version $2; a null name or end of the day stays, $5: the benchmark is given.
UPDATE portfolios
   SET name = coalesce($3, name), day_end_min = coalesce($6, day_end_min), benchmark = CASE WHEN $5::bool THEN $4 ELSE benchmark END, version = version + 1,
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
SELECT a.name AS account, a.venue, a.currency, b.currency AS asset, b.free + b.locked AS quantity
  FROM portfolio_members m JOIN accounts a ON a.id = m.account_id JOIN balances b ON b.account_id = a.id
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND b.free + b.locked <> 0
 ORDER BY a.name, b.currency;

-- name: positions
-- The positions of member accounts, and those of member instances (flat ones too: for what they realised), with their fees
-- in quote.
SELECT a.name AS account, p.venue, p.instance, p.symbol, p.quantity, p.average_price, p.realized_pnl,
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
        WHERE n.symbol = p.symbol ORDER BY n.exchange = s.exchange DESC NULLS LAST, n.exchange = p.venue DESC, n.exchange
        LIMIT 1) i ON true
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
  FROM portfolio_members m JOIN transfers t ON t.account_id = m.account_id AND t.kind IN ('deposit', 'withdrawal')
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND t.time > m.joined_at
 GROUP BY t.asset ORDER BY t.asset;

-- name: lock
-- Let one writer at a time note the equity of an active portfolio; give the time. It is that of the lock, not of the
-- transaction: a change of members that held the lock until then is earlier.
WITH locked AS MATERIALIZED (SELECT FROM portfolios WHERE id = $1 AND state = 'active' FOR NO KEY UPDATE)
SELECT clock_timestamp() AS at FROM locked;

-- name: equity_due
-- Portfolios whose day has ended since their newest equity, or whose member accounts had a deposit, withdrawal or income since.
SELECT p.id FROM portfolios p
 CROSS JOIN LATERAL (SELECT max(e.time) AS at FROM portfolio_equity e WHERE e.portfolio_id = p.id) newest
 WHERE p.state = 'active'
   AND (newest.at < date_trunc('day', now() - make_interval(mins => p.day_end_min), 'UTC') + make_interval(mins => p.day_end_min)
        OR EXISTS (SELECT FROM portfolio_members m JOIN transfers t ON t.account_id = m.account_id
                    WHERE m.portfolio_id = p.id AND m.left_at IS NULL AND t.time > greatest(newest.at, m.joined_at) AND t.time <= now()));

-- name: note_equity
-- Write the equity of a moment with the rates that it used, once.
WITH noted AS (
    INSERT INTO portfolio_equity (portfolio_id, time, equity, cash, net_flow, is_complete, invested, held)
    VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $6 THEN $8::jsonb END) ON CONFLICT DO NOTHING RETURNING portfolio_id, time)
INSERT INTO currency_rates (portfolio_id, time, asset, rate, rate_time, legs)
SELECT n.portfolio_id, n.time, r.asset, r.rate, r.rate_time, r.legs
  FROM noted n CROSS JOIN jsonb_to_recordset($9::jsonb) AS r (asset text, rate numeric, rate_time timestamptz, legs text[]);

-- name: equity
-- The equity of a portfolio from $2 on, oldest first; at most the newest $3 rows.
SELECT * FROM (
    SELECT time, equity, cash, net_flow, is_complete FROM portfolio_equity
     WHERE portfolio_id = $1 AND time >= $2 ORDER BY time DESC LIMIT $3) newest
 ORDER BY time;

-- name: states
-- The two complete equities with their holdings that are nearest to $2 and $3, oldest first: the first not before the last
-- change of members up to the second.
WITH known AS (
    SELECT time, equity, held FROM portfolio_equity WHERE portfolio_id = $1 AND held IS NOT NULL),
last AS (
    SELECT * FROM known ORDER BY abs(extract(epoch FROM time - $3::timestamptz)), time LIMIT 1),
changed AS (
    SELECT max(c.at) AS at FROM last, portfolio_members m CROSS JOIN LATERAL (VALUES (m.joined_at), (m.left_at)) AS c (at)
     WHERE m.portfolio_id = $1 AND c.at <= last.time),
first AS (
    SELECT known.* FROM known, last, changed
     WHERE known.time < last.time AND (changed.at IS NULL OR known.time > changed.at)
     ORDER BY abs(extract(epoch FROM known.time - $2::timestamptz)), known.time LIMIT 1)
SELECT * FROM first UNION ALL SELECT * FROM last ORDER BY time;

-- name: state_at
-- The last complete equity at or before $2 with its holdings.
SELECT time, equity, held FROM portfolio_equity
 WHERE portfolio_id = $1 AND time <= $2 AND held IS NOT NULL ORDER BY time DESC LIMIT 1;

-- name: rates
-- The rates that the equity of the moment $2 used, by asset.
SELECT asset, rate, rate_time, legs FROM currency_rates WHERE portfolio_id = $1 AND time = $2 ORDER BY asset;

-- name: fills
-- Executions of the members after $2 up to $3, oldest first, with the price of the decision and the fee in quote.
SELECT t.id, t.time, a.name AS account, t.venue, t.instance, t.symbol, i.exchange, i.base, i.quote, i.multiplier,
       CASE t.trade_type WHEN 'BUY' THEN t.quantity ELSE -t.quantity END AS quantity, t.price, s.reference_price AS decided,
       t.fee, t.fee_currency, f.fee_quote, t.realized_pnl, bool_or(m.instance_id IS NOT NULL) AS is_member
  FROM portfolio_members m
  JOIN trades t ON t.account_id = m.account_id OR t.instance = m.instance_id
  JOIN accounts a ON a.id = t.account_id
  LEFT JOIN trade_fees f ON f.trade_id = t.id
  LEFT JOIN orders o ON o.client_order_id = t.client_order_id
  LEFT JOIN signals s ON s.id = o.signal_id AND o.parent_id IS NULL
  LEFT JOIN LATERAL (
       SELECT n.exchange, n.base, n.quote, n.multiplier FROM instruments n
        WHERE n.symbol = t.symbol ORDER BY n.exchange = o.exchange DESC NULLS LAST, n.exchange LIMIT 1) i ON true
 WHERE m.portfolio_id = $1 AND m.joined_at <= $2 AND (m.left_at IS NULL OR m.left_at > $3) AND t.time > $2 AND t.time <= $3
 GROUP BY t.id, a.name, i.exchange, i.base, i.quote, i.multiplier, s.reference_price, f.fee_quote
 ORDER BY t.time, t.id;

-- name: traded
-- Executions of the present members after $2 up to $3 by quote currency. One is won or lost if it closed some of a position.
SELECT coalesce(i.quote, '') AS currency, count(*)::int AS executions,
       count(*) FILTER (WHERE t.realized_pnl > 0)::int AS won, count(*) FILTER (WHERE t.realized_pnl < 0)::int AS lost,
       coalesce(sum(t.realized_pnl) FILTER (WHERE t.realized_pnl > 0), 0) AS gained,
       coalesce(-sum(t.realized_pnl) FILTER (WHERE t.realized_pnl < 0), 0) AS given,
       sum(t.quantity * t.price * coalesce(i.multiplier, 1)) AS value
  FROM trades t
  LEFT JOIN orders o ON o.client_order_id = t.client_order_id
  LEFT JOIN LATERAL (
       SELECT n.quote, n.multiplier FROM instruments n
        WHERE n.symbol = t.symbol ORDER BY n.exchange = o.exchange DESC NULLS LAST, n.exchange LIMIT 1) i ON true
 WHERE t.time > $2 AND t.time <= $3
   AND EXISTS (SELECT FROM portfolio_members m WHERE m.portfolio_id = $1 AND m.left_at IS NULL
                 AND (m.account_id = t.account_id OR m.instance_id = t.instance))
 GROUP BY 1 ORDER BY 1;

-- name: payments
-- Deposits (positive), withdrawals and income of member accounts after $2 up to $3, oldest first; the fee of a withdrawal is a
-- cost. Interest and swaps count as funding.
SELECT t.kind || ' ' || t.reference AS reference, t.time, a.name AS account, a.venue, t.asset, t.symbol,
       CASE t.kind WHEN 'withdrawal' THEN -t.amount ELSE t.amount END AS amount, t.fee,
       CASE WHEN t.kind IN ('deposit', 'withdrawal') THEN 'flows' WHEN t.kind = 'dividend' THEN 'dividends' ELSE 'funding' END AS part
  FROM portfolio_members m JOIN transfers t ON t.account_id = m.account_id JOIN accounts a ON a.id = m.account_id
 WHERE m.portfolio_id = $1 AND m.joined_at <= $2 AND (m.left_at IS NULL OR m.left_at > $3) AND t.time > $2 AND t.time <= $3
 ORDER BY t.time, t.kind, t.reference;

-- name: splits
-- Splits of shares that member accounts, or the accounts of member instances, held, after $2 up to $3, oldest first.
SELECT DISTINCT p.effective_at AS time, p.id, a.name AS account, p.venue, p.exchange, p.symbol, i.base, i.multiplier,
       p.quantity_after - p.quantity_before AS change, p.new_shares, p.old_shares, m.instance_id IS NOT NULL AS is_member
  FROM portfolio_members m LEFT JOIN strategy_instances s ON s.id = m.instance_id
  JOIN position_splits p ON p.account_id = coalesce(m.account_id, s.account_id) AND p.error = ''
  JOIN accounts a ON a.id = p.account_id
  LEFT JOIN instruments i ON (i.exchange, i.symbol) = (p.exchange, p.symbol)
 WHERE m.portfolio_id = $1 AND m.joined_at <= $2 AND (m.left_at IS NULL OR m.left_at > $3)
   AND p.effective_at > $2 AND p.effective_at <= $3
 ORDER BY p.effective_at, p.id;

-- name: held
-- Quantities of the present members by account, venue and symbol, those that are flat and did not move since $2 left out: with
-- the exchange that was traded last there and the calendar of its bars.
WITH member AS (SELECT account_id, instance_id FROM portfolio_members WHERE portfolio_id = $1 AND left_at IS NULL),
moved AS (
    SELECT DISTINCT account_id, venue, symbol FROM trades
     WHERE time >= $2 AND (account_id IN (SELECT account_id FROM member WHERE account_id IS NOT NULL)
                           OR instance IN (SELECT instance_id FROM member WHERE instance_id IS NOT NULL))
    UNION SELECT account_id, venue, symbol FROM position_splits WHERE effective_at >= $2)
SELECT a.id AS account_id, a.name AS account, p.venue, p.symbol, sum(p.quantity) AS quantity, i.exchange, i.quote, i.multiplier,
       (SELECT s.calendar FROM series s
         WHERE (s.exchange, s.symbol) = (i.exchange, p.symbol) AND s.calendar IS NOT NULL LIMIT 1) AS calendar
  FROM member m
  JOIN positions p ON p.account_id = m.account_id OR p.instance = m.instance_id
  JOIN accounts a ON a.id = p.account_id
  LEFT JOIN LATERAL (
       SELECT o.exchange FROM orders o WHERE (o.account_id, o.venue, o.symbol) = (p.account_id, p.venue, p.symbol)
        ORDER BY o.created_at DESC LIMIT 1) traded ON true
  LEFT JOIN LATERAL (
       SELECT n.exchange, n.quote, n.multiplier FROM instruments n
        WHERE n.symbol = p.symbol ORDER BY n.exchange = traded.exchange DESC NULLS LAST, n.exchange = p.venue DESC, n.exchange
        LIMIT 1) i ON true
 WHERE p.quantity <> 0 OR (p.account_id, p.venue, p.symbol) IN (SELECT account_id, venue, symbol FROM moved)
 GROUP BY a.id, a.name, p.venue, p.symbol, i.exchange, i.quote, i.multiplier
 ORDER BY a.name, p.symbol, p.venue;

-- name: position_moves
-- Executions (less a fee in the asset) of the present members' positions from the first of the ascending times $2 on: one sum,
-- with the time that they follow, for those between two of the times.
WITH member AS (SELECT account_id, instance_id FROM portfolio_members WHERE portfolio_id = $1 AND left_at IS NULL),
summed AS (
    SELECT width_bucket(time, $2::timestamptz[]) AS part, account_id, venue, symbol, fee_currency, sum(fee) AS fee,
           sum(CASE trade_type WHEN 'BUY' THEN quantity ELSE -quantity END) AS quantity
      FROM trades
     WHERE time >= ($2::timestamptz[])[1] AND (account_id IN (SELECT account_id FROM member WHERE account_id IS NOT NULL)
                                               OR instance IN (SELECT instance_id FROM member WHERE instance_id IS NOT NULL))
     GROUP BY 1, 2, 3, 4, 5)
SELECT ($2::timestamptz[])[s.part] AS time, s.account_id, s.venue, s.symbol,
       sum(s.quantity - CASE WHEN s.fee_currency <> '' AND s.fee_currency = i.base AND i.multiplier = 1 THEN s.fee ELSE 0 END) AS quantity
  FROM summed s
  LEFT JOIN LATERAL (SELECT n.base, n.multiplier FROM instruments n WHERE n.symbol = s.symbol ORDER BY n.exchange LIMIT 1) i ON true
 GROUP BY s.part, s.account_id, s.venue, s.symbol;

-- name: position_splits
-- Splits of the present members' positions from $2 on. What a split changed is known of a whole account: of an instance there
-- is the ratio alone.
SELECT DISTINCT ON (p.id) p.effective_at AS time, p.account_id, p.venue, p.symbol,
       CASE WHEN m.account_id IS NULL THEN p.new_shares::numeric / p.old_shares END AS ratio,
       CASE WHEN m.account_id IS NULL THEN 0 ELSE p.quantity_after - p.quantity_before END AS quantity
  FROM portfolio_members m LEFT JOIN strategy_instances s ON s.id = m.instance_id
  JOIN position_splits p ON p.account_id = coalesce(m.account_id, s.account_id)
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND p.effective_at >= $2 AND p.error = '';

-- name: booked
-- What is booked of dividends, splits, funding, interest and swaps on member accounts in [$2, $3): splits that were applied, income
-- that a person recorded, and differences of a balance that a person adopted or explained by the word dividend or funding; of
-- both, the first counts.
SELECT a.name AS account, t.kind, t.asset AS currency, t.amount
  FROM portfolio_members m JOIN transfers t ON t.account_id = m.account_id JOIN accounts a ON a.id = m.account_id
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND t.kind NOT IN ('deposit', 'withdrawal') AND t.time >= $2 AND t.time < $3
UNION ALL
SELECT a.name AS account, 'split' AS kind, p.symbol AS currency, p.quantity_after - p.quantity_before AS amount
  FROM portfolio_members m JOIN position_splits p ON p.account_id = m.account_id JOIN accounts a ON a.id = m.account_id
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND p.error = '' AND p.effective_at >= $2 AND p.effective_at < $3
UNION ALL
SELECT a.name, lower(w.kind[1]), i.subject, (i.payload ->> 'difference')::numeric
  FROM portfolio_members m JOIN incidents i ON i.account_id = m.account_id JOIN accounts a ON a.id = m.account_id
  JOIN LATERAL regexp_match(i.resolution, 'dividend|funding', 'i') AS w(kind) ON w.kind IS NOT NULL
 WHERE m.portfolio_id = $1 AND m.left_at IS NULL AND i.kind = 'drift' AND i.closed_at IS NOT NULL AND i.closed_by <> ''
   AND (i.resolution LIKE 'adopted:%' OR i.resolution LIKE 'explained:%') AND i.opened_at >= $2 AND i.opened_at < $3;

-- name: limits
-- The limits of a portfolio with what was measured last.
SELECT kind, value, age_max_s, observed, measured_at, missing, set_by, updated_at
  FROM portfolio_limits WHERE portfolio_id = $1 ORDER BY kind;

-- name: note_limit
-- Write a measurement; an older one than is there changes nothing.
UPDATE portfolio_limits SET observed = $3, measured_at = $4, missing = $5
 WHERE portfolio_id = $1 AND kind = $2 AND (measured_at IS NULL OR measured_at <= $4);

-- name: forget_measurements
-- Make the limits of a portfolio not known until a measurement that begins later: the members changed.
UPDATE portfolio_limits SET observed = NULL, measured_at = clock_timestamp(), missing = 'members changed' WHERE portfolio_id = $1;

-- name: set_limits
-- Make the kinds $2 with the values $3 and ages $4 all limits of a portfolio; a limit that stays keeps its measurement.
WITH given AS (SELECT * FROM unnest($2::text[], $3::numeric[], $4::float8[]) AS g (kind, value, age_max_s)),
gone AS (DELETE FROM portfolio_limits l WHERE l.portfolio_id = $1 AND l.kind <> ALL ($2::text[]))
INSERT INTO portfolio_limits (portfolio_id, kind, value, age_max_s, set_by)
SELECT $1, kind, value, age_max_s, $5 FROM given
ON CONFLICT (portfolio_id, kind) DO UPDATE
   SET value = excluded.value, age_max_s = excluded.age_max_s, set_by = excluded.set_by, updated_at = now();
