-- name: instruments
-- Every instrument with its rules.
SELECT * FROM instruments;

-- name: marks
-- The last price of every feed; the time of its last message only while it is live, its collector holds the lease it was
-- written under, and wrote of it in the last $1 seconds: a feed whose collector died, or cannot write, is not known to be
-- fresh, however young its last message is.
SELECT f.exchange, f.symbol, f.last_price,
       CASE WHEN f.state = 'LIVE' AND f.updated_at > now() - $1::float8 * interval '1 second'
            THEN f.last_message_at END AS last_message_at
  FROM feed_states f WHERE f.timeframe = 'trades';

-- name: instances
-- What the order manager needs of the strategy instances: sizing, state, where they trade.
SELECT id, sizing, size, is_enabled, state, account_id, venue, exchange, symbol, timeframe, cursor_time, pyramiding
  FROM strategy_instances;

-- name: is_killed
-- Whether the kill switch is engaged.
SELECT EXISTS (SELECT FROM kill_switch WHERE is_engaged);

-- name: is_guardian_alive
-- Whether a guardian renewed its lease in the last $1 seconds.
SELECT EXISTS (SELECT FROM leases WHERE name = 'guardian' AND updated_at > now() - $1::float8 * interval '1 second');

-- name: escalated
-- One of the children $1 whose escalation no person has ended, and why.
SELECT newest.child, newest.reason FROM unnest($1::text[]) AS wanted (child)
 CROSS JOIN LATERAL (SELECT e.child, e.event, e.reason FROM actor_events e
                      WHERE e.child = wanted.child AND e.event IN ('escalated', 'cleared') ORDER BY e.id DESC LIMIT 1) AS newest
 WHERE newest.event = 'escalated' LIMIT 1;

-- name: kills
-- The engaged kills, newest first, and whether they want positions closed.
SELECT kill_id, (report ->> 'flatten')::boolean AS flatten FROM kill_switch WHERE is_engaged ORDER BY engaged_at DESC;

-- name: halt
-- Hold an instance until a person enables it again. Fenced by the lease's epoch ($3 null: nobody's).
WITH lease AS (SELECT 1 FROM leases WHERE name = $3 AND epoch = $4 FOR SHARE)
UPDATE strategy_instances SET is_enabled = false, state = 'CRASHED', error = $2, updated_at = now()
 WHERE id = $1 AND ($3::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: lease_epoch
-- The epoch that owns a role.
SELECT epoch FROM leases WHERE name = $1;

-- name: save_venue_state
-- Tell everyone what the order manager believes of a venue; nothing from one that a newer epoch has replaced.
WITH lease AS (SELECT 1 FROM leases WHERE name = $7 AND epoch = $8 FOR SHARE)
INSERT INTO venue_states (venue, account_id, state, detail, skew_ms, updated_at)
SELECT $1, $2, $3, $4, $5, $6 WHERE $7::text IS NULL OR EXISTS (SELECT FROM lease)
ON CONFLICT (venue, account_id) DO UPDATE
   SET state = excluded.state, detail = excluded.detail, skew_ms = excluded.skew_ms, updated_at = excluded.updated_at;

-- name: open_conditions
-- The conditions of an event's open alerts.
SELECT dedupe_key FROM alerts WHERE event = $1 AND dedupe_key IS NOT NULL AND resolved_at IS NULL;

-- name: sealed_bars
-- Sealed bars of one feed after a moment, oldest first: what a venue that fills from bars is fed with.
SELECT b.time, b.open, b.high, b.low, b.close, b.volume, b.trades
  FROM ohlcv_data b JOIN feeds f ON f.exchange = b.exchange AND f.symbol = b.symbol AND f.timeframe = b.timeframe
 WHERE b.exchange = $1 AND b.symbol = $2 AND b.timeframe = $3 AND b.time > $4 AND b.time <= f.sealed_through
   AND b.is_complete
 ORDER BY b.time LIMIT $5;

-- name: best_close
-- The highest and the lowest close of the sealed bars of a span, and when the last of them opened.
SELECT max(b.close) AS highest, min(b.close) AS lowest, max(b.time) AS last
  FROM ohlcv_data b JOIN feeds f ON f.exchange = b.exchange AND f.symbol = b.symbol AND f.timeframe = b.timeframe
 WHERE b.exchange = $1 AND b.symbol = $2 AND b.timeframe = $3 AND b.time > $4
   AND b.time <= least(f.sealed_through, $5::timestamptz) AND b.is_complete;

-- name: stop_moves
-- The highest and the lowest of the prices to which a strategy moved its stop, and the last of these moves.
SELECT max(price) AS highest, min(price) AS lowest, max(time) AS last, max(number) AS number
  FROM stop_moves WHERE instance = $1 AND number > $2 AND time > $3 AND time <= coalesce($4::timestamptz, 'infinity');

-- name: turnover
-- What an account's executions at a venue moved, by symbol, side and fee currency: the balances of a venue without memory.
SELECT symbol, trade_type, fee_currency, sum(quantity) AS quantity, sum(quantity * price) AS value, sum(fee) AS fee
  FROM trades WHERE account_id = $1 AND venue = $2
 GROUP BY symbol, trade_type, fee_currency;

-- name: sealed_through
-- How far one feed is sealed.
SELECT sealed_through FROM feeds WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: undecided
-- Whether a signal of an earlier bar still waits for its outcome at a venue. An entry that waits for an exit that rests
-- there does not count: the exit waits for the next bar.
SELECT EXISTS (SELECT FROM signals s WHERE s.state = 'ready' AND s.venue = $1 AND s.symbol = $2 AND s.ts_event < $3
                  AND NOT (s.kind = 'enter' AND EXISTS (
                        SELECT FROM orders o WHERE o.venue = $1 AND o.symbol = $2 AND o.instance = s.instance
                           AND o.role = 'exit' AND o.state IN ('ACCEPTED','WORKING'))));

-- name: oldest_decisions
-- The bar on which the oldest open order of each symbol at a venue was decided.
SELECT o.symbol, min(coalesce(s.ts_event, o.created_at)) AS time
  FROM orders o LEFT JOIN signals s ON s.id = o.signal_id
 WHERE o.venue = $1 AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
 GROUP BY o.symbol;

-- name: decisions
-- The bar on which each open order at a venue was decided; of a trailing stop's legs, and of the executed entries that
-- positions may be made of, the bar that moved it last.
SELECT o.client_order_id,
       greatest(s.ts_event, (SELECT max((e.payload->>'bar')::timestamptz) FROM order_events e
                              WHERE e.client_order_id = o.parent_id AND e.event = 'StopMoved')) AS ts_event
  FROM orders o JOIN signals s ON s.id = o.signal_id
 WHERE o.venue = $1 AND s.timeframe IS NOT NULL
   AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
UNION ALL
SELECT o.client_order_id, max((e.payload->>'bar')::timestamptz)
  FROM positions p
  JOIN orders o ON o.account_id = p.account_id AND o.venue = p.venue AND o.symbol = p.symbol AND o.instance = p.instance
               AND o.role = 'entry' AND o.state NOT IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
  JOIN signals s ON s.id = o.signal_id AND s.trail IS NOT NULL
  JOIN order_events e ON e.client_order_id = o.client_order_id AND e.event = 'StopMoved'
 WHERE p.venue = $1 AND p.quantity <> 0
 GROUP BY o.client_order_id;

-- name: oldest_ready
-- The bar of the oldest signal in a symbol that waits for its outcome at a venue.
SELECT min(ts_event) FROM signals WHERE state = 'ready' AND venue = $1 AND symbol = $2;

-- name: trades_after
-- Public trades of a symbol after one of them, oldest first: what resting paper orders meet.
SELECT time, trade_id, price FROM market_trades
 WHERE exchange = $1 AND symbol = $2 AND time >= $3 AND (time, trade_id) > ($3, $4::bigint)
 ORDER BY time, trade_id LIMIT $5;
