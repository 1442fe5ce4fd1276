-- name: instances
-- Every strategy instance with its account.
SELECT s.id, s.strategy, s.params, s.params_version, s.exchange, s.symbol, s.timeframe, a.name AS account, s.venue, s.sizing,
       s.size, s.approval, s.valid_for_s, s.is_enabled, s.shard, s.state, s.error, s.anchor_time, s.cursor_time,
       s.last_target, s.updated_at
  FROM strategy_instances s JOIN accounts a ON a.id = s.account_id ORDER BY s.id;

-- name: signals
-- A page of signals, newest first, with their account's name; of the accounts $7.
SELECT s.id, s.seq, s.source, s.instance, a.name AS account, s.venue, s.exchange, s.symbol, s.timeframe, s.ts_event, s.kind,
       s.side, s.type, s.size, s.limit_price, s.stop_price, s.stop_loss, s.take_profit, s.time_in_force, s.reference_price,
       s.valid_until, s.reason, s.state,
       coalesce(s.code, (SELECT o.code FROM orders o WHERE o.signal_id = s.id AND o.code = 'RELAYED' LIMIT 1)) AS code, s.detail, s.client_order_id, s.decided_by, s.decided_at, s.trace_id,
       s.created_at
  FROM signals s JOIN accounts a ON a.id = s.account_id
 WHERE ($1::text IS NULL OR s.state = $1) AND ($2::text[] IS NULL OR s.symbol = ANY($2))
   AND ($6::text IS NULL OR s.exchange = $6) AND ($7::int[] IS NULL OR s.account_id = ANY($7))
   AND ($3::text IS NULL OR s.instance = $3) AND ($4::bigint IS NULL OR s.seq < $4)
 ORDER BY s.seq DESC LIMIT $5;

-- name: signal
-- One signal.
SELECT s.id, s.seq, s.source, s.instance, a.name AS account, s.venue, s.exchange, s.symbol, s.timeframe, s.ts_event, s.kind,
       s.side, s.type, s.size, s.limit_price, s.stop_price, s.stop_loss, s.take_profit, s.time_in_force, s.reference_price,
       s.valid_until, s.reason, s.state,
       coalesce(s.code, (SELECT o.code FROM orders o WHERE o.signal_id = s.id AND o.code = 'RELAYED' LIMIT 1)) AS code, s.detail, s.client_order_id, s.decided_by, s.decided_at, s.trace_id,
       s.created_at
  FROM signals s JOIN accounts a ON a.id = s.account_id WHERE s.id = $1
   AND ($2::int[] IS NULL OR s.account_id = ANY($2));

-- name: waiting_requests
-- The newest requests of people that have not become an order yet: few, for the order manager takes them at once.
SELECT id, kind, state, code, detail, symbol, side, type, size, client_order_id FROM signals
 WHERE ($1::int[] IS NULL OR account_id = ANY($1)) AND kind = 'order' AND state IN ('ready', 'pending') ORDER BY seq DESC LIMIT 200;

-- name: orders
-- A page of orders, newest first; `open` for those that may still fill.
SELECT o.client_order_id, o.signal_id AS id, a.name AS account, o.venue, o.exchange, o.symbol, o.instance, o.role, o.side,
       o.type, o.time_in_force, o.quantity, o.price, o.stop_price, o.stop_loss, o.take_profit, o.state, o.request, o.filled,
       o.average_price, o.venue_order_id, o.parent_id, o.group_id, o.code, o.detail, o.is_reduce_only, o.is_late,
       o.trace_id, o.valid_until, o.created_at, o.sent_at, o.updated_at
  FROM orders o JOIN accounts a ON a.id = o.account_id
 WHERE ($1::text IS NULL OR o.state = $1) AND ($2::text[] IS NULL OR o.symbol = ANY($2))
   AND ($7::text IS NULL OR o.exchange = $7) AND ($8::int[] IS NULL OR o.account_id = ANY($8))
   AND ($3::text IS NULL OR o.instance = $3)
   AND (NOT $4::bool OR o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL'))
   AND ($5::text IS NULL OR (o.created_at, o.client_order_id)
        < (SELECT p.created_at, p.client_order_id FROM orders p WHERE p.client_order_id = $5))
 ORDER BY o.created_at DESC, o.client_order_id DESC LIMIT $6;

-- name: order
-- One order by its client order id, or else the first order that a signal led to.
SELECT o.client_order_id, o.signal_id AS id, a.name AS account, o.venue, o.exchange, o.symbol, o.instance, o.role, o.side,
       o.type, o.time_in_force, o.quantity, o.price, o.stop_price, o.stop_loss, o.take_profit, o.state, o.request, o.filled,
       o.average_price, o.venue_order_id, o.parent_id, o.group_id, o.code, o.detail, o.is_reduce_only, o.is_late,
       o.trace_id, o.valid_until, o.created_at, o.sent_at, o.updated_at, p.plan
  FROM orders o JOIN accounts a ON a.id = o.account_id
  LEFT JOIN parent_orders p ON p.signal_id = o.signal_id AND o.parent_id IS NULL
 WHERE (o.client_order_id = $1 OR o.signal_id = $2::uuid) AND ($3::int[] IS NULL OR o.account_id = ANY($3))
 ORDER BY o.client_order_id = $1 DESC, o.parent_id IS NOT NULL, o.created_at LIMIT 1;

-- name: order_events
-- Every step of one order, in order.
SELECT id AS seq, event, from_state, to_state, source, venue_time, recv_time, epoch, payload
  FROM order_events WHERE client_order_id = $1 ORDER BY id;

-- name: fills
-- A page of executions, newest first; those of one exchange are those of orders for it.
SELECT t.fill_id, t.id AS seq, t.client_order_id, t.venue_order_id, t.venue_trade_id, a.name AS account, t.venue, t.symbol,
       t.instance, lower(t.trade_type) AS side, t.quantity, t.price, t.fee, t.fee_currency,
       coalesce(f.fee_quote, fee_value(t.symbol, t.price, t.fee, t.fee_currency)) AS fee_quote, t.realized_pnl, t.is_maker, t.is_late,
       t.source, t.time
  FROM trades t JOIN accounts a ON a.id = t.account_id LEFT JOIN trade_fees f ON f.trade_id = t.id
 WHERE ($7::int[] IS NULL OR t.account_id = ANY($7)) AND ($1::text[] IS NULL OR t.symbol = ANY($1)) AND ($2::text IS NULL OR t.instance = $2)
   AND ($3::text IS NULL OR t.client_order_id = $3) AND ($4::bigint IS NULL OR t.id < $4)
   AND ($6::text IS NULL OR EXISTS (SELECT FROM orders o WHERE o.client_order_id = t.client_order_id AND o.exchange = $6))
 ORDER BY t.id DESC LIMIT $5;

-- name: positions
-- Every position by instance, valued at the newest price: that of its venue's exchange where it is collected ($3: of ccxt). What is held
-- without executions of ours has no known cost: no average price and no profit. Fees in a third asset are those of the
-- executions of the instance, valued from bars; fees_unvalued counts those without a rate, which are not in the sum.
SELECT a.name AS account, p.venue, p.symbol, p.instance, p.quantity, c.average_price, p.realized_pnl,
       p.fees + third.valued AS fees, third.unvalued AS fees_unvalued,
       m.last_price AS mark_price, (m.last_price - c.average_price) * p.quantity * coalesce(
           (SELECT i.multiplier FROM instruments i WHERE i.exchange = m.exchange AND i.symbol = p.symbol), 1) AS unrealized_pnl,
       p.updated_at
  FROM positions p JOIN accounts a ON a.id = p.account_id
 CROSS JOIN LATERAL (
       SELECT CASE WHEN p.instance <> 'external' OR p.average_price <> 0 THEN p.average_price END AS average_price) c
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(f.fee_quote) FILTER (WHERE f.fee_rate IS NOT NULL), 0) AS valued,
              count(*) FILTER (WHERE coalesce(f.fee_quote, fee_value(t.symbol, t.price, t.fee, t.fee_currency)) IS NULL) AS unvalued
         FROM trades t LEFT JOIN trade_fees f ON f.trade_id = t.id
        WHERE (t.account_id, t.venue, t.symbol, t.instance) = (p.account_id, p.venue, p.symbol, p.instance)
          AND t.fee <> 0 AND (t.fee_currency = '' OR NOT (starts_with(t.symbol, t.fee_currency)
                                                         OR right(t.symbol, length(t.fee_currency)) = t.fee_currency))) third
  LEFT JOIN LATERAL (
       SELECT last_price, exchange FROM feeds f WHERE f.symbol = p.symbol AND f.timeframe = 'trades'
        ORDER BY f.exchange = split_part(p.venue, ':', 1) AND f.state <> 'OFF' DESC, f.exchange = $3 AND f.state <> 'OFF' DESC, last_message_at DESC NULLS LAST LIMIT 1) m ON true
 WHERE ($4::int[] IS NULL OR p.account_id = ANY($4)) AND ($1::text[] IS NULL OR p.symbol = ANY($1)) AND ($2::bool OR p.quantity <> 0)
 ORDER BY a.name, p.venue, p.symbol, p.instance;

-- name: position_exchange
-- The exchange of a position's newest order.
SELECT o.exchange FROM orders o JOIN accounts a ON a.id = o.account_id
 WHERE a.name = $1 AND o.venue = $2 AND o.symbol = $3 AND o.instance = $4 ORDER BY o.created_at DESC LIMIT 1;

-- name: accounts
-- Every account with what it holds.
SELECT a.id, a.name, a.account_type, a.venue, a.broker, a.currency, a.initial_balance, a.mode, a.is_enabled, a.created_at,
       a.environment, a.uid, a.network_epoch,
       coalesce((SELECT jsonb_agg(jsonb_build_object('currency', b.currency, 'free', b.free::text, 'locked', b.locked::text)
                                  ORDER BY b.currency)
                   FROM balances b WHERE b.account_id = a.id), '[]'::jsonb) AS balances
  FROM accounts a WHERE $1::int[] IS NULL OR a.id = ANY($1) ORDER BY a.id;

-- name: change_account
-- Change an account's mode, or switch it on or off. An account that is tied to a place without real money is never made live.
UPDATE accounts SET mode = coalesce($2, mode), is_enabled = coalesce($3, is_enabled)
 WHERE name = $1 AND (coalesce($2, mode) = mode OR environment IS NULL)
RETURNING id, name, account_type, venue, broker, currency, initial_balance, mode, is_enabled, created_at;

-- name: create_account
-- Make an account; no row back when the name is taken.
INSERT INTO accounts (name, account_type, venue, broker, currency, initial_balance, mode)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING
RETURNING id, name, account_type, venue, broker, currency, initial_balance, mode, is_enabled, created_at;

-- name: venues
-- The venues that the order manager has.
SELECT DISTINCT venue FROM venue_states ORDER BY venue;

-- name: account_names
-- The names of the accounts.
SELECT id, name FROM accounts;

-- name: equity
-- By enabled account: its newest equity, that at the start of the UTC day (the last one before it, else the first of the day), and
-- what deposits and withdrawals moved since.
WITH day AS (SELECT date_trunc('day', now(), 'UTC') AS start)
SELECT a.id AS account_id, a.name AS account, a.venue, a.currency, a.mode, newest.equity, newest.time, base.equity AS equity_at_start,
       coalesce(moved.amount, 0) AS transfers_today,
       newest.equity - base.equity - coalesce(moved.amount, 0) AS pnl_today, day.start AS day_start
  FROM accounts a CROSS JOIN day
  JOIN LATERAL (SELECT equity, time FROM balance_history h
                 WHERE h.account_id = a.id AND h.equity IS NOT NULL ORDER BY h.time DESC, h.id DESC LIMIT 1) newest ON true
  JOIN LATERAL (
       SELECT equity FROM (
              (SELECT 1 AS choice, equity FROM balance_history h
                WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time < day.start ORDER BY h.time DESC, h.id DESC LIMIT 1)
               UNION ALL
              (SELECT 2, equity FROM balance_history h
                WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time >= day.start ORDER BY h.time, h.id LIMIT 1)) found
        ORDER BY choice LIMIT 1) base ON true
  LEFT JOIN LATERAL (
       SELECT sum(step) AS amount FROM (
              SELECT cause, time, equity - lag(equity) OVER (ORDER BY time, id) AS step FROM balance_history h
               WHERE h.account_id = a.id AND h.equity IS NOT NULL AND h.time >= least(day.start,
                     (SELECT max(b.time) FROM balance_history b WHERE b.account_id = a.id AND b.equity IS NOT NULL AND b.time < day.start))) steps
        WHERE cause IN ('deposit', 'withdrawal') AND time >= day.start) moved ON true
 WHERE a.is_enabled AND ($1::int[] IS NULL OR a.id = ANY($1))
 ORDER BY a.id;

-- name: equity_history
-- The last equity of an account in each span of $3 seconds since $2, oldest first.
SELECT DISTINCT ON (date_bin(make_interval(secs => $3), time, $2)) time, equity, balance, currency, cause
  FROM balance_history
 WHERE account_id = $1 AND equity IS NOT NULL AND time >= $2
 ORDER BY date_bin(make_interval(secs => $3), time, $2), time DESC, id DESC;

-- name: order_counts
-- By account: the orders that may still fill, without legs that wait for their parent, and those of the last minute.
SELECT account_id, count(*) FILTER (WHERE state IN ('SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')) AS orders_open,
       count(*) FILTER (WHERE created_at > now() - interval '1 minute' AND state <> 'DENIED') AS orders_minute
  FROM orders
 WHERE state IN ('SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL') OR created_at > now() - interval '1 minute'
 GROUP BY account_id;

-- name: account_fees
-- Fees by account and currency: since 00:00 UTC, and in 30 days.
SELECT t.account_id, t.fee_currency AS currency, coalesce(sum(t.fee) FILTER (WHERE t.time >= date_trunc('day', now(), 'UTC')), 0) AS today,
       sum(t.fee) AS days_30
  FROM trades t
 WHERE t.time >= now() - interval '30 days' AND t.fee <> 0
 GROUP BY t.account_id, t.fee_currency ORDER BY t.account_id, t.fee_currency;
