-- name: signal
-- One signal with its account's name, and the person who ended its exit.
SELECT s.*, a.name AS account, e.by AS ended_by, e.requested_at AS ended_at
  FROM signals s JOIN accounts a ON a.id = s.account_id
  LEFT JOIN LATERAL (SELECT by, requested_at FROM exit_end_requests
                      WHERE signal_id = s.id AND error IS NULL AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1) e ON true
 WHERE s.id = $1;

-- name: signals_at
-- What an instance asked for at one bar.
SELECT s.*, a.name AS account, e.by AS ended_by, e.requested_at AS ended_at
  FROM signals s JOIN accounts a ON a.id = s.account_id
  LEFT JOIN LATERAL (SELECT by, requested_at FROM exit_end_requests
                      WHERE signal_id = s.id AND error IS NULL AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1) e ON true
 WHERE s.instance = $1 AND s.exchange = $2 AND s.symbol = $3 AND s.timeframe = $4 AND s.ts_event = $5 ORDER BY s.ordinal;

-- name: order
-- One order by our id, or the first that a signal led to.
SELECT o.*, a.name AS account FROM orders o JOIN accounts a ON a.id = o.account_id
 WHERE o.client_order_id = $1 OR o.signal_id = $2::uuid
 ORDER BY o.client_order_id = $1 DESC, o.parent_id IS NOT NULL, o.created_at LIMIT 1;

-- name: orders_of_signal
-- Every order that a signal led to, protections and further attempts included.
SELECT o.*, a.name AS account FROM orders o JOIN accounts a ON a.id = o.account_id
 WHERE o.signal_id = $1 ORDER BY o.created_at, o.attempt, o.client_order_id LIMIT 200;

-- name: events
-- Every step of some orders, in order.
SELECT client_order_id, event, from_state, to_state, source, venue_time, recv_time, payload FROM order_events
 WHERE client_order_id = ANY($1::text[]) ORDER BY id LIMIT 2000;

-- name: fills
-- The executions of some orders, in order.
SELECT client_order_id, venue_trade_id, trade_type, quantity, price, fee, fee_currency, realized_pnl, is_late, source, time
  FROM trades WHERE client_order_id = ANY($1::text[]) ORDER BY id LIMIT 2000;

-- name: bar
-- The bar of a series that a moment lies in: the last one that opened until then.
SELECT time, open, high, low, close, volume, is_complete, is_empty, revision FROM ohlcv_data
 WHERE exchange = $1 AND symbol = $2 AND timeframe = $3 AND time <= $4 ORDER BY time DESC LIMIT 1;

-- name: instances
-- The strategy instances in a symbol; all, or one.
SELECT * FROM strategy_instances
 WHERE exchange = $1 AND symbol = $2 AND ($3::text IS NULL OR id = $3) ORDER BY id LIMIT 50;

-- name: instance
-- One strategy instance.
SELECT * FROM strategy_instances WHERE id = $1;

-- name: parameters
-- The parameters that an instance ran with: of one version, or those in force at a moment.
SELECT version, strategy, params FROM strategy_parameters
 WHERE instance_id = $1 AND ($2::int IS NULL OR version = $2) AND ($2::int IS NOT NULL OR created_at <= $3)
 ORDER BY version DESC LIMIT 1;

-- name: missed
-- Whether an instance decided on a bar too late, after it had been away.
SELECT event, reason, payload FROM actor_events
 WHERE event = 'strategy.missed' AND payload->>'instance' = $1
   AND (payload->>'from')::timestamptz <= $2 AND (payload->>'to')::timestamptz >= $2
 ORDER BY id DESC LIMIT 1;
