-- name: place
-- The one durable statement before the bytes: orders, their first events and the signal's outcome, or nothing at all.
-- Fenced by the lease's epoch; refused while the kill switch is engaged, unless exempt ($8).
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
killed AS (SELECT 1 FROM kill_switch WHERE is_engaged AND NOT $8::boolean LIMIT 1),
taken AS (
    UPDATE signals SET state = 'ordered', client_order_id = $4, decided_at = $5
     WHERE id = $3::uuid AND state = 'ready' AND EXISTS (SELECT FROM lease) AND NOT EXISTS (SELECT FROM killed)
    RETURNING id),
may AS (
    SELECT id FROM taken
    UNION ALL
    SELECT NULL::uuid WHERE $3::uuid IS NULL AND EXISTS (SELECT FROM lease) AND NOT EXISTS (SELECT FROM killed)),
placed AS (
    INSERT INTO orders SELECT n.* FROM may, jsonb_populate_recordset(NULL::orders, $6::jsonb) AS n
    ON CONFLICT (client_order_id) DO NOTHING
    RETURNING client_order_id),
noted AS (
    INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source, venue_time, recv_time, epoch, payload)
    SELECT e.client_order_id, e.event_id, e.event, e.from_state, e.to_state, e.source, e.venue_time, e.recv_time, e.epoch,
           e.payload
      FROM placed JOIN jsonb_populate_recordset(NULL::order_events, $7::jsonb) AS e USING (client_order_id)
    ON CONFLICT (client_order_id, event_id) DO NOTHING)
SELECT EXISTS (SELECT FROM lease) AS is_leader, EXISTS (SELECT FROM killed) AS is_killed,
       EXISTS (SELECT FROM may) AS is_taken, ARRAY(SELECT client_order_id FROM placed) AS placed;

-- name: deny
-- Keep a denied intent: the order row, its event and the signal's outcome in one statement, fenced by the lease's epoch.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
taken AS (
    UPDATE signals SET state = 'denied', client_order_id = $4, decided_at = $5, code = $8, detail = $9
     WHERE id = $3::uuid AND state = 'ready' AND EXISTS (SELECT FROM lease)
    RETURNING id),
placed AS (
    INSERT INTO orders SELECT n.* FROM taken, jsonb_populate_recordset(NULL::orders, $6::jsonb) AS n
    ON CONFLICT (client_order_id) DO NOTHING
    RETURNING client_order_id),
noted AS (
    INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source, venue_time, recv_time, epoch, payload)
    SELECT e.client_order_id, e.event_id, e.event, e.from_state, e.to_state, e.source, e.venue_time, e.recv_time, e.epoch,
           e.payload
      FROM placed JOIN jsonb_populate_recordset(NULL::order_events, $7::jsonb) AS e USING (client_order_id)
    ON CONFLICT (client_order_id, event_id) DO NOTHING)
SELECT EXISTS (SELECT FROM lease) AS is_leader, false AS is_killed,
       EXISTS (SELECT FROM taken) AS is_taken, ARRAY(SELECT client_order_id FROM placed) AS placed;

-- name: apply
-- What events did: orders, events, executions and positions together, or nothing when one of the executions is booked
-- already. A cancel that a person asked for through the door meanwhile is not overwritten. Fenced by the lease's epoch:
-- the share lock makes a takeover wait until what was written before it is there to be read.
WITH lease AS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2 FOR SHARE),
fresh AS (
    SELECT 1 FROM lease
     WHERE NOT EXISTS (SELECT FROM trades k JOIN jsonb_to_recordset($5::jsonb) AS w(fill_id uuid) USING (fill_id))),
changed AS (
    UPDATE orders o SET
           quantity = n.quantity, price = n.price, stop_price = n.stop_price, state = n.state,
           request = CASE WHEN o.request = 'cancel_wanted' AND n.request = 'none'
                           AND n.state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
                          THEN o.request ELSE n.request END,
           filled = n.filled, average_price = n.average_price, announced = n.announced,
           venue_time = n.venue_time, venue_order_id = n.venue_order_id, group_id = n.group_id, code = n.code,
           detail = n.detail, is_stale = n.is_stale, is_late = n.is_late, is_overfilled = n.is_overfilled,
           is_acknowledged = n.is_acknowledged, epoch = n.epoch, sent_at = n.sent_at, updated_at = n.updated_at
      FROM jsonb_populate_recordset(NULL::orders, $3::jsonb) AS n
     WHERE o.client_order_id = n.client_order_id AND o.epoch <= $2 AND EXISTS (SELECT FROM fresh)
    RETURNING o.client_order_id),
noted AS (
    INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source, venue_time, recv_time, epoch, payload)
    SELECT e.client_order_id, e.event_id, e.event, e.from_state, e.to_state, e.source, e.venue_time, e.recv_time, e.epoch,
           e.payload
      FROM jsonb_populate_recordset(NULL::order_events, $4::jsonb) AS e
     WHERE EXISTS (SELECT FROM fresh)
    ON CONFLICT (client_order_id, event_id) DO NOTHING),
booked AS (
    INSERT INTO trades (
        fill_id, client_order_id, venue_order_id, venue_trade_id, account_id, venue, symbol, instance,
        trade_type, quantity, price, fee, fee_currency, realized_pnl, order_type, is_maker, is_late, source,
        time)
    SELECT
        t.fill_id, t.client_order_id, t.venue_order_id, t.venue_trade_id, t.account_id, t.venue, t.symbol,
        t.instance, t.trade_type, t.quantity, t.price, t.fee, t.fee_currency, t.realized_pnl, t.order_type,
        t.is_maker, t.is_late, t.source, t.time
      FROM jsonb_populate_recordset(NULL::trades, $5::jsonb) AS t
     WHERE EXISTS (SELECT FROM fresh)
    ON CONFLICT (fill_id) DO NOTHING
    RETURNING fill_id),
moved AS (
    INSERT INTO positions (
        account_id, venue, symbol, instance, quantity, average_price, realized_pnl, fees, updated_at)
    SELECT
        p.account_id, p.venue, p.symbol, p.instance, p.quantity, p.average_price, p.realized_pnl, p.fees,
        p.updated_at
      FROM jsonb_populate_recordset(NULL::positions, $6::jsonb) AS p
     WHERE EXISTS (SELECT FROM fresh)
    ON CONFLICT (account_id, venue, symbol, instance) DO UPDATE
       SET quantity = excluded.quantity, average_price = excluded.average_price, realized_pnl = excluded.realized_pnl,
           fees = excluded.fees, updated_at = excluded.updated_at
    RETURNING symbol)
SELECT EXISTS (SELECT FROM lease) AS is_leader, EXISTS (SELECT FROM fresh) AS is_fresh, (SELECT count(*) FROM changed) AS changed,
       (SELECT count(*) FROM booked) AS booked, (SELECT count(*) FROM moved) AS moved;

-- name: open
-- Every order that may still fill, or whose executions are not all here.
SELECT * FROM orders
 WHERE venue = ANY($1::text[])
   AND (state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL') OR announced > filled)
 ORDER BY created_at;

-- name: get
-- One order by our id.
SELECT * FROM orders WHERE client_order_id = $1;

-- name: by_venue_id
-- One order by the venue's id.
SELECT * FROM orders WHERE venue = $1 AND symbol = $2 AND venue_order_id = $3;

-- name: legs
-- Every protection leg of these parents, all generations.
SELECT * FROM orders WHERE parent_id = ANY($1::text[]) ORDER BY created_at, generation;

-- name: guarded
-- The newest executed orders with SL or TP of one instance and symbol: what an open position is protected by.
SELECT * FROM orders
 WHERE account_id = $1 AND symbol = $2 AND instance = $3 AND filled > 0 AND role IN ('entry', 'order')
 ORDER BY created_at DESC LIMIT 20;

-- name: last_decision
-- The newest entry or exit of one instance and symbol that was not denied.
SELECT * FROM orders
 WHERE account_id = $1 AND symbol = $2 AND instance = $3 AND role IN ('entry', 'exit') AND state <> 'DENIED'
 ORDER BY created_at DESC, generation DESC LIMIT 1;

-- name: by_signal
-- The newest order that a signal led to; its protections carry the same signal and are not meant.
SELECT * FROM orders WHERE signal_id = $1 ORDER BY parent_id IS NOT NULL, created_at DESC, generation DESC LIMIT 1;

-- name: page
-- Page through orders, newest first.
SELECT * FROM orders
 WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR symbol = $2) AND ($3::text IS NULL OR instance = $3)
   AND ($4::int IS NULL OR account_id = $4) AND ($5::timestamptz IS NULL OR created_at < $5)
   AND (NOT $6::boolean OR state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL'))
 ORDER BY created_at DESC, client_order_id LIMIT $7;

-- name: events
-- Every step of one order, in order.
SELECT * FROM order_events WHERE client_order_id = $1 ORDER BY id;

-- name: want_cancel
-- Ask for the cancel of an order that is still open; the order manager picks it up.
WITH asked AS (
    UPDATE orders SET request = 'cancel_wanted', updated_at = $2
     WHERE client_order_id = $1 AND request = 'none'
       AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL')
    RETURNING *),
noted AS (
    INSERT INTO order_events (client_order_id, event_id, event, from_state, to_state, source, recv_time, epoch, payload)
    SELECT client_order_id, $3, 'CancelWanted', state, state, 'person', $2, epoch, $4::jsonb FROM asked
    ON CONFLICT (client_order_id, event_id) DO NOTHING)
SELECT * FROM asked;

-- name: wanted_cancels
-- Orders whose cancel a person asked for and that are still open.
SELECT client_order_id FROM orders
 WHERE venue = ANY($1::text[]) AND request = 'cancel_wanted'
   AND state IN ('INTENDED','SENDING','UNKNOWN','ACCEPTED','WORKING','PARTIAL');

-- name: fills
-- Page through executions, newest first.
SELECT * FROM trades
 WHERE ($1::text IS NULL OR symbol = $1) AND ($2::text IS NULL OR client_order_id = $2)
   AND ($3::text IS NULL OR instance = $3) AND ($4::int IS NULL OR account_id = $4) AND ($5::bigint IS NULL OR id < $5)
 ORDER BY id DESC LIMIT $6;

-- name: last_fills
-- The newest stored execution per symbol of an account.
SELECT symbol, max(time) AS time FROM trades WHERE account_id = $1 AND venue = $2 GROUP BY symbol;

-- name: realized_since
-- What each account realised since a moment, after fees that were taken in quote or base.
SELECT account_id, sum(realized_pnl) AS realized FROM trades WHERE time >= $1 GROUP BY account_id;

-- name: booked
-- Which of these executions are booked already.
SELECT ARRAY(SELECT fill_id FROM trades WHERE fill_id = ANY($1::uuid[]));
