-- name: snapshot
-- What the guardian must know to close our positions without the database, from one moment: one statement, one row.
SELECT
    (extract(epoch FROM now()) * 1000000)::bigint * 1000 AS as_of_ns,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(p.venue, p.account_id, p.symbol, p.instance, p.quantity::text)
                               ORDER BY p.venue, p.account_id, p.symbol, p.instance), '[]'::jsonb)
       FROM positions p WHERE p.quantity <> 0 AND p.instance <> 'external') AS positions,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(i.exchange, i.symbol, i.base, i.quote, i.lot_step::text,
                                                 i.qty_min::text, i.notional_min::text, i.qty_max::text,
                                                 i.filters->'market_lot')
                               ORDER BY i.exchange, i.symbol), '[]'::jsonb)
       FROM instruments i
      WHERE i.symbol IN (SELECT symbol FROM assets UNION SELECT symbol FROM strategy_instances
                         UNION SELECT symbol FROM positions)) AS instruments,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(o.client_order_id, o.venue, o.account_id, o.exchange, o.symbol,
                                                 o.instance, o.filled::text, o.role, o.state,
                                                 (extract(epoch FROM o.created_at) * 1000000)::bigint * 1000,
                                                 (extract(epoch FROM greatest(o.sent_at, o.updated_at)) * 1000000)::bigint * 1000,
                                                 o.is_acknowledged, o.is_reduce_only, o.reported_cum_qty > o.filled,
                                                 o.created_at < now() - interval '23 hours', coalesce(o.parent_id, ''))
                               ORDER BY o.client_order_id), '[]'::jsonb)
       FROM orders o
      WHERE o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
         OR o.reported_cum_qty > o.filled
         OR (o.created_at > now() - make_interval(secs => $1) AND o.state <> 'DENIED')
         OR o.client_order_id = ANY($2::text[])) AS orders,
    -- of orders whose whole history is not read (it goes back a day at most), every execution of that day is listed
    (SELECT coalesce(jsonb_agg(jsonb_build_array(t.venue, t.symbol, t.venue_trade_id)
                               ORDER BY t.venue, t.symbol, t.venue_trade_id), '[]'::jsonb)
       FROM (SELECT n.venue, n.symbol, n.venue_trade_id
               FROM (SELECT venue, symbol, venue_trade_id, created_at FROM trades ORDER BY id DESC LIMIT 1000) n
              WHERE n.created_at > now() - make_interval(secs => $1)
              UNION
             SELECT t.venue, t.symbol, t.venue_trade_id
               FROM orders o JOIN trades t ON t.client_order_id = o.client_order_id
              WHERE (o.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL') OR o.reported_cum_qty > o.filled)
                AND o.filled > 0 AND o.created_at < now() - interval '23 hours' AND t.time > now() - interval '25 hours') t
    ) AS booked,
    -- when there are more than those, what was executed earlier may be booked without being among them
    (SELECT CASE WHEN count(*) < 1000 THEN 0 ELSE (extract(epoch FROM min(t.created_at)) * 1000000)::bigint * 1000 END
       FROM (SELECT created_at FROM trades ORDER BY id DESC LIMIT 1000) t) AS booked_from_ns,
    -- entries that may need a stop, and their legs of all attempts: those that may still fill, those whose stop is live, and
    -- the newest ones that a position is made of (as `entries_of` in orders.sql), if one of these has a stop loss
    (WITH opened AS (
        SELECT client_order_id, parent_id, role, stop_loss FROM orders
         WHERE state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')),
     held AS (
        SELECT e.client_order_id,
               bool_or(e.stop_loss IS NOT NULL) OVER (PARTITION BY p.account_id, p.venue, p.symbol, p.instance) AS has_stop
          FROM positions p CROSS JOIN LATERAL (
            SELECT n.*, sum(greatest(n.rest, 0)) OVER (ORDER BY n.created_at DESC, n.client_order_id DESC)
                        - greatest(n.rest, 0) - sum(greatest(-n.rest, 0)) OVER () AS newer,
                   bool_or(n.rest < 0) OVER (PARTITION BY n.exchange, n.stop_loss, n.take_profit) AS is_shared
              FROM (
                SELECT m.*, m.filled - coalesce((SELECT sum(filled) FROM orders WHERE parent_id = m.client_order_id), 0) AS rest
                  FROM (SELECT client_order_id, exchange, stop_loss, take_profit, filled, created_at FROM orders
                         WHERE account_id = p.account_id AND venue = p.venue AND symbol = p.symbol AND instance = p.instance
                           AND role IN ('entry', 'order') AND filled > 0
                           AND side = CASE WHEN p.quantity > 0 THEN 'buy' ELSE 'sell' END
                         ORDER BY created_at DESC, client_order_id DESC LIMIT 100) m) n) e
         WHERE p.quantity <> 0 AND p.instance <> 'external' AND e.rest <> 0
           AND (e.newer < abs(p.quantity) OR e.is_shared)),
     parents AS (
        SELECT client_order_id FROM opened WHERE role IN ('entry', 'order') AND stop_loss IS NOT NULL
         UNION SELECT parent_id FROM opened WHERE role = 'sl' AND parent_id IS NOT NULL
         UNION SELECT client_order_id FROM held WHERE has_stop),
     protected AS (
        -- OFFSET 0: by an index whatever the planner takes the number of parents for
        SELECT o.* FROM parents p CROSS JOIN LATERAL (
            SELECT * FROM orders WHERE client_order_id = p.client_order_id OFFSET 0) o
         UNION ALL SELECT o.* FROM parents p CROSS JOIN LATERAL (
            SELECT * FROM orders WHERE parent_id = p.client_order_id OFFSET 0) o)
     SELECT coalesce(jsonb_agg(jsonb_build_object(
                'client_order_id', o.client_order_id, 'intent_id', o.intent_id, 'signal_id', o.signal_id,
                'account_id', o.account_id, 'venue', o.venue, 'exchange', o.exchange, 'symbol', o.symbol,
                'instance', o.instance, 'role', o.role, 'attempt', o.attempt, 'side', o.side, 'type', o.type,
                'time_in_force', o.time_in_force, 'quantity', o.quantity::text, 'filled', o.filled::text,
                'stop_loss', o.stop_loss::text, 'take_profit', o.take_profit::text, 'state', o.state,
                'parent_id', o.parent_id, 'group_id', o.group_id, 'epoch', o.epoch, 'trace_id', coalesce(o.trace_id, ''),
                'created_ns', (extract(epoch FROM o.created_at) * 1000000)::bigint * 1000)
                ORDER BY o.created_at, o.client_order_id), '[]'::jsonb) FROM protected o) AS protected,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(a.id, a.environment, coalesce(a.uid, ''), coalesce(a.network_epoch, ''))
                               ORDER BY a.id), '[]'::jsonb)
       FROM accounts a WHERE a.environment IS NOT NULL) AS identities,
    -- the names by which a kill of an account or of a strategy is asked for, and where each of them trades
    (SELECT coalesce(jsonb_agg(jsonb_build_array(a.id, a.name, a.venue) ORDER BY a.id), '[]'::jsonb)
       FROM accounts a) AS accounts,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(s.id, s.strategy, s.venue) ORDER BY s.id), '[]'::jsonb)
       FROM strategy_instances s) AS instances;

-- name: engaged
-- Give the kills that are engaged, oldest first.
-- `asked`: a request that no guardian has taken over yet, as their own rows have reports of their own.
SELECT kill_id, scope, reason, engaged_by, engaged_at, coalesce((report ->> 'flatten')::boolean, true) AS flatten,
       coalesce((report ->> 'asked')::boolean, false) AS asked
  FROM kill_switch WHERE is_engaged ORDER BY engaged_at;

-- name: upsert
-- Record a kill as the guardian's file tells it; again is harmless. One that was released stays so, whatever an older file says;
-- one of the whole system is never narrowed.
INSERT INTO kill_switch (kill_id, scope, is_engaged, reason, engaged_by, engaged_at, released_by, released_at, report)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (kill_id) DO UPDATE
   SET is_engaged = excluded.is_engaged AND kill_switch.released_at IS NULL,
       scope = CASE WHEN excluded.scope = 'system' THEN excluded.scope ELSE kill_switch.scope END,
       released_by = coalesce(excluded.released_by, kill_switch.released_by),
       released_at = coalesce(excluded.released_at, kill_switch.released_at),
       -- flattening that was asked for at another guardian stays asked for
       report = excluded.report || jsonb_build_object('flatten', (excluded.report ->> 'flatten')::boolean IS NOT FALSE
                                                                 OR (kill_switch.report ->> 'flatten')::boolean IS TRUE);

-- name: release
-- Give who released a kill, and when; no row while it is engaged or unknown.
SELECT released_by, released_at FROM kill_switch WHERE kill_id = $1 AND NOT is_engaged AND released_at IS NOT NULL;

-- name: release_all
-- Release every kill of a scope that was engaged when a person resumed, whoever wrote it: none of them may be left over. One
-- that was engaged since stays. A scope that is not understood is the whole system.
UPDATE kill_switch SET is_engaged = false, released_by = $1, released_at = $2
 WHERE is_engaged AND engaged_at <= $2 AND (scope = $3 OR ($3 = 'system' AND scope !~ '^(venue|account|strategy):.'));

-- name: accounts
-- The accounts by whose names a kill may be asked for.
SELECT id, name, venue FROM accounts ORDER BY id;

-- name: instances
-- The strategies, and their instances, by whose names a kill may be asked for.
SELECT id, strategy, venue FROM strategy_instances ORDER BY id;

-- name: orders
-- The flattening orders and stops since a moment: a guardian that takes over asks about those of its predecessor.
SELECT client_order_id, intent_id, parent_id, account_id, venue, exchange, symbol, instance, role, attempt, side, type,
       quantity, price, stop_price, state, code, detail, coalesce(sent_at, created_at) AS sent_at
  FROM orders WHERE role IN ('kill', 'sl') AND created_at >= $1::timestamptz - interval '1 minute' ORDER BY created_at, attempt;

-- name: save_order
-- Record a flattening order, or a stop that the kill placed again (a leg of the same order as the one it had cancelled), and
-- the step that brought it there; the same step again is nothing. Its fills are left to the order manager; a state it has
-- moved on from is not set back, and is the step's. One statement, so that no step of the order manager comes between.
WITH saved AS (
    INSERT INTO orders (
        client_order_id, intent_id, account_id, venue, exchange, symbol, instance, role, attempt, side, type, quantity,
        state, is_reduce_only, venue_order_id, code, detail, sent_at, created_at, updated_at, parent_id, price, stop_price)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $16, $8, $9, $17, $10, $11, true, $12, $13, $14, $15, $15, now(), $18, $19, $20)
    ON CONFLICT (client_order_id) DO UPDATE
       SET state = excluded.state, venue_order_id = coalesce(excluded.venue_order_id, orders.venue_order_id),
           code = excluded.code, detail = excluded.detail, updated_at = now()
     WHERE orders.state IN ('SENDING', 'UNKNOWN') AND orders.state <> excluded.state
    RETURNING client_order_id, state
), kept AS (
    SELECT client_order_id, state FROM orders WHERE client_order_id = $1 AND NOT EXISTS (SELECT FROM saved) FOR UPDATE
)
INSERT INTO order_events (client_order_id, event_id, event, to_state, source, payload)
SELECT client_order_id, 'kill:' || $21, $21, state, 'guardian', $22
  FROM (SELECT * FROM saved UNION ALL SELECT * FROM kept) o
ON CONFLICT (client_order_id, event_id) DO NOTHING;

-- name: open_alert
-- Page a person about a condition of a kill. A page of it that is open gets the message and the symbols of now.
INSERT INTO alerts (severity, event, message, component, payload, dedupe_key)
VALUES ('page', $1, $2, 'guardian', $3::jsonb, $1 || '|' || ($3::jsonb ->> 'kill_id'))
ON CONFLICT (dedupe_key) WHERE dedupe_key IS NOT NULL AND resolved_at IS NULL
   DO UPDATE SET message = excluded.message, payload = alerts.payload || excluded.payload;

-- name: open_alerts
-- The ids of the open pages of an event about the kills of a scope.
SELECT id FROM alerts
 WHERE component = 'guardian' AND event = $1 AND resolved_at IS NULL AND payload ? 'kill_id'
   AND coalesce(payload ->> 'scope', 'system') = $2;

-- name: has_session
-- Whether a living order manager has a session with a venue.
SELECT EXISTS (SELECT FROM leases WHERE name = 'orders' AND updated_at > now() - interval '15 seconds')
   AND coalesce((SELECT state NOT IN ('COLD', 'DOWN') FROM venue_states WHERE venue = $1
                  ORDER BY updated_at DESC LIMIT 1), false);
