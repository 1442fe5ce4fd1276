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
 WHERE t.time >= $1 AND t.time < $2 AND ($3::int[] IS NULL OR t.account_id = ANY($3))
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- name: denials
-- How often each code denied a signal of the period.
SELECT code, count(*) AS count FROM signals
 WHERE state = 'denied' AND code IS NOT NULL AND created_at >= $1 AND created_at < $2
   AND ($3::int[] IS NULL OR account_id = ANY($3))
 GROUP BY code ORDER BY 2 DESC, 1;

-- name: alerts
-- How many alerts of each severity were raised in the period, reports excepted, and how many of them are open.
SELECT severity, count(*) AS count, count(*) FILTER (WHERE resolved_at IS NULL AND acknowledged_at IS NULL) AS open
  FROM alerts WHERE time >= $1 AND time < $2 AND event <> 'report' GROUP BY severity ORDER BY severity;
