-- name: accounts
-- By enabled account with a balance before $2: its equity at both ends of the period (the last one before each, else the first inside)
-- and what deposits and withdrawals moved between them.
SELECT a.name AS account, a.venue, a.mode, a.currency, base.equity AS equity_start, newest.equity AS equity_end,
       coalesce(moved.amount, 0) AS transfers, newest.equity - base.equity - coalesce(moved.amount, 0) AS profit
  FROM accounts a
  JOIN LATERAL (SELECT equity FROM balance_history h
                 WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time < $2 ORDER BY h.time DESC, h.id DESC LIMIT 1) newest ON true
  JOIN LATERAL (
       SELECT equity FROM (
              (SELECT 1 AS choice, equity FROM balance_history h
                WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time < $1 ORDER BY h.time DESC, h.id DESC LIMIT 1)
               UNION ALL
              (SELECT 2, equity FROM balance_history h
                WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time >= $1 ORDER BY h.time, h.id LIMIT 1)) found
        ORDER BY choice LIMIT 1) base ON true
  LEFT JOIN LATERAL (
       SELECT sum(step) AS amount FROM (
              SELECT cause, time, equity - lag(equity) OVER (ORDER BY time, id) AS step FROM balance_history h
               WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time < $2 AND h.time >= least($1::timestamptz,
                     (SELECT max(b.time) FROM balance_history b WHERE b.account_id = a.id AND b.equity IS NOT NULL AND b.time < $1))) steps
        WHERE cause IN ('deposit', 'withdrawal') AND time >= $1) moved ON true
 WHERE a.is_enabled AND ($3::int[] IS NULL OR a.id = ANY($3))
 ORDER BY a.id;

-- name: curves
-- The last equity of each account in each span of $4 seconds of the period, oldest first.
SELECT DISTINCT ON (a.id, date_bin(make_interval(secs => $4), h.time, $1)) a.name AS account, h.time, h.equity
  FROM balance_history h JOIN accounts a ON a.id = h.account_id
 WHERE h.equity IS NOT NULL AND h.time >= $1 AND h.time < $2 AND a.is_enabled AND ($3::int[] IS NULL OR a.id = ANY($3))
 ORDER BY a.id, date_bin(make_interval(secs => $4), h.time, $1), h.time DESC, h.id DESC;

-- name: trades
-- The executions of the period by account, instance and symbol. An execution that closes some of a position has a profit; fees are in
-- the quote currency, and fees_unvalued counts those without a rate, which are not in the sum.
SELECT a.name AS account, t.instance, t.symbol, count(*) AS executions,
       count(*) FILTER (WHERE t.realized_pnl > 0) AS won, count(*) FILTER (WHERE t.realized_pnl < 0) AS lost,
       sum(t.realized_pnl) AS realized, max(t.realized_pnl) FILTER (WHERE t.realized_pnl > 0) AS best,
       min(t.realized_pnl) FILTER (WHERE t.realized_pnl < 0) AS worst,
       coalesce(sum(fee.value), 0) AS fees, count(*) FILTER (WHERE t.fee <> 0 AND fee.value IS NULL) AS fees_unvalued
  FROM trades t JOIN accounts a ON a.id = t.account_id
  LEFT JOIN trade_fees f ON f.trade_id = t.id
 CROSS JOIN LATERAL (SELECT coalesce(f.fee_quote, fee_value(t.symbol, t.price, t.fee, t.fee_currency)) AS value) fee
 WHERE t.time >= $1 AND t.time < $2 AND ($3::int[] IS NULL OR t.account_id = ANY($3) OR t.instance = ANY($4::text[]))
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- name: denials
-- How often each code denied a signal of the period.
SELECT code, count(*) AS count FROM signals
 WHERE state = 'denied' AND code IS NOT NULL AND created_at >= $1 AND created_at < $2
   AND ($3::int[] IS NULL OR account_id = ANY($3) OR instance = ANY($4::text[]))
 GROUP BY code ORDER BY 2 DESC, 1;

-- name: alerts
-- How many alerts of each severity were raised in the period, reports excepted, and how many of them are open.
SELECT severity, count(*) AS count, count(*) FILTER (WHERE resolved_at IS NULL AND acknowledged_at IS NULL) AS open
  FROM alerts WHERE time >= $1 AND time < $2 AND event <> 'report' GROUP BY severity ORDER BY severity;

-- name: closed
-- Closed trades of the journal in the period by account: won and lost after fees, and their profit in the account's currency.
SELECT a.name AS account, a.currency, count(*)::int AS count, count(*) FILTER (WHERE e.realized > e.fees)::int AS won,
       count(*) FILTER (WHERE e.realized < e.fees)::int AS lost, coalesce(round(sum((e.realized - e.fees) * e.rate), 8), 0) AS profit,
       count(*) FILTER (WHERE e.rate IS NULL)::int AS unvalued
  FROM journal_entries e JOIN accounts a ON a.id = e.account_id
 WHERE NOT e.is_void AND e.exit_time >= $1 AND e.exit_time < $2
   AND ($3::int[] IS NULL OR e.account_id = ANY($3) OR e.instance = ANY($4::text[]))
 GROUP BY 1, 2 ORDER BY 1, 2;

-- name: realized
-- Profit of all closed trades before $2 by account, after fees, in the account's currency; of them those since $1.
SELECT a.name AS account, a.currency, coalesce(round(sum((e.realized - e.fees) * e.rate), 8), 0) AS profit,
       coalesce(round(sum((e.realized - e.fees) * e.rate) FILTER (WHERE e.exit_time >= $1), 8), 0) AS year_profit,
       count(*) FILTER (WHERE e.rate IS NULL)::int AS unvalued
  FROM journal_entries e JOIN accounts a ON a.id = e.account_id
 WHERE NOT e.is_void AND e.exit_time < $2 AND ($3::int[] IS NULL OR e.account_id = ANY($3) OR e.instance = ANY($4::text[]))
 GROUP BY 1, 2 ORDER BY 1, 2;

-- name: members
-- The accounts and the strategy instances that are members of a portfolio.
SELECT coalesce(array_agg(account_id) FILTER (WHERE account_id IS NOT NULL), '{}') AS accounts,
       coalesce(array_agg(instance_id) FILTER (WHERE instance_id IS NOT NULL), '{}') AS instances
  FROM portfolio_members WHERE portfolio_id = $1 AND left_at IS NULL;

-- name: equity
-- Equity of a portfolio in the period: the first row is the last one before it, if there is one.
SELECT time, equity, net_flow, is_complete FROM portfolio_equity
 WHERE portfolio_id = $1 AND time < $3
   AND time >= coalesce((SELECT max(b.time) FROM portfolio_equity b WHERE b.portfolio_id = $1 AND b.time <= $2), $2)
 ORDER BY time;

-- name: known
-- Those of the reports $1 that are stored.
SELECT id FROM reports WHERE id = ANY($1::uuid[]);

-- name: issue
-- Store a report and the notice that alert channels deliver, both once. A row back: it is new.
WITH raised AS (
    INSERT INTO alerts (time, severity, event, message, component, payload, rule, source_ref, resolved_at, resolve_routed_at)
    SELECT $8, 'info', 'report', $7, 'scheduler', jsonb_build_object('report', $1::uuid, 'is_late', $10::bool), 'report', $9, now(), now()
     WHERE NOT EXISTS (SELECT FROM reports WHERE id = $1)
    ON CONFLICT DO NOTHING RETURNING id)
INSERT INTO reports (id, portfolio_id, period, start_time, end_time, document, is_late, alert_id, created_at)
SELECT $1, $2, $3, $4, $5, $6, $10, coalesce((SELECT id FROM raised), (SELECT id FROM alerts WHERE source_ref = $9)), $8
ON CONFLICT DO NOTHING RETURNING id;

-- name: stored
-- Stored reports, newest first below seq $1, or the one with id $2, with what became of each message. A message is late that was
-- sent more than $3 seconds after its report was made, or of a report that was late itself.
SELECT r.id, r.seq, p.name AS portfolio, r.period, r.start_time AS start, r.end_time AS "end", r.created_at, r.is_late, r.alert_id,
       CASE WHEN $2::uuid IS NULL THEN NULL ELSE r.document END AS document,
       coalesce((SELECT jsonb_agg(jsonb_build_object(
                     'channel', d.channel, 'state', d.state, 'attempts', d.attempts, 'error', d.error, 'finished_at', d.finished_at,
                     'is_late', r.is_late OR coalesce(d.finished_at, now()) > d.created_at + make_interval(secs => $3)) ORDER BY d.channel)
                   FROM alert_delivery_items i JOIN alert_deliveries d ON d.id = i.delivery_id
                  WHERE i.alert_id = r.alert_id AND i.about = 'raised'), '[]') AS deliveries
  FROM reports r LEFT JOIN portfolios p ON p.id = r.portfolio_id
 WHERE ($1::bigint IS NULL OR r.seq < $1) AND ($2::uuid IS NULL OR r.id = $2) AND ($4::text IS NULL OR p.name = $4)
 ORDER BY r.seq DESC LIMIT $5;

-- name: lock_notice
-- Let one request at a time deliver a report.
SELECT id FROM alerts WHERE id = $1 FOR UPDATE;

-- name: deliver
-- Put a report into the outbox of a channel, once; a message that was given up is tried again. A row back: it waits now.
WITH known AS (SELECT delivery_id FROM alert_delivery_items WHERE alert_id = $1 AND channel = $2 AND about = 'raised'),
     again AS (UPDATE alert_deliveries SET state = 'queued', not_before = now(), created_at = now(), lost = 0, finished_at = NULL
                WHERE id IN (SELECT delivery_id FROM known) AND state IN ('failed', 'unknown') RETURNING id),
     made AS (INSERT INTO alert_deliveries (channel, about, rule) SELECT $2, 'raised', 'report'
               WHERE NOT EXISTS (SELECT FROM known) RETURNING id),
     item AS (INSERT INTO alert_delivery_items (alert_id, channel, about, delivery_id) SELECT $1, $2, 'raised', id FROM made)
SELECT id FROM again UNION ALL SELECT id FROM made;
