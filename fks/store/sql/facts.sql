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
SELECT id, sizing, size, is_enabled, state, account_id, venue, exchange, symbol, timeframe, cursor_time, pyramiding,
       strategy
  FROM strategy_instances;

-- name: is_killed
-- Whether the kill switch is engaged.
SELECT EXISTS (SELECT FROM kill_switch WHERE is_engaged);

-- name: gates
-- The facts that hold up every order, in one round trip: the engaged kills, newest first, and whether they want positions
-- closed; persons' decisions about venues; whether a guardian renewed its lease in the last $1 seconds; one of the children
-- $2 whose escalation no person has ended, and why; the state of the session of account $4 at venue $3, or of the venue.
SELECT (SELECT coalesce(jsonb_agg(jsonb_build_array(kill_id, scope, (report ->> 'flatten')::boolean) ORDER BY engaged_at DESC), '[]')
          FROM kill_switch WHERE is_engaged) AS kills,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(name, is_enabled, is_default, priority, version) ORDER BY priority, name), '[]')
          FROM venues) AS rules,
       EXISTS (SELECT FROM leases WHERE name = 'guardian' AND updated_at > now() - $1::float8 * interval '1 second') AS is_guardian_alive,
       (SELECT jsonb_build_array(newest.child, newest.reason) FROM unnest($2::text[]) AS wanted (child)
         CROSS JOIN LATERAL (SELECT e.child, e.event, e.reason FROM actor_events e
                              WHERE e.child = wanted.child AND e.event IN ('escalated', 'cleared') ORDER BY e.id DESC LIMIT 1) AS newest
         WHERE newest.event = 'escalated' LIMIT 1) AS escalated,
       (SELECT state FROM venue_states WHERE venue = $3 AND account_id IN (0, $4) ORDER BY account_id DESC LIMIT 1) AS venue_state;

-- name: portfolio_limits
-- The limits of active portfolios with their newest measurement, for each member account and instance.
SELECT m.account_id, m.instance_id, p.name, p.base_currency, l.kind, l.value, l.age_max_s, l.observed, l.measured_at, l.missing
  FROM portfolio_limits l JOIN portfolios p ON p.id = l.portfolio_id AND p.state = 'active'
  JOIN portfolio_members m ON m.portfolio_id = p.id AND m.left_at IS NULL
 ORDER BY p.name, l.kind;

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

-- name: drop_venue_states
-- Remove the states of all venues but these: the last state of one that has no session any more says nothing.
WITH lease AS (SELECT 1 FROM leases WHERE name = $2 AND epoch = $3 FOR SHARE)
DELETE FROM venue_states
 WHERE NOT (venue = ANY($1::text[])) AND ($2::text IS NULL OR EXISTS (SELECT FROM lease));

-- name: open_conditions
-- The conditions of an event's open alerts.
SELECT dedupe_key FROM alerts WHERE event = $1 AND dedupe_key IS NOT NULL AND resolved_at IS NULL;

-- name: sealed_bars
-- Sealed bars of one feed after a moment, oldest first: what a venue that fills from bars is fed with.
SELECT b.exchange, b.symbol, b.timeframe, b.time, b.open, b.high, b.low, b.close, b.volume, b.trades, true AS is_complete,
       false AS is_empty
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
-- The highest and the lowest of the prices to which a strategy moved its stop, the newest of its take profit, and the
-- last of these moves.
SELECT max(price) AS highest, min(price) AS lowest, max(time) AS last, max(number) AS number,
       (array_agg(take_profit ORDER BY time DESC) FILTER (WHERE take_profit IS NOT NULL))[1] AS take_profit
  FROM stop_moves WHERE instance = $1 AND number > $2 AND time > $3 AND time <= coalesce($4::timestamptz, 'infinity');

-- name: turnover
-- What an account's executions at a venue moved, by symbol, side and fee currency: the balances of a venue without memory.
-- A split brings shares, or takes some, for nothing.
SELECT symbol, trade_type, fee_currency, sum(quantity) AS quantity, sum(quantity * price) AS value, sum(fee) AS fee,
       max(time) AS newest_at
  FROM trades WHERE account_id = $1 AND venue = $2
 GROUP BY symbol, trade_type, fee_currency
 UNION ALL
SELECT symbol, CASE WHEN quantity_after > quantity_before THEN 'BUY' ELSE 'SELL' END, '', abs(quantity_after - quantity_before), 0, 0,
       effective_at
  FROM position_splits WHERE account_id = $1 AND venue = $2;

-- name: sealed_through
-- How far one feed is sealed.
SELECT sealed_through FROM feeds WHERE exchange = $1 AND symbol = $2 AND timeframe = $3;

-- name: undecided
-- Whether a signal of an earlier bar, or the move of an entry that rests, still waits for its outcome at a venue. An entry that waits for an exit that rests
-- there does not count: the exit waits for the next bar.
SELECT EXISTS (SELECT FROM signals s WHERE s.state = 'ready' AND s.venue = $1 AND s.symbol = $2 AND s.ts_event < $3
                  AND NOT (s.kind = 'enter' AND EXISTS (
                        SELECT FROM orders o WHERE o.venue = $1 AND o.symbol = $2 AND o.instance = s.instance
                           AND o.role = 'exit' AND o.state IN ('ACCEPTED','WORKING'))))
    OR EXISTS (SELECT FROM orders o JOIN signals s ON s.id = o.signal_id AND s.source LIKE 'strategy:%' AND s.group_id IS NULL
                 JOIN stop_moves m ON m.instance = substr(s.source, 10) AND m.time > s.ts_event
                                  AND (m.entry_limit IS NOT NULL OR m.entry_stop IS NOT NULL)
                WHERE o.venue = $1 AND o.symbol = $2 AND m.time < $3 AND o.role = 'entry'
                  AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
                  AND NOT EXISTS (SELECT FROM order_amendments a
                                   WHERE a.client_order_id = o.client_order_id AND a.bar_time >= m.time))
    OR EXISTS (SELECT FROM order_amendments a JOIN orders o USING (client_order_id)
                WHERE o.venue = $1 AND o.symbol = $2 AND a.bar_time < $3 AND a.finished_at IS NULL);

-- name: oldest_decisions
-- The bar on which the oldest open order of each symbol at a venue was decided.
SELECT o.symbol, min(coalesce(s.ts_event, o.created_at)) AS time
  FROM orders o LEFT JOIN signals s ON s.id = o.signal_id
 WHERE o.venue = $1 AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
 GROUP BY o.symbol;

-- name: decisions
-- The bar on which each open order at a venue was decided; of the legs of a stop that moves, and of the executed entries
-- that positions may be made of, the bar that moved it last.
SELECT o.client_order_id,
       greatest(s.ts_event, (SELECT max((e.payload->>'bar')::timestamptz) FROM order_events e
                              WHERE e.client_order_id = o.parent_id AND e.event IN ('StopMoved', 'TargetMoved'))) AS ts_event
  FROM orders o JOIN signals s ON s.id = o.signal_id
 WHERE o.venue = $1 AND s.timeframe IS NOT NULL
   AND o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
UNION ALL
SELECT o.client_order_id, max((e.payload->>'bar')::timestamptz)
  FROM positions p
  JOIN orders o ON o.account_id = p.account_id AND o.venue = p.venue AND o.symbol = p.symbol AND o.instance = p.instance
               AND o.role = 'entry' AND o.state NOT IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
  JOIN signals s ON s.id = o.signal_id AND s.timeframe IS NOT NULL
  JOIN order_events e ON e.client_order_id = o.client_order_id AND e.event IN ('StopMoved', 'TargetMoved')
 WHERE p.venue = $1 AND p.quantity <> 0
 GROUP BY o.client_order_id;

-- name: executed
-- The executed entries that have open legs at a venue, or are held there and should have some, and the last exit of each
-- of their positions. A position is made of its newest entries, of each what its own legs have left of it (`entries_of` in
-- orders.sql); a part of less than a lot is not protected. The legs of an unprotected entry were ended, and are to be placed
-- again; of those that were never live the entry's execution counts.
WITH made AS (
    SELECT o.client_order_id, o.stop_loss, o.take_profit, l.rest, i.lot_step,
           abs(p.quantity) + l.rest - sum(l.rest) OVER (PARTITION BY p.account_id, p.symbol, p.instance
                                                                ORDER BY o.created_at DESC, o.client_order_id DESC) AS part
      FROM positions p
      JOIN orders o ON o.account_id = p.account_id AND o.venue = p.venue AND o.symbol = p.symbol AND o.instance = p.instance
                   AND o.parent_id IS NULL AND o.filled > 0 AND (o.side = 'buy') = (p.quantity > 0)
      JOIN instruments i ON i.exchange = o.exchange AND i.symbol = o.symbol
      CROSS JOIN LATERAL (SELECT greatest(o.filled - coalesce(sum(filled), 0), 0) AS rest FROM orders
                           WHERE parent_id = o.client_order_id) l
     WHERE p.venue = $1 AND p.quantity <> 0 AND p.instance <> 'external'),
leg AS (
    SELECT o.client_order_id AS parent_id, o.account_id, o.symbol, o.instance
      FROM orders o
     WHERE o.client_order_id IN (
           SELECT parent_id FROM orders WHERE venue = $1 AND role IN ('sl', 'tp')
              AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
           UNION SELECT client_order_id FROM made
                  WHERE least(rest, part) >= lot_step AND coalesce(stop_loss, take_profit) IS NOT NULL))
SELECT o.client_order_id, o.symbol, o.instance, o.role, t.time AS time_at, o.side,
       CASE WHEN o.time_in_force = 'fok' THEN 'market' ELSE o.type END AS type, o.price, o.stop_price, t.price AS filled_at,
       coalesce((SELECT bool_and(l.state NOT IN ('ACCEPTED','WORKING','PARTIAL') AND
                                 (l.state NOT IN ('INTENDED','SENDING','UNKNOWN') OR l.attempt % 1000000 > 0))
                   FROM orders l WHERE l.parent_id = o.client_order_id), false) AS is_unprotected
  FROM leg JOIN orders o ON o.client_order_id = leg.parent_id
  JOIN LATERAL (SELECT max(time) AS time, max(price) AS price FROM trades WHERE client_order_id = o.client_order_id) t ON t.time IS NOT NULL
UNION ALL
SELECT e.client_order_id, e.symbol, e.instance, e.role, e.time, e.side, 'market', NULL, NULL, NULL, false
  FROM (SELECT DISTINCT account_id, symbol, instance FROM leg) p
  JOIN LATERAL (SELECT o.client_order_id, o.symbol, o.instance, o.role, t.time, o.side FROM trades t JOIN orders o USING (client_order_id)
                 WHERE o.account_id = p.account_id AND o.venue = $1 AND o.symbol = p.symbol AND o.instance = p.instance
                   AND o.role = 'exit' ORDER BY t.time DESC LIMIT 1) e ON true;

-- name: oldest_ready
-- The bar of the oldest signal in a symbol that waits for its outcome at a venue.
SELECT min(ts_event) FROM signals WHERE state = 'ready' AND venue = $1 AND symbol = $2;

-- name: trades_after
-- Public trades of a symbol after one of them, oldest first: what resting paper orders meet.
SELECT time, trade_id, price FROM market_trades
 WHERE exchange = $1 AND symbol = $2 AND time >= $3 AND (time, trade_id) > ($3, $4::bigint)
 ORDER BY time, trade_id LIMIT $5;
